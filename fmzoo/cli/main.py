"""Finds the command, and says a mistake in one sentence.

A command is a frozen dataclass of its arguments with a `run`. What it needs is imported when it runs, so that `--help`
answers at once.
"""

import os
import sys
from collections.abc import Sequence

from fmzoo.arguments import parse
from fmzoo.cli.images import Draw
from fmzoo.cli.tasks import Answer, Extract, Summarize, Write
from fmzoo.cli.text import Audit, Chat, Eval, Generate
from fmzoo.cli.training import Tour, finetune, pretrain
from fmzoo.cli.zoo import Convert, Info, Zoo
from fmzoo.errors import InputError, nearest

LONGEST = 299  # characters of a sentence on standard error

COMMANDS = {
    "tour": Tour, "pretrain": None, "finetune": None, "generate": Generate, "chat": Chat, "summarize": Summarize,
    "extract": Extract, "answer": Answer, "write": Write, "draw": Draw, "eval": Eval, "audit": Audit, "info": Info,
    "convert": Convert, "zoo": Zoo,
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
  fmzoo summarize SOURCE [FILE ...]           summarizes texts, of any length
  fmzoo extract SOURCE --schema FILE [FILE ...]
                                              what texts say, as JSON of a schema
  fmzoo answer SOURCE --question TEXT [FILE ...]
                                              answers a question, from texts if there are any
  fmzoo write SOURCE --about TEXT             writes about something
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


def _refuse(message: str) -> int:
    """Prints a sentence on standard error, in one line."""
    message = " ".join(message.split())
    print(message if len(message) <= LONGEST else message[: LONGEST - 3] + "...", file=sys.stderr)
    return 2
