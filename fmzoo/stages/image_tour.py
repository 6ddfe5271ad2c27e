"""The tour of images: a text-to-image model of handwritten digits trained here and now, and what it draws."""

import os
from typing import Any

import jax
import numpy as np
from etils import epath

from fmzoo import data, diffusion, generate, train
from fmzoo.models import Pretrained
from fmzoo.pretrained import load
from fmzoo.stages.image_report import count, spread_captions
from fmzoo.stages.images import IMAGE_PRESETS, PretrainImagesConfig, pretrain_images
from fmzoo.stages.picture_grid import grid, table, write_png, zoom_for
from fmzoo.stages.plots import plot_loss
from fmzoo.stages.run_folder import check_workdir, is_finished
from fmzoo.stages.tour_folder import check_folder, open_console

CONFIG = IMAGE_PRESETS["digits"]
REPORT = "report.md"
CONTENTS = ("run", "noising.png", "prompts.png", "loss.png", REPORT)
SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)  # of guidance, a row of the grid each
FRAMES, STEPS = 10, 25  # of the strip, and of the solver


def image_tour(out: epath.PathLike, config: PretrainImagesConfig = CONFIG) -> bool:
    """Trains a text-to-image model, shows how noise comes and goes, and draws prompts at several scales of guidance.

    Shows each stage on standard output. The folder gets ``run/`` (a run folder like any other, for `fmzoo.load`),
    ``noising.png``, ``prompts.png``, ``loss.png`` and ``report.md``. A tour that was stopped goes on, a finished one
    says so.

    Args:
      out: a folder that is new, empty, or holds a tour.
      config: of the run.

    Returns:
      Whether it is finished; False if it was told to stop.

    Raises:
      InputError: the folder holds other things, or a tour of another config.
    """
    out, show = train.locate(out), open_console().print
    check_folder(out, CONTENTS)
    if check_workdir(config, out / "run") and is_finished(config, out / "run") and (out / REPORT).exists():
        show(f"The tour in {out} is finished; see {out / REPORT}, or draw more:\n  {_draw(out, config)}")
        return True
    pictures = data.images(config.data)
    show("1 of 3, training", style="bold")
    show(f"On {len(pictures):,} pictures of {config.model.size} x {config.model.size} with their captions, such as "
         f"{pictures[0].caption!r}, by {config.steps:,} steps of {config.batch_size}.")  # fmt: skip
    if not pretrain_images(config, out / "run"):
        show("Stopped and saved; the same line again goes on.")
        return False
    pretrained = load(out / "run", average=config.ema > 0)
    show("2 of 3, noise comes and goes", style="bold")
    write_strip(out / "noising.png", pretrained, pictures[0], config.seed)
    show(f"A picture drowned in noise, and noise led back to {pictures[0].caption!r}: {out / 'noising.png'}")
    show("3 of 3, drawing by prompt and guidance", style="bold")
    prompts = spread_captions(sorted(pictures, key=_caption_of), 10)
    write_scales(out / "prompts.png", pretrained, prompts, config.seed)
    show(f"A column for each of {'; '.join(prompts)}.")
    plot_loss(train.read_rows(out / "run" / "metrics.jsonl"), out / "loss.png", unit="squared error, weighted")
    train.replace_text(out / REPORT, write_up(config, out, pretrained, pictures, prompts))
    show(f"Written: {out / REPORT}. Draw more:\n  {_draw(out, config)}")
    return True


def write_strip(path: epath.Path, pretrained: Pretrained, picture: data.Picture, seed: int) -> None:
    """Three rows: a picture ever noisier; noise led to its caption; and what the model took that to be on the way."""
    rows = [noised(pretrained, picture, seed)]
    for what in ("sample", "estimate"):
        frames: list[np.ndarray] = []

        def keep(done: int, total: int, pictures: np.ndarray, frames: list[np.ndarray] = frames) -> None:
            del done, total
            frames.append(pictures[0])

        drawn = generate.images(
            pretrained, picture.caption, jax.random.key(seed), steps=STEPS, guidance_scale=3.0, on_preview=keep,
            preview_of=what,
        )  # fmt: skip
        chosen = np.linspace(0, len(frames) - 1, FRAMES - 1).round().astype(int)
        rows.append(np.stack([*(frames[i] for i in chosen), drawn[0]]))
    strip = np.concatenate(rows)
    write_png(path, grid(strip, FRAMES, zoom_for(strip.shape[1], 72)), {"caption": picture.caption, "seed": seed})


