"""Drawing a grid of pictures into a file, as the command does it."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from fmzoo import generate, train
from fmzoo.errors import InputError
from fmzoo.models import Pretrained
from fmzoo.models.checks import check_seed
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.pretrained import keeps_average, load
from fmzoo.stages.picture_grid import grid, write_png, zoom_for


@dataclasses.dataclass(frozen=True)
class DrawConfig:
    """What to draw, and how."""

    prompt: str = ""
    negative: str | None = None
    count: int = 4  # pictures of it
    solver: str = "dpm++2m"
    steps: int = 25
    guidance: float = 5.0
    seed: int = 0
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_seed(self)
        if self.count < 1:
            raise InputError(f"count is {self.count}; at least 1 is needed")
        if (self.height is None) != (self.width is None):
            raise InputError(f"height is {self.height} and width is {self.width}; both or neither are needed")


def draw(source: epath.PathLike, out: epath.PathLike, config: DrawConfig = DrawConfig()) -> None:
    """Draws and writes a PNG, its settings in the PNG's text; a bar shows how far it is.

    Args:
      source: what `fmzoo.load` takes; of a run that keeps a moving average, that is drawn with.
      out: a file that ends in ``.png``.
      config: what to draw, and how.

    Raises:
      InputError: the source holds no image model, the file is no PNG, or anything that `fmzoo.generate.images` refuses.
    """
    out = train.locate(out)
    if out.suffix.lower() != ".png":
        raise InputError(f"out {out} ends in {out.suffix!r}; .png is needed")
    if out.is_dir():
        raise InputError(f"out {out} is a folder; the name of a new file is needed")
    pretrained = load_average(source)
    if not isinstance(pretrained.config, TextToImageConfig):
        raise InputError(f"source {source} draws no pictures; one that does is needed (fmzoo generate is for text)")
    pictures = draw_shown(pretrained, config)
    settings = {"source": source, **{k: v for k, v in dataclasses.asdict(config).items() if v is not None}}
    write_png(out, grid(pictures, zoom=zoom_for(pictures.shape[1])), settings)


def load_average(source: epath.PathLike) -> Pretrained:
    """Loads a model, a run's by its moving average if it keeps one."""
    return load(source, average=keeps_average(source))


def draw_shown(pretrained: Pretrained, config: DrawConfig) -> np.ndarray:
    """``count`` pictures of a prompt, ``uint8 [B, H, W, 3]``, with a bar of the evaluations."""
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task("drawing", total=None)

        def show(done: int, total: int, pictures: Any) -> None:
            del pictures
            bar.update(task, completed=done, total=total)

        return generate.images(
            pretrained,
            [config.prompt] * config.count,
            jax.random.key(config.seed),
            solver=config.solver,
            steps=config.steps,
            guidance_scale=config.guidance,
            negative=config.negative,
            size=None if config.height is None else (config.height, config.width),
            on_preview=show,
        )
