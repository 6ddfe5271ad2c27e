"""A conversation in the terminal: answers as they come, and a few commands."""

import dataclasses
import sys
from collections.abc import Callable

import jax
from etils import epath

from fmzoo import generate
from fmzoo.errors import InputError
from fmzoo.models import Pretrained
from fmzoo.models.checks import check_positive, check_seed
from fmzoo.text.files import write_json

HELP = """  /system TEXT   sets the system prompt and begins anew; without TEXT there is none
  /retry         answers the last message again
  /save FILE     writes the conversation as JSON
  /clear         begins anew
  /exit          ends, as does the end of input"""


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """How to answer.

    Attributes:
      system: the system prompt, or None.
      template: a name of `fmzoo.text.CHAT_FORMATS` or Jinja; None is the model's own.
      max_new_tokens: the longest answer; so much of the context is kept free for it.
      temperature: 0 takes the likeliest token each time.
      top_k: draw from the k likeliest tokens only.
      top_p: draw from the likeliest tokens that have this much of the probability.
      seed: the same seed and the same messages give the same answers.
    """

    system: str | None = None
    template: str | None = None
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_k: int | None = None
    top_p: float | None = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_positive(self, "max_new_tokens")
        check_seed(self)
        generate.SamplingConfig(self.temperature, self.top_k, self.top_p)


class Chat:
    """The state of a conversation and what the person's lines do to it."""

    def __init__(self, pretrained: Pretrained, config: ChatConfig, write: Callable[[str], None]):
        generate.find_template(pretrained, config.template)  # refuses before the first line is asked for
        params = generate.for_decoding(pretrained.params)
        self._pretrained = dataclasses.replace(pretrained, params=params)
        self._config, self._write, self._draws = config, write, 0
        self.messages: list[dict[str, str]] = []
        self._begin(config.system)

    def _begin(self, system: str | None) -> None:
        self._system = system
        self.messages = [{"role": "system", "content": system}] if system else []

    def hear(self, line: str) -> bool:
        """Does what a line says; False ends the conversation."""
        command, _, rest = line.strip().partition(" ")
        if not command:
            return True
        if command == "/exit":
            return False
        if command == "/system":
            self._begin(rest or None)
        elif command == "/clear":
            self._begin(self._system)
        elif command == "/save":
            self._save(rest)
        elif command == "/retry":
            self._retry()
        elif command.startswith("/"):
            self._write(f"{HELP}\n")
        else:
            self.messages.append({"role": "user", "content": line.strip()})
            self._answer()
        return True

    def _retry(self) -> None:
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if not self.messages or self.messages[-1]["role"] != "user":
            raise InputError("there is no message to answer again; say something first")
        self._answer()

    def _save(self, path: str) -> None:
        if not path or not (path := epath.Path(path)).parent.is_dir() or path.is_dir():
            raise InputError("/save needs a file in a folder that is there; /save talk.json")
        try:
            write_json(path, {"messages": self.messages})
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); another file is needed") from None
        self._write(f"{len(self.messages)} messages are in {path}\n")

    def _answer(self) -> None:
        c = self._config
        try:
            prompt = generate.chat_prompt(
                self._pretrained, self.messages, template=c.template, max_new_tokens=c.max_new_tokens
            )
        except InputError:
            self.messages.pop()
            raise
        if prompt.dropped:
            self._write(f"[the oldest {prompt.dropped} messages no longer fit and are left out]\n")
        answer = self._say(prompt)
        self.messages.append({"role": "assistant", "content": answer.text.strip()})
        used, room = len(prompt.tokens) + len(answer.tokens), self._pretrained.config.context_length
        cut = f"; cut at {c.max_new_tokens} tokens" if answer.ended_by == "length" else ""
        self._write(f"\n[{used:,} of {room:,} tokens of context{cut}]\n")

    def _say(self, prompt: generate.ChatPrompt) -> generate.Completion:
        c, self._draws = self._config, self._draws + 1
        key = jax.random.fold_in(jax.random.key(c.seed), self._draws)
        (answer,) = generate.text(
            self._pretrained, [prompt.tokens], key, stop=prompt.stop, max_new_tokens=c.max_new_tokens,
            temperature=c.temperature, top_k=c.top_k, top_p=c.top_p, on_text=lambda _, piece: self._write(piece),
        )  # fmt: skip
        return answer


def _show(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def chat(
    pretrained: Pretrained,
    config: ChatConfig = ChatConfig(),
    read: Callable[[], str] = lambda: input("> "),
    write: Callable[[str], None] = _show,
) -> list[dict[str, str]]:
    """Talks until the person ends it; a mistake is told in one sentence and the conversation goes on.

    Args:
      pretrained: a decoder with a tokenizer.
      config: how to answer.
      read: gives the person's next line, or raises EOFError.
      write: shows a piece of text.

    Returns:
      The messages, the system prompt first if there is one.

    Raises:
      InputError: the model cannot hold a conversation.
    """
    talk = Chat(pretrained, config, write)
    write("/help tells the commands\n")
    while True:
        try:
            if not talk.hear(read()):
                return talk.messages
        except (EOFError, KeyboardInterrupt):
            write("\n")
            return talk.messages
        except InputError as error:
            write(f"{error}\n")