def noised(pretrained: Pretrained, picture: data.Picture, seed: int) -> np.ndarray:
    """A picture at rising noise levels, ``uint8 [FRAMES, H, W, 3]``."""
    side, channels = pretrained.config.denoiser.sample_size, pretrained.config.denoiser.in_channels
    framed = data.Framing(side, side, channels).frame(picture.image, "tour").image
    x0 = np.float32(framed) / 127.5 - 1
    levels = diffusion.plan(pretrained.config.process, "dpm++2m", FRAMES).rows
    noise = np.asarray(jax.random.normal(jax.random.key(seed), x0.shape))
    alpha, sigma = (levels[name][::-1, None, None, None] for name in ("alpha", "sigma"))
    return generate.to_bytes((alpha * x0 + sigma * noise) / np.hypot(alpha, sigma))


def write_scales(path: epath.Path, pretrained: Pretrained, prompts: list[str], seed: int) -> None:
    """A column for each prompt, a row for each scale of guidance; a column begins with one noise."""
    key = jax.random.key(seed)
    rows = [generate.images(pretrained, prompts, key, steps=STEPS, guidance_scale=scale) for scale in SCALES]
    metadata = {"prompts": "\n".join(prompts), "guidance_scales": SCALES, "steps": STEPS, "seed": seed}
    pictures = np.concatenate(rows)
    write_png(path, grid(pictures, len(prompts), zoom_for(pictures.shape[1], 64)), metadata)


def write_up(
    config: PretrainImagesConfig, out: epath.Path, pretrained: Pretrained, pictures: Any, prompts: list[str]
) -> str:
    """The text of ``report.md``: every figure with how it came about."""
    rows = train.read_rows(out / "run" / "metrics.jsonl")
    seconds = sum(row["seconds"] for row in train.read_rows(out / "run" / "timing.jsonl"))
    error, steps = train.closing_mean(rows, "mse")
    figures = table([
        ("parameters", f"{count(pretrained.params):,}"),
        ("training pictures", f"{len(pictures):,} of {config.data}"),
        ("steps", f"{config.steps:,} of {config.batch_size} pictures"),
        (f"squared error of the prediction, mean of the last {steps} steps", f"{error:.4f}"),
        ("time of the steps", f"{seconds:.0f} s on {os.cpu_count()} cores"),
    ])  # fmt: skip
    return "\n".join([
        "# A tour: pictures from words",
        "",
        f"`fmzoo tour --stages image --out {out}` trained a U-Net and an encoder of captions from nothing.",
        "",
        *figures,
        "",
        "## Noise comes and goes",
        "",
        "The first row is a picture of the training set at rising noise levels; the second is noise led to its caption "
        f"in {STEPS} steps; the third is what the model took that to be on the way.",
        "",
        "![noising and denoising](noising.png)",
        "",
        "## By prompt and guidance",
        "",
        f"Columns: {'; '.join(prompts)}. Rows, from the top: guidance scale {', '.join(f'{s:g}' for s in SCALES)}; 0 "
        "leaves the caption out, 1 is the model as it is. Each column begins with one noise.",
        "",
        "![prompts](prompts.png)",
        "",
        "![training loss by step](loss.png)",
        "",
        f"More: `{_draw(out, config)}`",
        "",
    ])  # fmt: skip


def _caption_of(picture: data.Picture) -> str:
    return picture.caption


def _draw(out: epath.Path, config: PretrainImagesConfig) -> str:
    caption = data.images(config.data)[0].caption
    return f'fmzoo draw {out / "run"} --prompt "{caption}" --out {out.parent / "drawn.png"}'
