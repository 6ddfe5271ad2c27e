"""Three small denoisers of the digits, one a seed, and what judges the digits that they draw.

Not an experiment: what `guidance_tradeoff` and `solvers_and_steps` share. A denoiser is a run of ``fmzoo pretrain
digits``, narrower than the preset; it is trained once, about three minutes on one core, and found again in its folder.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from verdicts import HOLDS

from fmzoo import data, evals, train
from fmzoo.models import Pretrained
from fmzoo.parallel.allocator import keep_heap
from fmzoo.pretrained import load
from fmzoo.stages import IMAGE_PRESETS, PretrainImagesConfig, pretrain_images
from fmzoo.stages.feature_networks import gather, train_classifier

SEEDS = (0, 1, 2)
FRAMING = data.Framing(8, 8, 1)
Results = dict[str, dict[tuple, np.ndarray]]  # by figure and cell, a value a seed


class Judge(NamedTuple):
    """A classifier that saw real training digits only, and the digits that samples are held against.

    Attributes:
      network: the classifier, whose 64 features distances compare.
      features: of the held-out digits, ``[N, 64]``.
      captions: of these digits, N: what the denoisers are asked for.
      labels: the same as numbers, ``[N]``.
      of_training_digits: the Fréchet distance of as many training digits to the held-out ones.
    """

    network: Pretrained
    features: np.ndarray
    captions: list[str]
    labels: np.ndarray
    of_training_digits: float


def config(seed: int) -> PretrainImagesConfig:
    """The preset with half its channels, and half its steps."""
    preset = IMAGE_PRESETS["digits"]
    denoiser = dataclasses.replace(preset.model.denoiser, channels=(16, 32), context_dim=32)
    encoder = dataclasses.replace(preset.model.encoder, d_model=32, d_ff=128)
    model = dataclasses.replace(preset.model, denoiser=denoiser, encoder=encoder)
    return dataclasses.replace(
        preset, model=model, steps=1000, checkpoint_every=500, seed=seed, data_seed=seed, ema=0.99, quiet=True
    )


def denoisers(runs: Path, configs: Sequence[PretrainImagesConfig]) -> list[Pretrained]:
    """One for each config, trained in ``runs/seed-N`` if that holds none yet."""
    for each in configs:
        pretrain_images(each, runs / f"seed-{each.seed}")
    return [load(runs / f"seed-{each.seed}", average=True) for each in configs]


def make_judge(count: int | None = None, seed: int = 0) -> Judge:
    """Trains the classifier, some seconds, and opens the held-out digits, or the first so many of them."""
    pictures = data.images("digits")
    network = train_classifier(pictures, FRAMING, seed=seed)
    images, captions, labels = gather(data.images("digits", "test"), FRAMING, count)
    features, training = (evals.image_features(network, rows) for rows in (images, gather(pictures, FRAMING)[0]))
    rng = np.random.default_rng(seed)
    draws = [training[rng.permutation(len(training))[: len(features)]] for _ in range(10)]
    least = float(np.mean([evals.frechet_distance(features, rows) for rows in draws]))
    return Judge(network, features, captions, labels, least)


def quality(judge: Judge, images: np.ndarray) -> dict[str, float]:
    """Figures of images drawn for the judge's captions, row by row, in [-1, 1] or ``uint8``."""
    features = evals.image_features(judge.network, images)
    near, covers = (
        evals.precision_recall(judge.features, features),
        evals.density_coverage(judge.features, features),
    )
    return {
        "accuracy": float(np.mean(evals.predict_labels(judge.network, images) == judge.labels)),
        "precision": near.precision,
        "recall": near.recall,
        "coverage": covers.coverage,
        "frechet": evals.frechet_distance(judge.features, features),
    }


def measured(
    log: Path, seeds: int, cells: Sequence[tuple], names: Sequence[str], measure: Callable[[int, list], Iterator[dict]]
) -> Results:
    """All figures of all cells; the log keeps them, a row a line, and what it holds is not measured again.

    Args:
      log: a file of JSON lines.
      seeds: how many.
      cells: what is measured, each by the values of its row that name it.
      names: of these values.
      measure: ``(seed, cells) -> figures`` of each cell in turn, what names it among them.
    """
    cell_of = lambda row: tuple(row[name] for name in names)  # noqa: E731
    for seed in range(seeds):
        there = {cell_of(row) for row in train.read_rows(log) if row["seed"] == seed}
        if missing := [cell for cell in cells if cell not in there]:
            for figures in measure(seed, missing):
                with log.open("a") as file:
                    file.write(json.dumps({"seed": seed} | figures) + "\n")
                print({"seed": seed} | figures, flush=True)
    rows = sorted(train.read_rows(log), key=lambda row: row["seed"])
    figures = [name for name in rows[0] if name not in ("seed", *names)]
    return {
        figure: {cell: np.array([row[figure] for row in rows if cell_of(row) == cell]) for cell in cells}
        for figure in figures
    }


def keys(seed: int, count: int) -> jax.Array:
    """A key for each row."""
    return jax.random.split(jax.random.key(seed), count)


def main(doc: str, run: Callable[[Sequence[PretrainImagesConfig], Path, Path], dict[str, str]]) -> None:
    """The command line of an experiment; it exits with 0 if every part of the claim holds, and else with 1.

    Args:
      doc: of the experiment's file.
      run: ``(configs, runs, workdir) -> verdicts`` by part: trains what ``runs`` lacks, and writes into ``workdir``.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="where the three denoisers are, or shall be")
    given = parser.parse_args()
    keep_heap()
    said = run([config(seed) for seed in SEEDS], given.runs, given.workdir)
    print(json.dumps(said, indent=2))
    raise SystemExit(0 if set(said.values()) == {HOLDS} else 1)
