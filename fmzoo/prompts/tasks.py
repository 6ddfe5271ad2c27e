"""The classic uses of a language model, each as the messages of a conversation."""

import json
from collections.abc import Mapping
from typing import Any

from fmzoo.errors import InputError

Messages = list[dict[str, str]]


def summarize_in(text: str, words: int = 80) -> Messages:
    """Asks for a summary of a text in about so many words.

    Raises:
      InputError: the text is empty, or the number of words below 1.
    """
    if words < 1:
        raise InputError(f"words is {words}; at least 1 is needed")
    return _ask(
        f"Summarize the text in at most {words} words. Use only what it says. Answer with the summary alone.",
        f"Text:\n{_some('text', text)}\n\nSummary:",
    )


def extract_as(text: str, schema: Mapping[str, Any]) -> Messages:
    """Asks for what a text says, as JSON of a schema. Only a constraint (`fmzoo.generate.Constraint`) holds it to that.

    Raises:
      InputError: the text is empty.
    """
    shape = json.dumps(schema, ensure_ascii=False)
    return _ask(
        "Extract from the text what the JSON schema asks for. Answer with the JSON alone.",
        f"Schema: {shape}\n\nText:\n{_some('text', text)}\n\nJSON:",
    )


def answer_from(question: str, text: str | None = None) -> Messages:
    """Asks a question, about a text if one is given.

    Raises:
      InputError: the question or the text is empty.
    """
    if text is None:
        return _ask("Answer the question briefly and truthfully.", _some("question", question))
    return _ask(
        "Answer the question from the text alone, briefly. If the text does not say, answer: The text does not say.",
        f"Text:\n{_some('text', text)}\n\nQuestion: {_some('question', question)}",
    )


def write_about(request: str, words: int = 200) -> Messages:
    """Asks for a text about something.

    Raises:
      InputError: the request is empty, or the number of words below 1.
    """
    if words < 1:
        raise InputError(f"words is {words}; at least 1 is needed")
    return _ask(
        f"You are a careful writer. Write what is asked for, in about {words} words, without remarks about it.",
        _some("request", request),
    )


def _ask(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _some(name: str, value: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} is empty; a text is needed")
    return value.strip()
