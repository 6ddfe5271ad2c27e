"""Conversations as tokens, and which of them the model has to answer for, from one rendering of a template."""

import datetime
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from fmzoo.errors import InputError
from fmzoo.text.spans import Span, encode_specials
from fmzoo.text.templates import marks_answers, render_template
from fmzoo.text.tokenizers import Tokenizer

Message = Mapping[str, Any]
TRAINED = ("assistant", "last", "all", "none")
GUARD = "\ue0f7"  # put into the name of a special token where a person wrote it; a private character of Unicode


class Rendered(NamedTuple):
    """A conversation as a model reads it.

    Attributes:
      tokens: ids, special tokens included.
      weights: one for each token: 1.0 where the loss counts it, else 0.0.
      text: what the tokens say.
    """

    tokens: list[int]
    weights: list[float]
    text: str


def render(
    template: str,
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    add_generation_prompt: bool = False,
    train_on: Literal["assistant", "last", "all", "none"] = "assistant",
    today: datetime.date | None = None,
    **values: Any,
) -> Rendered:
    """Renders a conversation once and says which tokens are the assistant's.

    The assistant's turns are what the template marks by ``{% generation %}``, as transformers does. In one without
    marks a turn begins where the prompt before it ends, and ends where the rendering up to it does, blanks after its
    last special token left out. A special token counts only where the template writes it: one that stands in a message
    is encoded as text.

    Args:
      template: Jinja source; `fmzoo.text.CHAT_FORMATS` has some.
      messages: ``{"role": "system" | "user" | "assistant" | ..., "content": text}`` in order.
      tokenizer: whose special tokens the template writes.
      add_generation_prompt: end with the beginning of an assistant's turn.
      train_on: ``assistant``, all turns of the assistant; ``last``, the last of them; ``all`` tokens; ``none``.
      today: for templates that tell the date; None is today.
      **values: more names for the template, such as ``tools``.

    Returns:
      Tokens and weights of one length.

    Raises:
      InputError: a message lacks a role or content, no turn of the assistant is there to train on, the template fails
        or takes too much, or it hides where the prompt of a turn ends.
    """
    messages = check_messages(messages)
    if train_on not in TRAINED:
        raise InputError(f"train_on is {train_on!r}; one of {', '.join(TRAINED)} is needed")
    names = {f"{role}_token": _name(tokenizer, role) for role in ("bos", "eos", "pad")}
    values = {"tools": None, "documents": None, **names, **values}
    guarded = [_guard(message, tokenizer.specials) for message in messages]

    def run(messages: Sequence[Message], prompt: bool, mark: str = "") -> str:
        told = {**values, "messages": list(messages), "add_generation_prompt": prompt}
        return render_template(template, told, answer=lambda text: f"{mark}{text}{mark}", today=today)

    wanted = train_on in ("assistant", "last")
    if wanted and not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"conversation of {len(messages)} messages has no assistant turn; one to train on is needed")
    if wanted and marks_answers(template):
        text, spans = _between(run(guarded, add_generation_prompt, mark := secrets.token_hex(16)), mark)
    else:
        text = run(guarded, add_generation_prompt)
        spans = _by_prefix(run, guarded, text, tokenizer.specials) if wanted else []
    if train_on == "all":
        spans = [Span(0, len(text))]
    return _tokens(text, spans[-1:] if train_on == "last" else spans, tokenizer)


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as dicts of their own.

    Raises:
      InputError: there is none, or one lacks a role or content that is text.
    """
    if isinstance(messages, str | Mapping) or not messages:
        raise InputError("messages are missing; a list of objects with role and content is needed")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"message {i} has no role; an object with role and content is needed")
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise InputError(f"message {i} ({message['role'][:20]}) has no content; a text is needed")
    return [dict(message) for message in messages]


def _name(tokenizer: Tokenizer, role: str) -> str:
    index = getattr(tokenizer, f"{role}_id")
    return next((name for name, i in tokenizer.specials.items() if i == index and index is not None), "")


def _guard(value: Any, specials: Mapping[str, int]) -> Any:
    """A message in which no special token stands: a guard is put behind the first character of each."""
    if isinstance(value, str):
        for name in specials:
            value = value.replace(name, name[:1] + GUARD + name[1:]) if name in value else value
        return value
    if isinstance(value, Mapping):
        return {key: _guard(part, specials) for key, part in value.items()}
    return [_guard(part, specials) for part in value] if isinstance(value, list) else value


def _between(text: str, mark: str) -> tuple[str, list[Span]]:
    """The text without marks, and what stood between each pair of them."""
    plain, spans = "", []
    for i, part in enumerate(text.split(mark)):
        if i % 2:
            spans.append(Span(len(plain), len(plain) + len(part)))
        plain += part
    return plain, spans


def _by_prefix(run: Any, messages: list[dict[str, Any]], text: str, specials: Mapping[str, int]) -> list[Span]:
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, through = run(messages[:i], True), run(messages[: i + 1], False)
        same = next((j for j, (a, b) in enumerate(zip(text, through, strict=False)) if a != b), None)
        end = min(len(text), len(through)) if same is None else same
        if not text.startswith(before) or end <= len(before):
            raise InputError(
                f"chat template hides where the prompt of message {i} ends; one that marks answers by "
                "{% generation %}, or a built-in format is needed"
            )
        closed = text[len(before) : end].rstrip()
        if any(closed.endswith(name) for name in specials):
            end = len(before) + len(closed)
        spans.append(Span(len(before), end))
    return spans


def _tokens(text: str, spans: list[Span], tokenizer: Tokenizer) -> Rendered:
    ids, places = encode_specials(tokenizer, text, GUARD)
    weights, current = [], 0
    for place in places:
        while current < len(spans) and spans[current].end <= place.start:
            current += 1
        weights.append(float(current < len(spans) and place.meets(spans[current])))
    return Rendered(ids, weights, re.sub(GUARD, "", text))
