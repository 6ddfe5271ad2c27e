"""``report.md`` of an image run: what was trained, how it went, what it draws."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from fmzoo import data, generate, train
from fmzoo.errors import InputError
from fmzoo.models import Pretrained
from fmzoo.models.denoiser import class_count, needed_conditions
from fmzoo.stages.picture_grid import grid, table, write_png, zoom_for
from fmzoo.stages.plots import plot_loss

SAMPLES, EACH = 8, 4  # prompts in the grid, and pictures of each
TITLES = {"pretrain_images": "Pretraining", "finetune_images": "Fine-tuning"}


def report_images(config: Any, workdir: epath.Path, pretrained: Pretrained, prompts: Sequence[Any]) -> None:
    """Writes ``report.md``, ``loss.png`` and ``samples.png`` into a finished run's folder.

    Args:
      config: of the stage.
      workdir: of the run.
      pretrained: what is drawn with; without parameters, which several hosts have nowhere whole, nothing is.
      prompts: a row of the samples each.
    """
    rows = train.read_rows(workdir / "metrics.jsonl")
    plot_loss(rows, workdir / "loss.png", unit="squared error, weighted")
    error, steps = train.closing_mean(rows, "mse")
    figures = [
        ("parameters", f"{count(pretrained.params):,}" if pretrained.params else "on several hosts"),
        ("pictures", f"{config.batch_size} in a step, of {config.data}"),
        ("steps", f"{config.steps:,}"),
        (f"squared error of the prediction, mean of the last {steps} steps", f"{error:.4f}"),
        ("updates skipped", sum(bool(row.get("skipped")) for row in rows)),
    ]
    lines = [f"# {TITLES[config.stage]} on {config.data}", "", *table(figures), "", "![loss by step](loss.png)", ""]
    if pretrained.params is not None:
        write_samples(workdir / "samples.png", pretrained, prompts, config.seed)
        named = "; ".join(map(str, prompts))
        lines += [f"Guided samples, {EACH} in a row, of: {named}.", "", "![samples](samples.png)", ""]
    train.replace_text(workdir / "report.md", "\n".join(lines))


def count(params: Any) -> int:
    """How many numbers a tree holds."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(params))


def training_prompts(config: Any, pretrained: Pretrained, limit: int = SAMPLES) -> list[Any]:
    """Captions of the training set spread over it, the first classes, or nothing to say."""
    if not pretrained.config.encoders:
        known = "label" in needed_conditions(pretrained.config.denoiser)
        return list(range(min(limit, class_count(pretrained.config.denoiser)))) if known else [""]
    try:
        return spread_captions(data.images(config.data), limit)
    except InputError:
        return [""]


def spread_captions(pictures: Sequence[data.Picture], limit: int) -> list[str]:
    """Different captions, evenly spread over a set in its order."""
    known = list(dict.fromkeys(pictures[i].caption for i in range(0, len(pictures), max(len(pictures) // 256, 1))))
    return [known[i] for i in np.linspace(0, len(known) - 1, min(limit, len(known))).round().astype(int)]


def write_samples(path: epath.Path, pretrained: Pretrained, prompts: Sequence[Any], seed: int) -> None:
    """A grid with a row for each prompt, ``EACH`` pictures of it."""
    repeated = [prompt for prompt in prompts for _ in range(EACH)]
    found = generate.images(pretrained, repeated, jax.random.key(seed), steps=20, guidance_scale=3.0)
    metadata = {"prompts": "\n".join(map(str, prompts)), "solver": "dpm++2m", "steps": 20, "guidance_scale": 3.0}
    write_png(path, grid(found, EACH, zoom_for(found.shape[1], 64)), metadata | {"seed": seed})
