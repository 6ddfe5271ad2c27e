"""Records of instruction tuning and feedback: what a line of any published layout becomes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

Message = Mapping[str, Any]  # {"role": "system" | "user" | "assistant" | ..., "content": text}
Messages = tuple[Message, ...]


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Messages of which at least one is the assistant's."""

    messages: Messages


@dataclasses.dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the first of them preferred; with ratings where the source has them."""

    prompt: Messages
    chosen: str
    rejected: str
    chosen_rating: float | None = None
    rejected_rating: float | None = None


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Answers to one prompt with a rating of each; more is better."""

    prompt: Messages
    responses: tuple[str, ...]
    ratings: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Judged:
    """One answer to a prompt, and whether it is wanted."""

    prompt: Messages
    completion: str
    desirable: bool


@dataclasses.dataclass(frozen=True)
class Problem:
    """A prompt to answer: with a worked solution and the final answer where the source has them, else empty texts."""

    prompt: Messages
    solution: str = ""
    answer: str = ""


Record = Conversation | Preference | Ranking | Judged | Problem
