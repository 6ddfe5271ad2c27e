"""Records as rows of tokens, with weights on what a model has to answer for, as the objectives read them."""

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from fmzoo.data.records import Conversation, Judged, Messages, Preference, Ranking
from fmzoo.errors import InputError
from fmzoo.text.chat import Rendered, render
from fmzoo.text.packing import Cursor, concatenate_row, fill_row, first_fit_row
from fmzoo.text.tokenizers import Tokenizer

Row = dict[str, np.ndarray]
PLANS = {"first_fit": first_fit_row, "concatenate_and_split": concatenate_row}


@dataclasses.dataclass(frozen=True)
class ChatRows:
    """Makes rows of one length from records, by one template.

    What is too long loses the beginning of its prompt (the same of both sides of a pair), and if the answer alone is
    longer, that one's end.

    Attributes:
      template: Jinja source, as `fmzoo.text.render` takes it.
      tokenizer: whose special tokens the template writes.
      length: T, tokens or pairs of tokens a row.
      today: for templates that tell the date; None is today.
    """

    template: str
    tokenizer: Tokenizer
    length: int
    today: datetime.date | None = None

    def __post_init__(self) -> None:
        """Refuses a row without room."""
        if self.length < 2:
            raise InputError(f"row length is {self.length}; at least 2 tokens are needed")

    def document(self, record: Conversation, train_on: Literal["assistant", "last", "all"] = "assistant") -> Rendered:
        """A conversation's tokens and weights, as long as they are."""
        return render(self.template, record.messages, self.tokenizer, train_on=train_on, today=self.today)

    def judged(self, record: Judged, other: Judged) -> Row:
        """A row for `fmzoo.objectives.kto`: ``inputs, targets, weights, segment_ids [T]``, ``desirable``.

        Args:
          record: whose prompt and completion are rated.
          other: one with another prompt, whose completion follows this prompt in the fields ``mismatched_...``.
        """
        own, wrong = (self._answered(record.prompt, r.completion) for r in (record, other))
        row = self._pairs(own, self._excess(own, self.length + 1))
        row |= _prefixed("mismatched", self._pairs(wrong, self._excess(wrong, self.length + 1)))
        return row | {"desirable": np.float32(record.desirable)}

    def preference(self, record: Preference) -> Row:
        """A row for `fmzoo.objectives.preference`: ``chosen_inputs [T]`` and so on, and ``weights``, 1."""
        sides = self._sides(record)
        excess = max(self._excess(side, self.length + 1) for side in sides.values())
        row: Row = {"weights": np.float32(1), **_ratings(record)}
        for name, side in sides.items():
            row |= _prefixed(name, self._pairs(side, excess))
        return row

    def scored(self, record: Preference) -> Row:
        """A row for `fmzoo.objectives.paired_scores`: ``chosen_inputs, chosen_segment_ids [T]`` of whole texts."""
        sides = self._sides(record)
        excess = max(self._excess(side, self.length) for side in sides.values())
        row: Row = {"weights": np.float32(1), **_ratings(record)}
        for name, side in sides.items():
            row |= _prefixed(name, self._whole(side, excess))
        return row

    def ranked(self, record: Ranking, most: int) -> Row:
        """A row for `fmzoo.objectives.ranked_scores`: ``inputs, segment_ids [K, T]``, ``ratings, weights [K]``.

        Args:
          record: at most ``most`` responses.
          most: K.
        """
        count = len(record.responses)
        if count > most:
            raise InputError(f"ranking has {count} responses; at most {most} fit in a row")
        texts = [self._answered(record.prompt, response) for response in record.responses]
        excess = max(self._excess(text, self.length) for text in texts)
        rows = [self._whole(text, excess) for text in texts]
        rows += [{name: np.zeros_like(value) for name, value in rows[0].items()}] * (most - count)
        ratings, weights = np.zeros(most, np.float32), np.zeros(most, np.float32)
        ratings[:count], weights[:count] = record.ratings, 1
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | {
            "ratings": ratings,
            "weights": weights,
        }

    def _sides(self, record: Preference) -> dict[str, Rendered]:
        texts = {"chosen": record.chosen, "rejected": record.rejected}
        return {name: self._answered(record.prompt, text) for name, text in texts.items()}

    def _answered(self, prompt: Messages, completion: str) -> Rendered:
        messages = (*prompt, {"role": "assistant", "content": completion})
        return render(self.template, messages, self.tokenizer, train_on="last", today=self.today)

    def _excess(self, text: Rendered, room: int) -> int:
        """How many tokens of the prompt do not fit; one is always left, from which the answer's first is predicted."""
        prompt = next((i for i, weight in enumerate(text.weights) if weight), len(text.tokens))
        return min(max(len(text.tokens) - room, 0), max(prompt - 1, 0))

    def _pairs(self, text: Rendered, excess: int) -> Row:
        """``inputs, targets, weights, segment_ids [T]``: each token with the one that follows."""
        end = excess + self.length + 1
        tokens, weights = text.tokens[excess:end], text.weights[excess:end]
        ids = np.asarray(tokens, np.int32)
        return {
            "inputs": self._filled(ids[:-1]),
            "targets": self._filled(ids[1:]),
            "weights": self._filled(np.asarray(weights[1:], np.float32)),
            "segment_ids": self._filled(np.ones(len(ids) - 1, np.int32)),
        }

    def _whole(self, text: Rendered, excess: int) -> Row:
        """``inputs, segment_ids [T]``: the tokens as they are."""
        ids = np.asarray(text.tokens[excess : excess + self.length], np.int32)
        return {"inputs": self._filled(ids), "segment_ids": self._filled(np.ones(len(ids), np.int32))}

    def _filled(self, values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, self.length - len(values)))


