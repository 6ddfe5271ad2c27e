"""The `fmzoo` command: parse, call one function, print.

A command is a frozen dataclass of its arguments with a `run`. What it needs is imported when it runs, so that `--help`
answers at once.
"""

import dataclasses
import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from fmzoo.arguments import parse
from fmzoo.errors import InputError, nearest

Source = Positional[Annotated[str, arg(metavar="SOURCE")]]
LONGEST = 299  # characters of a sentence on standard error


@dataclasses.dataclass(frozen=True)
class Tour:
    """Trains a model here and now: of Shakespeare, Milton and the King James Bible, or of handwritten digits."""

    out: str  # a new folder for the run, its report and its pictures
    stages: Literal["text", "image"] = "text"
    steps: int | None = None  # of training; fewer make a shorter tour and a poorer model

    def run(self) -> None:
        """Runs the stages named."""
        start_computing()
        if self.stages == "image":
            from fmzoo.stages.image_tour import CONFIG
            from fmzoo.stages.image_tour import image_tour as tour
        else:
            from fmzoo.stages.tour import CONFIG, tour

        tour(self.out, CONFIG if self.steps is None else dataclasses.replace(CONFIG, steps=self.steps))


@dataclasses.dataclass(frozen=True)
class Draw:
    """Draws pictures of a prompt into one PNG, the settings in its metadata."""

    source: Source  # a run folder, or a folder in the format of diffusers
    prompt: str  # what to draw; the number of a class, for a model of classes
    out: str  # the PNG
    negative: str | None = None  # what to lead away from
    count: int = 4  # pictures
    solver: str = "dpm++2m"
    steps: int = 25
    guidance: float = 5.0  # 1 is none
    seed: int = 0  # the same seed gives the same pictures
    height: int | None = None  # of a picture, with width; the model's own by default
    width: int | None = None

    def run(self) -> None:
        """Draws, with a bar."""
        start_computing()
        from fmzoo.stages.draw import DrawConfig, draw

        names = [field.name for field in dataclasses.fields(DrawConfig)]
        draw(self.source, self.out, DrawConfig(**{name: getattr(self, name) for name in names}))
        print(f"{self.out} is written")


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
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}; a whole number from 0 to {2**32 - 1} is needed")
        start_computing()
        import jax

        from fmzoo import generate

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
        chat(load_text(self.source), ChatConfig(**{name: getattr(self, name) for name in names}))


@dataclasses.dataclass(frozen=True)
class Eval:
    """Measures perplexity and bits per byte over whole documents."""

    source: Source  # a run folder, or a folder in the format of transformers
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


@dataclasses.dataclass(frozen=True)
class Info:
    """Says what a model is and what it costs, without its weights."""

    source: Source  # a run folder, a folder in the format of transformers, or a name of the zoo

    def run(self) -> None:
        """Prints the figures, then the config field by field."""
        from fmzoo.stages.describe import describe

        found = describe(self.source)
        context, flops = f"{found.config.context_length:,} tokens", (found.forward_flops, found.training_flops)
        active = f", {found.active:,} for one token" if found.active < found.parameters else ""
        rows = {
            "source": found.source,
            "parameters": f"{found.parameters:,}" + active,
            "FLOPs a token": f"{flops[0]:,.0f} forward, {flops[1]:,.0f} in training, at {context}",
            "cache": f"{found.cache_bytes:,} bytes for a sequence of {context} in {found.config.dtype}",
            "memory": f"{found.weight_bytes:,} bytes of float32 weights; {found.training_bytes:,} to train with Adam, "
            "activations on top",
        }  # fmt: skip
        if found.steps:
            rows["checkpoints"] = ", ".join(map(str, found.steps))
        for name, value in {**rows, **dict(_fields(found.config, "model."))}.items():
            print(f"{name:<36} {value}")


@dataclasses.dataclass(frozen=True)
class Convert:
    """Writes a model in another format, into a new folder or, for GGUF, a new file."""

    source: Source  # whatever loads: a run folder, a path, or a name of the zoo
    folder: Positional[Annotated[str, arg(metavar="FOLDER")]]  # that is not there yet; NAME.gguf is a file
    format: str = "huggingface"  # or diffusers (of systems that draw), gguf, gguf-q8_0, gguf-f32
    dtype: str = "float32"  # what the parameters are held and, but for gguf, written in

    def run(self) -> None:
        """Converts."""
        start_computing()
        from fmzoo.pretrained import check_format, load, save

        check_format(self.format)
        save(load(self.source, self.dtype), self.folder, self.format)
        print(f"{self.folder} is written")


