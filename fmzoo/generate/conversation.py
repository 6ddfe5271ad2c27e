"""A conversation as a prompt: the template's tokens, the turns that fit, and what ends the answer."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fmzoo.errors import InputError
from fmzoo.models import Pretrained
from fmzoo.text import CHAT_FORMATS, Rendered, render
from fmzoo.text.chat import check_messages


class ChatPrompt(NamedTuple):
    """What `fmzoo.generate.text` and `stream` take for the next answer of a conversation.

    Attributes:
      tokens: the prompt.
      stop: names of special tokens that end the answer.
      dropped: how many of the oldest messages were left out to make room.
    """

    tokens: list[int]
    stop: tuple[str, ...]
    dropped: int


def chat_prompt(
    pretrained: Pretrained,
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str | None = None,
    max_new_tokens: int = 256,
    **values: Any,
) -> ChatPrompt:
    """The prompt for the assistant's next turn.

    Where prompt and answer are longer than the context, the oldest messages are left out, a user's with the answers to
    it, until they fit; a system message at the beginning stays.

    Args:
      pretrained: a decoder with a tokenizer.
      messages: ``{"role": ..., "content": ...}`` in order, the last one not the assistant's.
      template: a name of `fmzoo.text.CHAT_FORMATS` or a Jinja source; None is the model's own.
      max_new_tokens: for how long an answer there shall be room.
      **values: more names for the template.

    Raises:
      InputError: there is no template or no tokenizer, the template refuses the messages, or the last message alone
        is too long.
    """
    source, messages = find_template(pretrained, template), check_messages(messages)
    if messages[-1]["role"] == "assistant":
        raise InputError("the last message is the assistant's; one to answer is needed after it")
    room = pretrained.config.context_length - max_new_tokens

    def tokens(kept: list[dict[str, Any]]) -> Rendered:
        return render(source, kept, pretrained.tokenizer, add_generation_prompt=True, train_on="none", **values)

    system, turns = _split(messages)
    starts = [i for i, message in enumerate(turns) if message["role"] == "user"] or [0]
    starts[0] = 0
    for start in starts:
        found = tokens(system + turns[start:]).tokens
        if len(found) <= room:
            return ChatPrompt(found, _ends(source, pretrained.tokenizer), start)
    raise InputError(
        f"the last message makes a prompt of {len(found)} tokens; at most {max(room, 0)} leave room for "
        f"max_new_tokens={max_new_tokens} in the context of {pretrained.config.context_length}"
    )


def find_template(pretrained: Pretrained, template: str | None = None) -> str:
    """The Jinja source of a format by name, of a source, or the model's own.

    Raises:
      InputError: there is none, or the model has no tokenizer.
    """
    if pretrained.tokenizer is None:
        raise InputError("the model has no tokenizer; one with a tokenizer is needed for a conversation")
    if template is None and pretrained.chat_template is None:
        raise InputError(f"the model carries no chat template; name a format: {', '.join(CHAT_FORMATS)}")
    if template is None:
        return pretrained.chat_template
    if template in CHAT_FORMATS:
        return CHAT_FORMATS[template]
    if "{" not in template:
        raise InputError(f"chat format {template[:60]!r} is not known; {', '.join(CHAT_FORMATS)} or Jinja is needed")
    return template


def _split(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A system message at the beginning, if there is one, and the turns."""
    first = 1 if messages[0]["role"] == "system" and len(messages) > 1 else 0
    return messages[:first], messages[first:]


def _ends(template: str, tokenizer: Any) -> tuple[str, ...]:
    """The special token by which the template closes an answer, if it does so by one."""
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        said = render(template, talk, tokenizer)
    except InputError:
        return ()
    names = {i: name for name, i in tokenizer.specials.items()}
    answer = [token for token, weight in zip(said.tokens, said.weights, strict=True) if weight]
    return (names[answer[-1]],) if answer and answer[-1] in names else ()
