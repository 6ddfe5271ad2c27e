"""Commands that train."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import arg

from fmzoo.arguments import parse
from fmzoo.cli.starting import start_computing
from fmzoo.errors import InputError


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
    config = stages.FinetuneTextConfig(source=source) if asks_help else stages.finetuning(source)
    kind = type(config)

    @dataclasses.dataclass(frozen=True)
    class Finetune:
        """Trains a model further, by adapters unless told otherwise, or goes on where the folder's run stopped."""

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
