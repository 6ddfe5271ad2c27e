"""``report.md`` of an autoencoder's run: how it went, what it makes of pictures, and the measure of its latents."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
from etils import epath

from fmzoo import data, generate, train
from fmzoo.errors import InputError
from fmzoo.interop.image_runs import LATENTS
from fmzoo.models import Pretrained
from fmzoo.stages.cached_latents import encode_pictures
from fmzoo.stages.image_report import count
from fmzoo.stages.picture_grid import grid, table, write_png, zoom_for
from fmzoo.stages.plots import plot_loss

MEASURED, SHOWN, ROWS = 1024, 8, 64  # pictures: most that are measured, shown, encoded at a time


def report_autoencoder(config: Any, workdir: epath.Path, pretrained: Pretrained, framing: data.Framing) -> None:
    """Writes ``latents.json``, ``loss.png``, ``reconstructions.png`` and, last of all, ``report.md``.

    Args:
      config: of the stage.
      workdir: of the run.
      pretrained: the autoencoder; without parameters, which several hosts have nowhere whole, nothing is measured.
      framing: of pictures.
    """
    rows = train.read_rows(workdir / "metrics.jsonl")
    losses = [{"step": row["step"], "loss": row["autoencoder/loss"]} for row in rows]
    plot_loss(losses, workdir / "loss.png", unit="loss of the autoencoder")
    figures = [("pictures", f"{config.batch_size} in a step, of {config.data}"), ("steps", f"{config.steps:,}")]
    lines = ["![loss by step](loss.png)", ""]
    if pretrained.params is not None:
        figures += measure(config, workdir, pretrained, framing)
        lines += ["Held-out pictures, and below each what its latent's mean gives back.", ""]
        lines += ["![reconstructions](reconstructions.png)", ""]
    skipped = sum(bool(row["autoencoder/skipped"]) for row in rows)
    title = f"# Pretraining of an autoencoder on {config.data}"
    train.replace_text(
        workdir / "report.md", "\n".join([title, "", *table([*figures, ("updates skipped", skipped)]), "", *lines])
    )


def measure(config: Any, workdir: epath.Path, pretrained: Pretrained, framing: data.Framing) -> list[tuple[str, Any]]:
    """Measures latents and reconstructions, writes ``latents.json`` and the pictures, and gives the figures."""
    still = dataclasses.replace(framing, crop="centre", flip=0.0)
    scale, shift, deviation = measure_latents(config, pretrained, still)
    train.replace_text(workdir / LATENTS, json.dumps({"scaling_factor": scale, "shift_factor": shift}) + "\n")
    split, pictures = held_out(config.data)
    image = np.float32([still.frame(picture.image, "").image for picture in pictures]) / 127.5 - 1
    made = np.asarray(jax.jit(pretrained.module.apply)({"params": pretrained.params}, image))
    shown = generate.to_bytes(np.concatenate([image[:SHOWN], made[:SHOWN]]))
    write_png(workdir / "reconstructions.png", grid(shown, len(shown) // 2, zoom_for(shown.shape[1], 64)))
    return [
        ("parameters", f"{count(pretrained.params):,}"),
        (f"squared error over {len(image)} pictures, {split}", f"{np.mean((made - image) ** 2):.5f}"),
        ("deviation of a latent drawn, before scaling", f"{deviation:.4f}"),
    ]


def measure_latents(config: Any, pretrained: Pretrained, framing: data.Framing) -> tuple[float, float, float]:
    """The scale and the shift that bring training pictures' latents to deviation 1 and mean 0, and the deviation."""
    pictures = data.images(config.data)
    few = Spread(pictures, MEASURED)
    kept = encode_pictures(pretrained.config, pretrained.params, few, framing, min(ROWS, len(few))).arrays
    shift = float(np.mean(kept["mean"], dtype=np.float64))
    variance = np.var(kept["mean"], dtype=np.float64) + np.mean(np.exp(np.float64(kept["logvar"])))
    return float(variance**-0.5), shift, float(variance**0.5)


class Spread:
    """Pictures spread evenly over a set."""

    def __init__(self, pictures: Any, most: int):
        self._pictures, self.classes = pictures, pictures.classes
        self._places = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round().astype(int)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> data.Picture:
        return self._pictures[int(self._places[index])]


def held_out(name: str) -> tuple[str, list[data.Picture]]:
    """Pictures of the validation split, else of the training set, and which they are."""
    try:
        pictures, split = data.images(name, "validation"), "not trained on"
    except InputError:
        pictures, split = data.images(name), "of the training set"
    few = Spread(pictures, ROWS)
    return split, [few[i] for i in range(len(few))]
