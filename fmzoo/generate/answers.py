"""One row's answer as its tokens arrive on the host: text in whole characters, cut before a stop string."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from fmzoo.text import StreamDecoder, Tokenizer

LEAD = 16  # prompt tokens that the answer's first characters may lean on


@dataclasses.dataclass(frozen=True)
class Completion:
    """What followed a prompt.

    Attributes:
      text: the answer, without stop string or stop id; empty if the model has no tokenizer.
      tokens: all token ids drawn, those that spelled the stop string and the stop id included.
      log_probs: ``[len(tokens)]`` under the distribution that each was drawn from (`fmzoo.generate.Decoded`).
      model_log_probs: ``[len(tokens)]`` under the model itself, at temperature 1 and without limits.
      ended_by: a stop id (such as eos), a stop string, or the limit on length.
    """

    text: str
    tokens: tuple[int, ...]
    log_probs: np.ndarray
    model_log_probs: np.ndarray
    ended_by: Literal["id", "string", "length"]


class StopStrings:
    """Finds the first stop string to be complete, and holds back text that may become one.

    >>> scanner = StopStrings(["END"])
    >>> [scanner.push(piece) for piece in ("a E", "N", "T E", "ND b")], scanner.found
    (['a ', '', 'ENT ', ''], True)
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Takes more text and returns what is certain to stand before any stop string."""
        if self.found:
            return ""
        self._held += text
        ends = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if ends:
            self.found = True
            return self._release(min(ends)[1])
        return self._release(len(self._held) - self._longest_beginning())

    def finish(self) -> str:
        """Returns what was held back, now that nothing follows."""
        return "" if self.found else self._release(len(self._held))

    def _release(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text

    def _longest_beginning(self) -> int:
        """The length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        ends = (self._held[-size:] for size in range(min(longest, len(self._held)), 0, -1))
        return next((len(end) for end in ends if any(stop.startswith(end) for stop in self._stops)), 0)


class Answer:
    """The growing answer to one prompt."""

    def __init__(self, tokenizer: Tokenizer | None, prompt: Sequence[int], stop_ids: Sequence[int], stops: list[str]):
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer)
        self._stop_ids, self._stops = frozenset(stop_ids), StopStrings(stops)
        self._text: list[str] = []
        self.length = 0
        self.ended_by: Literal["id", "string", "length"] | None = None
        if self._decoder is not None:
            for token in prompt[-LEAD:]:
                self._decoder.push(token)

    def push(self, tokens: Sequence[int]) -> str:
        """Takes tokens up to the end of the answer and returns the text that they make certain."""
        before = len(self._text)
        for token in tokens:
            if self.ended_by is not None:
                break
            self.length += 1
            if token in self._stop_ids:
                self.finish("id")
            elif self._decoder is not None:
                self._say(self._decoder.push(token))
        return "".join(self._text[before:])

    def finish(self, ended_by: Literal["id", "length"]) -> str:
        """Ends the answer and returns the text that was held back."""
        if self.ended_by is not None:
            return ""
        before = len(self._text)
        if self._decoder is not None:
            self._say(self._decoder.finish())
        if self.ended_by is None:
            self.ended_by = ended_by
            self._text.append(self._stops.finish())
        return "".join(self._text[before:])

    def _say(self, text: str) -> None:
        self._text.append(self._stops.push(text))
        if self._stops.found:
            self.ended_by = "string"

    def completion(self, tokens: np.ndarray, log_probs: np.ndarray, model_log_probs: np.ndarray) -> Completion:
        """The finished answer, from one row of `fmzoo.generate.Decoded`."""
        n = self.length
        drawn = tuple(int(token) for token in tokens[:n])
        return Completion("".join(self._text), drawn, log_probs[:n], model_log_probs[:n], self.ended_by)
