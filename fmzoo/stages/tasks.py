"""The classic uses over files: summarize, extract, answer, write."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath

from fmzoo import generate, prompts
from fmzoo.errors import InputError
from fmzoo.models import Pretrained
from fmzoo.models.checks import check_positive, check_seed
from fmzoo.text.files import read_bytes, read_json


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """How to answer.

    Attributes:
      template: a name of `fmzoo.text.CHAT_FORMATS` or Jinja; None is the model's own.
      max_new_tokens: the longest answer.
      temperature: 0 takes the likeliest token each time.
      seed: the same seed gives the same answer to the same text.
    """

    template: str | None = None
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_positive(self, "max_new_tokens")
        check_seed(self)
        generate.SamplingConfig(self.temperature)


class Model:
    """A model ready to answer one message after another."""

    def __init__(self, pretrained: Pretrained, config: TaskConfig = TaskConfig()):
        generate.find_template(pretrained, config.template)
        self.pretrained = dataclasses.replace(pretrained, params=generate.for_decoding(pretrained.params))
        self.config = config

    def prompt(self, messages: prompts.Messages) -> generate.ChatPrompt:
        """The prompt of messages, none of which may be left out.

        Raises:
          InputError: it is too long for the context.
        """
        c = self.config
        return generate.chat_prompt(self.pretrained, messages, template=c.template, max_new_tokens=c.max_new_tokens)

    def stream(self, messages: prompts.Messages) -> Iterator[str]:
        """The answer in pieces."""
        c, prompt = self.config, self.prompt(messages)
        return generate.stream(
            self.pretrained, prompt.tokens, jax.random.key(c.seed), stop=prompt.stop,
            max_new_tokens=c.max_new_tokens, temperature=c.temperature,
        )  # fmt: skip

    def say(self, messages: prompts.Messages) -> str:
        """The answer, without blanks around it."""
        return "".join(self.stream(messages)).strip()


def summarize(model: Model, text: str, words: int = 80) -> str:
    """A summary; of a text too long for the context, the summary of the summaries of its parts.

    Raises:
      InputError: the text is empty, or the context has no room even for a small part.
    """
    while True:
        parts = _fitting(model, text, words)
        if len(parts) == 1:
            return model.say(prompts.summarize_in(parts[0], words))
        shorter = "\n\n".join(model.say(prompts.summarize_in(part, words)) for part in parts)
        if len(shorter) >= len(text):
            raise InputError(f"summaries of {len(parts)} parts are no shorter than the text; fewer --words is needed")
        text = shorter


def _fitting(model: Model, text: str, words: int) -> list[str]:
    """The text in the fewest equal parts, cut between paragraphs or words, that fit the context."""
    for count in (1 << i for i in range(12)):
        parts = _cut(text, count)
        try:
            for part in parts:
                model.prompt(prompts.summarize_in(part, words))
        except InputError:
            if count > len(text) // 200:
                raise
            continue
        return parts
    raise InputError(f"the text has {len(text):,} characters, too many for a summary of summaries")


def _cut(text: str, count: int) -> list[str]:
    parts, start = [], 0
    for i in range(1, count):
        ideal = len(text) * i // count
        for mark in ("\n\n", "\n", " "):
            place = text.rfind(mark, max(start, ideal - len(text) // (2 * count)), ideal)
            if place > start:
                break
        place = place if place > start else ideal
        parts.append(text[start:place])
        start = place
    return [part for part in [*parts, text[start:]] if part.strip()]


def extract(model: Model, text: str, schema: Any) -> Any:
    """What a text says, as a value of a JSON schema, whatever the model is.

    Raises:
      InputError: as `extractions`.
    """
    (answer,) = extractions(model, [text], schema)
    return json.loads(answer.text)


def extractions(
    model: Model, texts: Sequence[str], schema: Any, example_ids: Sequence[int] | None = None
) -> list[generate.Completion]:
    """The JSON that `extract` reads, of texts that are read together, a row each.

    Args:
      model: to ask.
      texts: any.
      schema: a JSON schema.
      example_ids: a number for each text that its randomness is keyed by; None is 0 for all.

    Raises:
      InputError: a text is empty or too long, the schema unusable, or any answer needs more than max_new_tokens.
    """
    pretrained, c = model.pretrained, model.config
    constraint = generate.Constraint(pretrained.tokenizer, generate.json_schema(schema), pretrained.stop_ids)
    return generate.constrained(
        pretrained, [model.prompt(prompts.extract_as(text, schema)).tokens for text in texts], constraint,
        jax.random.key(c.seed), max_new_tokens=c.max_new_tokens, temperature=c.temperature,
        example_ids=[0] * len(texts) if example_ids is None else example_ids,
    )  # fmt: skip


def read_schema(path: str) -> Any:
    """The JSON schema in a file.

    Raises:
      InputError: there is none, or it is no JSON object.
    """
    if not epath.Path(path).exists():
        raise InputError(f"schema {path} does not exist; a file with a JSON schema is needed")
    return read_json(epath.Path(path))


def read_texts(files: Sequence[str]) -> list[tuple[str, str]]:
    """The names and texts of files, or of standard input where none is named.

    Raises:
      InputError: a file is missing, is not UTF-8, or holds nothing.
    """
    texts = [(name, _read(epath.Path(name))) for name in files] or [("standard input", sys.stdin.read())]
    for name, text in texts:
        if not text.strip():
            raise InputError(f"{name} holds no text; one is needed")
    return texts


def _read(path: epath.Path) -> str:
    if not path.is_file():
        raise InputError(f"{path} is no file; a text file is needed")
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8; a text file is needed") from None
