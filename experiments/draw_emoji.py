"""Emoji drawn from captions that were never seen: an object and a skin tone, each known, but not together.

Claim: of 64 pictures drawn for 64 held-out captions, an image-text encoder trained on the training set finds the own
caption first at least 5 times as often as chance would among all 64, and at least 3 times as often as chance among
those of the same tone, where the object alone decides; after at most 45 minutes of training.

    python experiments/draw_emoji.py --workdir emoji

Hardware: two CPU cores. The pictures are the 3,375 emoji of 32x32 with their names that come with the package;
``fmzoo pretrain emoji`` is the training, and the same line goes on where a stopped run stands.
"""

from pathlib import Path

import jax
import numpy as np
from one_claim import main

from fmzoo import data, evals, generate, train
from fmzoo.data.embedded_images import records
from fmzoo.models import Pretrained
from fmzoo.pretrained import load
from fmzoo.stages.feature_networks import gather, train_image_text
from fmzoo.stages.images import IMAGE_PRESETS, PretrainImagesConfig, pretrain_images
from fmzoo.stages.picture_grid import grid, write_png

CONFIG = IMAGE_PRESETS["emoji"]
FRAMING, GUIDANCE, STEPS, DRAWS, COLUMNS = data.Framing(32, 32, 3), 3.0, 25, 4, 16
LEAST_OF_ALL, LEAST_OF_TONE, MOST_SECONDS = 5.0, 3.0, 2700
Rates = dict[str, float]


def draw(pretrained: Pretrained, captions: list[str], seed: int) -> list[np.ndarray]:
    """Guided samples ``uint8 [64, 32, 32, 3]`` of the captions, drawn ``DRAWS`` times from different noise."""
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    return [generate.images(pretrained, captions, key, steps=STEPS, guidance_scale=GUIDANCE) for key in keys]


def rates(judge: Pretrained, draws: list[np.ndarray], captions: list[str], tones: np.ndarray) -> Rates:
    """How often the judge finds the own caption first, among all and among those of the same tone; mean over draws."""
    texts = evals.text_features(judge, captions)
    found = [evals.image_features(judge, pictures) for pictures in draws]
    return {
        "all": float(np.mean([evals.retrieval_top1(pictures, texts).mean() for pictures in found])),
        "tone": float(np.mean([evals.retrieval_top1(pictures, texts, tones).mean() for pictures in found])),
    }


def beside(real: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Rows of real pictures, each above the row of what was drawn for the same captions; one picture, enlarged."""
    shown = len(real) // COLUMNS * COLUMNS
    rows = (pictures[:shown].reshape(-1, COLUMNS, *pictures.shape[1:]) for pictures in (real, drawn))
    pairs = np.stack(list(rows), axis=1)
    return grid(pairs.reshape(-1, *real.shape[1:]), COLUMNS, 2)


def run(config: PretrainImagesConfig, workdir: Path) -> dict:
    """Trains, draws, judges; writes ``samples.png`` and ``report.md``, and says whether the claim holds."""
    pretrain_images(config, workdir / "run")
    seconds = sum(row["seconds"] for row in train.read_rows(workdir / "run" / "timing.jsonl"))
    held_out = data.images("emoji", "test")
    tones = np.array([record["tone"] for record in records("emoji") if record["split"] == "test"])
    real, captions, _ = gather(held_out, FRAMING)
    draws = draw(load(workdir / "run", average=True), captions, config.seed)
    judge = train_image_text(data.images("emoji"), FRAMING)
    drawn, of_real = (rates(judge, pictures, captions, tones) for pictures in (draws, [real]))
    chance = {"all": 1 / len(captions), "tone": evals.chance_top1(tones)}
    times = {name: drawn[name] / chance[name] for name in chance}
    holds = times["all"] >= LEAST_OF_ALL and times["tone"] >= LEAST_OF_TONE and seconds <= MOST_SECONDS
    metadata = {"captions": "\n".join(captions), "guidance_scale": GUIDANCE, "steps": STEPS, "seed": config.seed}
    write_png(workdir / "samples.png", beside(real, draws[0]), metadata)
    verdict = f"""# Emoji drawn from captions that were never seen

Verdict: the claim {"holds" if holds else "FAILS"}, after {seconds / 60:.1f} minutes of training.

| own caption found first | among all {len(captions)} | among those of the same tone |
| --- | ---: | ---: |
| by chance | {chance["all"]:.3f} | {chance["tone"]:.3f} |
| pictures drawn | {drawn["all"]:.3f} | {drawn["tone"]:.3f} |
| times chance | {times["all"]:.1f} | {times["tone"]:.1f} |
| the real held-out pictures | {of_real["all"]:.3f} | {of_real["tone"]:.3f} |

Guidance {GUIDANCE:g}, {STEPS} steps of dpm++2m, means over {DRAWS} draws of each caption.

![real pictures, and below each row what was drawn for the same captions](samples.png)
"""
    train.replace_text(workdir / "report.md", verdict)
    return {"holds": holds, "drawn": drawn, "chance": chance, "real": of_real, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    main(__doc__, CONFIG, run)
