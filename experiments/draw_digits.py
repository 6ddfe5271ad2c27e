"""Digits drawn as asked: a model trained for some minutes on two cores, judged by networks that saw real digits only.

Claim: a classifier of real digits names at least 97 % of 1,000 guided samples as they were asked for, and the Fréchet
distance of those samples to held-out digits is at most 3 times that of training digits to the same held-out ones (sets
of equal size, 64 features of the classifier, means over draws of the sets), after at most ten minutes of training.

    python experiments/draw_digits.py --workdir digits

Hardware: two CPU cores. The pictures are scikit-learn's 8x8 digits; ``fmzoo pretrain digits`` is the training.
"""

from pathlib import Path

import jax
import numpy as np
from one_claim import main

from fmzoo import data, evals, generate, train
from fmzoo.pretrained import load
from fmzoo.stages.feature_networks import gather, train_classifier
from fmzoo.stages.images import IMAGE_PRESETS, PretrainImagesConfig, pretrain_images
from fmzoo.stages.picture_grid import grid, write_png, zoom_for

CONFIG = IMAGE_PRESETS["digits"]
SAMPLES, GUIDANCE, STEPS, DRAWS = 1000, 2.0, 25, 10
MOST_WRONG, MOST_RATIO, MOST_SECONDS = 0.03, 3.0, 600


def draw(pretrained, classes: tuple[str, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Guided samples ``uint8 [SAMPLES, 8, 8, 1]`` and the classes they were asked for, each as often."""
    asked = np.arange(SAMPLES) % len(classes)
    prompts = [f"the digit {classes[label]}" for label in asked]
    found = generate.images(pretrained, prompts, jax.random.key(seed), steps=STEPS, guidance_scale=GUIDANCE)
    return found[..., :1], asked


def distances(held_out: np.ndarray, others: dict[str, np.ndarray], seed: int = 0) -> dict[str, float]:
    """Mean Fréchet distances to the held-out features, over draws of as many rows from each of the others."""
    rng, means = np.random.default_rng(seed), {}
    for name, features in others.items():
        chosen = [rng.permutation(len(features))[: len(held_out)] for _ in range(DRAWS)]
        means[name] = float(np.mean([evals.frechet_distance(held_out, features[rows]) for rows in chosen]))
    return means


def run(config: PretrainImagesConfig, workdir: Path) -> dict:
    """Trains, draws, judges; writes ``samples.png`` and ``report.md``, and says whether the claim holds."""
    pretrain_images(config, workdir / "run")
    seconds = sum(row["seconds"] for row in train.read_rows(workdir / "run" / "timing.jsonl"))
    pictures = data.images("digits")
    framing = data.Framing(8, 8, 1)
    samples, asked = draw(load(workdir / "run", average=True), pictures.classes, config.seed)
    judge = train_classifier(pictures, framing)
    real, held_out = (gather(data.images("digits", split), framing) for split in ("train", "test"))
    right = float(np.mean(evals.predict_labels(judge, samples) == asked))
    of_real = float(np.mean(evals.predict_labels(judge, held_out[0]) == held_out[2]))
    others = {
        "samples": evals.image_features(judge, samples),
        "training digits": evals.image_features(judge, real[0]),
    }
    found = distances(evals.image_features(judge, held_out[0]), others)
    ratio = found["samples"] / found["training digits"]
    holds = right >= 1 - MOST_WRONG and ratio <= MOST_RATIO and seconds <= MOST_SECONDS
    write_png(
        workdir / "samples.png", grid(samples[:100].repeat(3, axis=-1), 10, zoom_for(8, 48)), {"seed": config.seed}
    )
    verdict = f"""# Digits drawn as asked

Verdict: the claim {"holds" if holds else "FAILS"}, after {seconds / 60:.1f} minutes of training.

| what | value |
| --- | ---: |
| samples that the classifier names as asked | {right:.1%} of {SAMPLES:,} |
| real held-out digits that it names right | {of_real:.1%} of {len(held_out[2]):,} |
| Fréchet distance of samples to held-out digits | {found["samples"]:.3f} |
| the same of training digits | {found["training digits"]:.3f} |
| ratio | {ratio:.2f} |

Guidance {GUIDANCE}, {STEPS} steps of dpm++2m, {len(held_out[2])} pictures in each set, means over {DRAWS} draws.

![a hundred samples, column by class](samples.png)
"""
    train.replace_text(workdir / "report.md", verdict)
    return {"holds": holds, "named_as_asked": right, "ratio": round(ratio, 3), "seconds": round(seconds, 1), **found}


if __name__ == "__main__":
    main(__doc__, CONFIG, run)
