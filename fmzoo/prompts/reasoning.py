"""Reasoning aloud (arXiv 2201.11903, 2205.11916) and the vote over several ways (self-consistency, 2203.11171)."""

import collections
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from fmzoo.prompts.tasks import Messages

STEPS = "Think step by step, then write the result on a last line of its own, after 'Answer:'."
MARK = re.compile(r"\banswer\**(?:\s+is\b\s*[:=]?|\s*[:=])[\s*]*", re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")


class Vote(NamedTuple):
    """What several answers agree on.

    Attributes:
      answer: the one given most often, the first of equals; None if none could be read.
      share: of all answers that gave it.
      counts: of each that was read.
    """

    answer: str | None
    share: float
    counts: dict[str, int]


def think_aloud(messages: Messages) -> Messages:
    """The same conversation, whose last message asks for the steps before the answer."""
    *before, last = messages
    return [*before, {**last, "content": f"{last['content'].rstrip()}\n\n{STEPS}"}]


def final_answer(text: str, number: bool = False) -> str | None:
    """The line behind the last ``Answer:``, ``answer =`` or ``answer is`` of a text, without a full stop; else None.

    With ``number`` the first number there, or else the last one of the text, commas left out.
    """
    marks = list(MARK.finditer(text))
    said = text[marks[-1].end() :].partition("\n")[0].rstrip().rstrip(".*").strip() if marks else ""
    if not number:
        return said or None
    found = NUMBER.findall(said)[:1] or NUMBER.findall(text)[-1:]
    return found[0].replace(",", "") if found else None


def self_consistency(texts: Iterable[str], read: Callable[[str], str | None] = final_answer) -> Vote:
    """The answer that most of several samples come to.

    Args:
      texts: answers drawn at a temperature above 0.
      read: what finds the result in one, None if it has none.
    """
    found = [read(text) for text in texts]
    counts = collections.Counter(answer for answer in found if answer is not None)
    if not counts:
        return Vote(None, 0.0, {})
    answer, times = counts.most_common(1)[0]
    return Vote(answer, times / len(found), dict(counts))
