"""Fidelity against diversity as guidance without a classifier grows (Ho & Salimans 2022, arXiv 2207.12598).

Claim, in four parts, each judged over three seeds by the 95 % interval of the mean difference:

- fidelity: guidance of 4 draws digits that a classifier names as asked more often than no guidance does, and more of
  them lie among the held-out digits (precision);
- diversity: it covers less of the held-out digits (recall and coverage);
- weak guidance, w from 1.25 to 1.5, is nearer to the held-out digits in Fréchet distance than none (on ImageNet the
  paper finds the least distance at their w of 0.1 to 0.3, which is 1.1 to 1.3 here);
- strong guidance, w of 8, is farther from them than none.

    python experiments/guidance_tradeoff.py --workdir tradeoff --runs small-digits

``--runs`` holds the three denoisers, trained there if they are not yet. Hardware: one CPU core, about ten minutes
for the three and two for the rest. Writes ``guidance.png`` and ``report.md``; what is measured is kept in
``figures.jsonl``, so that a run that was stopped goes on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from small_digits import (
    Judge,
    Results,
    denoisers,
    main,
    make_judge,
    measured,
    quality,
)
from verdicts import interval, is_positive, markdown, whole

from fmzoo import generate, train
from fmzoo.models import Pretrained
from fmzoo.stages import PretrainImagesConfig
from fmzoo.stages.plots import COLORS, save_figure

SCALES, STEPS = (1.0, 1.25, 1.5, 2.0, 4.0, 8.0), 25
FIGURES = {
    "accuracy": "named as asked", "precision": "precision", "recall": "recall", "coverage": "coverage",
    "frechet": "Fréchet distance",
}  # fmt: skip


def measure(pretrained: Pretrained, judge: Judge, seed: int, cells: Sequence[tuple[float]]) -> Iterator[dict]:
    """Draws a digit for each held-out one, of its class and at each scale from the same noise, and judges them."""
    for (scale,) in cells:
        key = jax.random.key(seed)
        drawn = generate.images(pretrained, judge.captions, key, steps=STEPS, guidance_scale=scale)
        yield {"w": scale} | quality(judge, drawn[..., :1])


def verdicts(found: Results) -> dict[str, str]:
    """Each part of the claim, and what the numbers say of it."""
    rises = lambda name, w: found[name][w,] - found[name][1.0,]  # noqa: E731
    weak = (rises("frechet", 1.25) + rises("frechet", 1.5)) / 2
    return {
        "fidelity: more are named as asked at w = 4 than at 1": is_positive(rises("accuracy", 4.0)),
        "fidelity: precision is higher at w = 4 than at 1": is_positive(rises("precision", 4.0)),
        "diversity: recall is lower at w = 4 than at 1": is_positive(-rises("recall", 4.0)),
        "diversity: coverage is lower at w = 4 than at 1": is_positive(-rises("coverage", 4.0)),
        "weak guidance (1.25 to 1.5) is nearer in Fréchet distance than none": is_positive(-weak),
        "strong guidance (8) is farther than none": is_positive(rises("frechet", 8.0)),
    }


def plot(found: Results, least: float, path: Path) -> None:
    """The figures by scale on the left, fidelity by diversity on the right, a faint line a seed."""
    from matplotlib.figure import Figure

    lines = {name: np.stack([found[name][w,] for w in SCALES]) for name in FIGURES}
    figure = Figure(figsize=(12, 4))
    by_scale, distance, plane = figure.subplots(1, 3)
    for color, (name, label) in zip(COLORS, FIGURES.items(), strict=False):
        axes = distance if name == "frechet" else by_scale
        axes.plot(SCALES, lines[name], color=color, linewidth=0.6, alpha=0.5)
        axes.plot(SCALES, lines[name].mean(axis=1), color=color, marker="o", markersize=4, label=label)
    distance.axhline(least, color="#555555", linestyle="--", linewidth=1, label="training digits")
    for axes in (by_scale, distance):
        axes.set(xscale="log", xlabel="guidance w (1 is none)")
        axes.set_xticks(SCALES, [f"{w:g}" for w in SCALES], fontsize=8)
        axes.minorticks_off()
    distance.set(ylabel="Fréchet distance to held-out digits", ylim=(0, None))
    plane.plot(lines["recall"], lines["precision"], color=COLORS[0], linewidth=0.6, alpha=0.5)
    middle = lines["recall"].mean(axis=1), lines["precision"].mean(axis=1)
    plane.plot(*middle, color=COLORS[0], marker="o", markersize=4)
    for w, x, y in zip(SCALES, *middle, strict=True):
        plane.annotate(f"{w:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=9)
    plane.set(xlabel="recall (diversity)", ylabel="precision (fidelity)", title="w at the points")
    for axes in (by_scale, distance, plane):
        axes.spines[["top", "right"]].set_visible(False)
    by_scale.legend(frameon=False, fontsize=9)
    distance.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)


def run(configs: Sequence[PretrainImagesConfig], runs: Path, workdir: Path) -> dict[str, str]:
    """Trains what is not trained yet, draws, judges; writes ``guidance.png`` and ``report.md``."""
    judge, models = make_judge(), denoisers(runs, configs)
    workdir.mkdir(parents=True, exist_ok=True)
    judged = lambda seed, cells: measure(models[seed], judge, seed, cells)  # noqa: E731
    found = measured(workdir / "figures.jsonl", len(models), [(w,) for w in SCALES], ("w",), judged)
    said = verdicts(found)
    plot(found, judge.of_training_digits, workdir / "guidance.png")
    cells = [[f"{w:g}", *(str(interval(found[name][w,])) for name in FIGURES)] for w in SCALES]
    text = f"""# Fidelity against diversity over guidance

Verdict: the claim {whole(said)}.

{markdown(["part", "verdict"], said.items())}

{markdown(["w", *FIGURES.values()], cells)}

{len(judge.labels)} digits a cell, {STEPS} steps of dpm++2m, {len(configs)} seeds; means with 95 % intervals over seeds.
As many training digits are {judge.of_training_digits:.3f} from the held-out ones.

![figures by guidance](guidance.png)
"""
    train.replace_text(workdir / "report.md", text)
    print(text)
    return said


if __name__ == "__main__":
    main(__doc__, run)