@dataclasses.dataclass(frozen=True)
class Zoo:
    """Lists the published systems that have a name here."""

    def run(self) -> None:
        """Prints a table."""
        from rich.console import Console
        from rich.table import Table

        from fmzoo import zoo

        table = Table("name", "parameters", "system", "public", box=None, header_style="bold")
        table.columns[1].justify = "right"
        for entry in map(zoo.entry, zoo.names()):
            table.add_row(entry.name, f"{entry.parameters:,}", entry.system, entry.public)
        Console(width=None if sys.stdout.isatty() else 160).print(table)


COMMANDS = {
    "tour": Tour, "pretrain": None, "finetune": None, "generate": Generate, "chat": Chat, "draw": Draw, "eval": Eval,
    "audit": Audit, "info": Info, "convert": Convert, "zoo": Zoo,
}  # fmt: skip
HELP = """usage: fmzoo COMMAND ...

fmzoo: foundation models as pure functions in JAX and Flax.

  fmzoo tour --out FOLDER                     trains a language model here and now, and lets it speak
  fmzoo tour --stages image --out FOLDER      trains a text-to-image model here and now, and lets it draw
  fmzoo pretrain PRESET --workdir FOLDER      trains from scratch; PRESET is tiny, small or a name of the zoo (text),
                                              digits, mnist or emoji (images), digits-autoencoder or
                                              emoji-autoencoder (latents for images)
  fmzoo finetune SOURCE --data FOLDER --workdir FOLDER
                                              trains adapters of a system that draws on pictures of your own
  fmzoo generate SOURCE --prompt TEXT         continues a prompt
  fmzoo chat SOURCE                           holds a conversation
  fmzoo draw SOURCE --prompt TEXT --out PNG   draws a prompt
  fmzoo eval SOURCE --data SOURCE             perplexity and bits per byte
  fmzoo audit SOURCE                          whether packing, pads, cache and decoding change nothing
  fmzoo info SOURCE                           what a model is and what it costs
  fmzoo convert SOURCE FOLDER --format FORMAT writes a model in the format of transformers, diffusers or llama.cpp
  fmzoo zoo                                   the published systems that have a name here

SOURCE is a run folder, a path or a name of the zoo. Each command has a --help of its own.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0, 1 if an audit fails, 2 after a mistake, 130 after an interrupt."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(arguments) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        return _refuse(str(error))
    except OSError as error:
        name = str(error.filename or "a file")[:100]
        return _refuse(f"{name}: {error.strerror or error}; another path, or room on it, is needed")
    except ImportError as error:
        if error.__cause__ is None:
            raise
        return _refuse(f"{error}, or a local path is needed")  # what fsspec says of a scheme that it cannot serve


def run(arguments: Sequence[str]) -> int | None:
    """Parses and runs a command, and returns its exit status if it has one of its own.

    Raises:
      InputError: the user's mistake, found by the parser or by what it calls.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return None
    command, *rest = arguments
    if command == "--version":
        from fmzoo import __version__

        print(__version__)
    elif command not in COMMANDS:
        raise InputError(f"fmzoo has no command {command[:60]!r}; {nearest(command, COMMANDS)}")
    elif command == "pretrain":
        pretrain(rest)
    elif command == "finetune":
        finetune(rest)
    else:
        return parse(COMMANDS[command], rest, f"fmzoo {command}").run()
    return None