def pack_documents(
    documents: Sequence[Rendered], length: int, packing: Literal["first_fit", "concatenate_and_split"] = "first_fit"
) -> list[Row]:
    """Rows for `fmzoo.objectives.next_token` in which documents stand one after another and see only themselves.

    A document longer than a row is cut there, as its rest would stand without its question; one of which then no token
    counts is left out.

    Args:
      documents: tokens and weights, such as `ChatRows.document` gives.
      length: T.
      packing: how rows are filled.

    Returns:
      Rows of ``inputs, targets, positions, segment_ids int32[T]`` and ``weights float32[T]``.
    """
    cut = [(d.tokens[: length + 1], d.weights[: length + 1]) for d in documents]
    cut = [(tokens, weights) for tokens, weights in cut if any(weights[1:])]
    plan, cursor, rows = PLANS[packing], Cursor(), []

    def sizes(index: int) -> int | None:
        return len(cut[index][0]) - 1 if index < len(cut) else None

    while (planned := plan(cursor, sizes, length))[0]:
        pieces, cursor = planned
        rows.append(fill_row(pieces, lambda i: cut[i][0], length, lambda i: cut[i][1]))
    return rows


def stack_rows(rows: Sequence[Row], example_ids: Sequence[int]) -> Row:
    """A batch ``[B, ...]`` of rows, numbered by ``example_id int32[B]``."""
    batch: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return batch | {"example_id": np.asarray(example_ids, np.int32)}


def mismatch(index: int, prompts: Sequence[Messages]) -> int:
    """The next record, going round, whose prompt is another than that of record ``index``.

    Raises:
      InputError: all prompts are alike.
    """
    for step in range(1, len(prompts)):
        other = (index + step) % len(prompts)
        if prompts[other] != prompts[index]:
            return other
    raise InputError(f"all {len(prompts)} records have one prompt; KTO needs at least two that differ")


def _prefixed(prefix: str, row: Row) -> Row:
    return {f"{prefix}_{name}": value for name, value in row.items()}


def _ratings(record: Preference) -> Row:
    if record.chosen_rating is None or record.rejected_rating is None:
        return {}
    return {
        "chosen_rating": np.float32(record.chosen_rating),
        "rejected_rating": np.float32(record.rejected_rating),
    }
