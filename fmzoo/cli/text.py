"""Commands of models of text."""

import dataclasses
import sys

from fmzoo.cli.starting import Source, load_text, start_computing


@dataclasses.dataclass(frozen=True)
class Generate:
    """Continues a prompt and prints the answer as it comes."""

    source: Source  # a run folder, a folder in the format of transformers, a GGUF file, or a name of the zoo
    prompt: str  # the text to continue, or the question where the model has a chat template
    raw: bool = False  # continue the prompt as it stands, chat template or not
    max_new_tokens: int = 128  # the longest answer
    temperature: float | None = None  # 0 takes the likeliest token each time; by default 0 for a question, else 0.8
    top_k: int | None = None  # draw from the k likeliest tokens only
    top_p: float | None = None  # draw from the likeliest tokens that have this much of the probability
    seed: int = 0  # the same seed gives the same answer

    def run(self) -> None:
        """Streams the answer."""
        start_computing()
        import jax

        from fmzoo import generate
        from fmzoo.models.checks import check_seed

        check_seed(self)
        pretrained, prompt, stop = load_text(self.source), self.prompt, ()
        if pretrained.chat_template is not None and not self.raw:
            turns = [{"role": "user", "content": prompt}]
            prompt, stop, _ = generate.chat_prompt(pretrained, turns, max_new_tokens=self.max_new_tokens)
        sampling = {name: getattr(self, name) for name in ("max_new_tokens", "top_k", "top_p")}
        default = 0.8 if isinstance(prompt, str) else 0.0
        sampling["temperature"] = default if self.temperature is None else self.temperature
        for piece in generate.stream(pretrained, prompt, jax.random.key(self.seed), stop=stop, **sampling):
            print(piece, end="", flush=True)
        print()


@dataclasses.dataclass(frozen=True)
class Chat:
    """Holds a conversation; /help tells its commands."""

    source: Source  # a run folder, a folder in the format of transformers, a GGUF file, or a name of the zoo
    system: str | None = None  # the system prompt
    template: str | None = None  # llama2, llama3, chatml, gemma, mistral, phi, or Jinja; the model's own by default
    max_new_tokens: int = 256  # the longest answer, for which so much of the context is kept free
    temperature: float = 0.7  # 0 takes the likeliest token each time
    top_k: int | None = None  # draw from the k likeliest tokens only
    top_p: float | None = 0.95  # draw from the likeliest tokens that have this much of the probability
    seed: int = 0  # the same seed and the same messages give the same answers

    def run(self) -> None:
        """Talks until the end of input."""
        start_computing()
        from fmzoo.stages.chat import ChatConfig, chat

        names = [field.name for field in dataclasses.fields(ChatConfig)]
        config = ChatConfig(**{name: getattr(self, name) for name in names})  # refuses before weights are read
        chat(load_text(self.source), config)


@dataclasses.dataclass(frozen=True)
class Eval:
    """Measures perplexity and bits per byte over whole documents."""

    source: Source  # a run folder, a folder in the format of transformers, a GGUF file, or a name of the zoo
    data: str  # what `fmzoo pretrain --data` takes
    split: str | None = None  # None: test, or else validation, or else what there is
    field: str = "text"  # of a record: what holds the text

    def run(self) -> None:
        """Measures and prints."""
        start_computing()
        from fmzoo import data, evals

        split = self.split or next((s for s in ("test", "validation") if s in data.splits(self.data)), "all")
        documents = data.source(self.data, split, self.field)
        found = evals.perplexity(load_text(self.source), documents)
        print(
            f"{self.data}, split {split}: {len(documents):,} documents, {found.bytes:,} bytes, {found.tokens:,} tokens"
        )
        print(f"bits per byte  {found.bits_per_byte:.4f}")
        print(f"perplexity     {found.perplexity:.3f} a token")


@dataclasses.dataclass(frozen=True)
class Audit:
    """Checks that packing, pads, the cache and decoding change nothing; exit 1 where one does."""

    source: Source  # a run folder, a folder in the format of transformers, a GGUF file, or a name of the zoo

    def run(self) -> int:
        """Prints a table of what passed."""
        start_computing()
        from rich.console import Console
        from rich.table import Table

        from fmzoo import evals

        pretrained = load_text(self.source)
        table = Table("", "check", "error", "limit", "what was compared", box=None, header_style="bold")
        found = evals.audit(pretrained.module, pretrained.params)
        for check in found:
            verdict = "pass" if check.passed else "FAIL"
            table.add_row(verdict, check.name, f"{check.error:.1e}", f"{check.limit:.0e}", check.detail)
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        return 0 if all(check.passed for check in found) else 1