def pretrain(arguments: Sequence[str]) -> None:
    """``fmzoo pretrain PRESET --workdir FOLDER``, with every field of the preset's config as an option by its path."""
    start_computing()
    from fmzoo import models, stages

    asks_help = arguments[:1] in (["-h"], ["--help"])
    if not asks_help and (not arguments or arguments[0].startswith("-")):
        raise InputError(
            "fmzoo pretrain needs a PRESET first; tiny, small, digits, mnist, emoji, digits-autoencoder, "
            "emoji-autoencoder or a name of the zoo (fmzoo zoo)"
        )
    name, rest = ("tiny", arguments) if asks_help else (arguments[0], arguments[1:])
    config = stages.preset(name)
    asks_rope = any(a.replace("_", "-").startswith("--model.local-rope") for a in rest)
    if asks_rope and isinstance(config, stages.PretrainConfig) and config.model.local_rope is None:
        model = dataclasses.replace(config.model, local_rope=models.RopeConfig())
        config = dataclasses.replace(config, model=model)

    kind = type(config)

    @dataclasses.dataclass(frozen=True)
    class Pretrain:
        """Trains a model from scratch, or goes on where the folder's run stopped."""

        workdir: str  # of the run: the same line again goes on
        config: Annotated[kind, arg(name="")]

    command = f"fmzoo pretrain {'PRESET' if asks_help else name}"
    given = parse(Pretrain, rest, command, Pretrain(MISSING, config))
    report_run(given.config, given.workdir)


def finetune(arguments: Sequence[str]) -> None:
    """``fmzoo finetune SOURCE --data FOLDER --workdir FOLDER``, the stage chosen by what SOURCE holds."""
    start_computing()
    from fmzoo import stages

    asks_help = arguments[:1] in (["-h"], ["--help"])
    if not asks_help and (not arguments or arguments[0].startswith("-")):
        raise InputError("fmzoo finetune needs a SOURCE first; the folder of a run, or of a model to load, is needed")
    source, rest = ("SOURCE", arguments) if asks_help else (arguments[0], arguments[1:])
    config = stages.FinetuneImagesConfig(source=source) if asks_help else stages.finetuning(source)
    kind = type(config)

    @dataclasses.dataclass(frozen=True)
    class Finetune:
        """Trains low-rank adapters of a model, or goes on where the folder's run stopped."""

        workdir: str  # of the run: the same line again goes on
        config: Annotated[kind, arg(name="")]

    default = Finetune(MISSING, dataclasses.replace(config, data=MISSING))
    given = parse(Finetune, rest, f"fmzoo finetune {source}", default)
    report_run(given.config, given.workdir)


def report_run(config: Any, workdir: str) -> None:
    """Runs a stage and says how it ended."""
    from fmzoo import stages

    was_finished = stages.is_finished(config, workdir)
    run = getattr(stages, config.stage)
    if not run(config, workdir):
        print(f"{workdir} is stopped and saved; the same line again goes on")
    elif was_finished:
        print(f"{workdir} is finished: all {config.steps:,} steps are taken; a larger --steps goes on")
    else:
        print(f"{workdir} is finished; see {os.path.join(workdir, 'report.md')}")


def load_text(source: str) -> Any:
    """Loads a model of text.

    Raises:
      InputError: it is one of images.
    """
    from fmzoo import load, models

    pretrained = load(source)
    if not isinstance(pretrained.config, models.DecoderConfig):
        raise InputError(f"source {source} is a model of images; one of text is needed (fmzoo draw is for images)")
    return pretrained


def start_computing() -> None:
    """Sets up this process for JAX: the allocator keeps its memory, and what was compiled is kept between runs.

    What libraries log of checkpoints is left out: standard error is for one sentence about a mistake.
    Compiled programs go to ``~/.cache/fmzoo/xla``, or ``$XDG_CACHE_HOME/fmzoo/xla``; ``JAX_COMPILATION_CACHE_DIR`` puts
    them elsewhere, or nowhere if it is empty.
    """
    from fmzoo.parallel.allocator import keep_heap

    keep_heap()
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if getattr(sys.unraisablehook, "func", None) is not _hear_unraisable:
        sys.unraisablehook = functools.partial(_hear_unraisable, sys.unraisablehook)
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "fmzoo", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _hear_unraisable(others: Callable[[Any], None], error: Any) -> None:
    """Passes over what the readers of a damaged checkpoint say after its sentence was said."""
    if not (isinstance(error.exc_value, RuntimeError) and "Event loop is closed" in str(error.exc_value)):
        others(error)


def _refuse(message: str) -> int:
    """Prints a sentence on standard error, in one line."""
    message = " ".join(message.split())
    print(message if len(message) <= LONGEST else message[: LONGEST - 3] + "...", file=sys.stderr)
    return 2


def _fields(config: Any, prefix: str) -> list[tuple[str, Any]]:
    """Every field of nested dataclasses with its path as an option."""
    found = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        found += _fields(value, f"{name}.") if dataclasses.is_dataclass(value) else [(name, value)]
    return found
