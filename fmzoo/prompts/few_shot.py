"""Examples in the prompt (arXiv 2005.14165, section 2), chosen at random or near the question (2101.06804)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fmzoo.errors import InputError, require
from fmzoo.prompts.tasks import Messages


class Example(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


def with_examples(instruction: str, examples: Sequence[Example], question: str) -> Messages:
    """A conversation in which each example is a turn that was answered, and the question comes last."""
    messages = [{"role": "system", "content": instruction}] if instruction else []
    for example in examples:
        messages += [
            {"role": "user", "content": example.question},
            {"role": "assistant", "content": example.answer},
        ]
    return [*messages, {"role": "user", "content": question}]


def choose_at_random(examples: Sequence[Example], count: int, rng: np.random.Generator) -> list[Example]:
    """So many different examples, each answer as often as the others as far as the number divides.

    Raises:
      InputError: there are fewer examples.
    """
    _check(examples, count)
    by_answer: dict[str, list[Example]] = {}
    for i in rng.permutation(len(examples)):
        by_answer.setdefault(examples[i].answer, []).append(examples[i])
    rounds = max(map(len, by_answer.values()), default=0)
    order = [group[i] for i in range(rounds) for group in _shuffled(list(by_answer.values()), rng) if i < len(group)]
    return [order[i] for i in rng.permutation(count)]


def choose_nearest(examples: Sequence[Example], count: int, embeddings: np.ndarray, query: np.ndarray) -> list[Example]:
    """The examples whose embeddings are nearest to the question's by cosine, the nearest last, next to the question.

    Args:
      examples: N of them.
      count: how many.
      embeddings: ``float[N, D]``.
      query: ``float[D]``.

    Raises:
      InputError: there are fewer examples, or the shapes do not fit.
    """
    _check(examples, count)
    sizes = require("embeddings", embeddings, "N D")
    require("query", query, "D", sizes)
    if sizes["N"] != len(examples):
        raise InputError(f"embeddings are of {sizes['N']} examples; {len(examples)} are needed")
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(query)
    near = embeddings @ query / np.maximum(lengths, np.finfo(np.float32).tiny)
    return [examples[i] for i in np.argsort(near, kind="stable")[len(examples) - count :]]


def _check(examples: Sequence[Example], count: int) -> None:
    if not 0 <= count <= len(examples):
        raise InputError(f"count is {count}; from 0 to {len(examples)} examples are there")


def _shuffled(items: list, rng: np.random.Generator) -> list:
    return [items[i] for i in rng.permutation(len(items))]
