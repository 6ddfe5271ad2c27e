"""Commands of the classic uses: summarize, extract, answer, write."""

import dataclasses
import json
from typing import Annotated

from tyro.conf import Positional, arg

from fmzoo.cli.starting import Source, load_text, start_computing

Files = Positional[Annotated[tuple[str, ...], arg(metavar="FILE")]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """What all of them take."""

    source: Source  # a run folder, a folder in the format of transformers, a GGUF file, or a name of the zoo
    template: str | None = None  # llama2, llama3, chatml, gemma, mistral, phi, or Jinja; the model's own by default
    max_new_tokens: int = 256  # the longest answer
    temperature: float = 0.0  # 0 takes the likeliest token each time
    seed: int = 0  # the same seed gives the same answer to the same text

    def start(self):
        """Loads the model."""
        start_computing()
        from fmzoo.stages.tasks import Model, TaskConfig

        names = [field.name for field in dataclasses.fields(TaskConfig)]
        config = TaskConfig(**{name: getattr(self, name) for name in names})  # refuses before weights are read
        return Model(load_text(self.source), config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summarize(_Task):
    """Summarizes texts; one too long for the model's context in parts, whose summaries are summarized."""

    files: Files = ()  # standard input if there is none
    words: int = 80  # of a summary, at most

    def run(self) -> None:
        """Prints a summary of each."""
        from fmzoo.stages import tasks

        texts = tasks.read_texts(self.files)
        model = self.start()
        for name, text in texts:
            found = tasks.summarize(model, text, self.words)
            print(f"{name}: {found}" if len(texts) > 1 else found, flush=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extract(_Task):
    """Says what texts hold as JSON of a schema, valid whatever the model does."""

    schema: str  # a file with a JSON schema
    files: Files = ()  # standard input if there is none

    def run(self) -> None:
        """Prints one line of JSON for each."""
        from fmzoo.stages import tasks

        schema, texts = tasks.read_schema(self.schema), tasks.read_texts(self.files)
        model = self.start()
        for _, text in texts:
            print(json.dumps(tasks.extract(model, text, schema), ensure_ascii=False), flush=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer(_Task):
    """Answers a question, from the files if there are any."""

    question: str  # what to answer
    files: Files = ()  # texts to answer from

    def run(self) -> None:
        """Prints an answer for each text, as it comes."""
        from fmzoo import prompts
        from fmzoo.stages import tasks

        texts = [text for _, text in tasks.read_texts(self.files)] if self.files else [None]
        model = self.start()
        for text in texts:
            _print_pieces(model.stream(prompts.answer_from(self.question, text)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Write(_Task):
    """Writes about something."""

    about: str  # what to write
    words: int = 200  # about how many
    temperature: float = 0.8

    def run(self) -> None:
        """Prints the text as it comes."""
        from fmzoo import prompts

        _print_pieces(self.start().stream(prompts.write_about(self.about, self.words)))


def _print_pieces(pieces) -> None:
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
