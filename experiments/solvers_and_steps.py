"""Steps against quality, by solver, at 5 to 100 evaluations of the network.

Claim, in four parts (eight comparisons), each judged over three seeds by the 95 % interval of the mean difference:

- DDIM's Fréchet distance to held-out digits is below DDPM's at 5, 10 and 20 evaluations (Song et al. 2021, arXiv
  2010.02502, table 1);
- and with 10 evaluations it is below DDPM's with 100 (ten times faster: their abstract);
- DPM-Solver++(2M) is nearer than DDIM to the solution of the same differential equation, from the same noise, at 10,
  20 and 50 evaluations (Lu et al. 2022, arXiv 2211.01095: second order against first);
- and 20 evaluations suffice it: its Fréchet distance there is at most 1.1 times that with 100.

    python experiments/solvers_and_steps.py --workdir solvers --runs small-digits

``--runs`` holds the three denoisers, trained there if they are not yet. Hardware: one CPU core, about ten minutes for
the three and seven for the rest. Writes ``solvers.png``, ``solution.png`` and ``report.md``; what is measured is
kept in ``figures.jsonl``, so that a run that was stopped goes on.

An evaluation is one call of the network, without guidance. A solver takes as many steps as its evaluations allow:
Heun's method two a step and one in the last, PLMS one more than it has steps. The solution is that of 200 steps of
DPM-Solver++(2M); how far Heun's method with 199 evaluations is from it says how well it is known.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from small_digits import (
    SEEDS,
    Judge,
    Results,
    denoisers,
    keys,
    main,
    make_judge,
    measured,
    quality,
)  # fmt: skip
from verdicts import interval, is_positive, markdown, whole

from fmzoo import diffusion, train
from fmzoo.generate.conditions import encode
from fmzoo.models import Pretrained
from fmzoo.models.denoiser import denoise
from fmzoo.stages import PretrainImagesConfig
from fmzoo.stages.plots import COLORS, save_figure

EVALUATIONS = (5, 10, 20, 50, 100)
SOLVERS = (
    "ddim", "ddpm", "euler", "euler-a", "heun", "heun, Karras", "dpm++2m", "dpm++2m-sde", "unipc", "plms",
)  # fmt: skip
EXACT = tuple(name for name in SOLVERS if not diffusion.SOLVERS[name.split(",")[0]].stochastic)
SOLUTION, CHECK = ("dpm++2m", 200), ("heun, Karras", 199)
Cell = tuple[str, int]  # a solver and its evaluations
CELLS = [*((name, n) for n in EVALUATIONS for name in SOLVERS), CHECK]
SAMPLES, ENOUGH = 200, 1.1


def plan(process: diffusion.Process, name: str, evaluations: int) -> diffusion.Plan:
    """The walk with the most steps that these evaluations allow; ", Karras" asks for his spacing of the sigmas."""
    solver, _, spacing = name.partition(", ")
    if spacing:
        process = dataclasses.replace(process, karras=True)
    walks = (diffusion.plan(process, solver, steps) for steps in range(evaluations, 0, -1))
    return next(walk for walk in walks if len(walk) <= evaluations)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def move(
    module: Any, process: diffusion.Process, solver: str, params: Any, told: Any, row: dict, state: Any, keys: Any
):
    """One evaluation and what a solver makes of it; compiled once a solver, whatever the number of its steps."""
    x, memory = state
    output = denoise(module, params, x * row["input_scale"], jnp.full(x.shape[:1], row["time"]), told)
    said = diffusion.estimate(process, output, x, row["alpha"], row["sigma"])
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, row["step"]), x.shape[1:]))(keys)
    return diffusion.step(solver)(row, memory, said, x, noise if diffusion.SOLVERS[solver].stochastic else None)


def draw(pretrained: Pretrained, told: Any, walk: diffusion.Plan, noise: jax.Array, keys: jax.Array) -> np.ndarray:
    """Images ``float32 [N, H, W, C]`` in [-1, 1] from unit noise."""
    x = diffusion.initial(walk, noise)
    state = x, diffusion.SOLVERS[walk.solver].memory(x)
    rows = {name: column if name == "step" else column.astype(np.float32) for name, column in walk.rows.items()}
    for place in range(len(walk)):
        row = {name: column[place] for name, column in rows.items()}
        params = pretrained.params["denoiser"]
        state = move(pretrained.module, walk.process, walk.solver, params, told, row, state, keys)
    return np.clip(np.asarray(state[0]), -1, 1)


def measure(pretrained: Pretrained, judge: Judge, seed: int, cells: Sequence[Cell]) -> Iterator[dict]:
    """Draws each cell, a solver and its evaluations, from the same noise, and judges it; a row of figures each."""
    told, count = encode(pretrained, judge.captions), len(judge.captions)
    side, process = pretrained.config.denoiser.sample_size, pretrained.config.process
    noise = jax.random.normal(jax.random.key(100 + seed), (count, side, side, 1))

    def images(name: str, evaluations: int) -> np.ndarray:
        return draw(pretrained, told, plan(process, name, evaluations), noise, keys(seed, count))

    solution = images(*SOLUTION)
    for name, evaluations in cells:
        drawn = images(name, evaluations)
        figures = {"distance": float(np.sqrt(np.mean((drawn - solution) ** 2)))} | quality(judge, drawn)
        yield {"solver": name, "evaluations": evaluations} | figures


def verdicts(found: Results) -> dict[str, str]:
    """Each part of the claim, and what the numbers say of it."""
    frechet, distance, said = found["frechet"], found["distance"], {}
    for n in (5, 10, 20):
        lower = frechet["ddpm", n] - frechet["ddim", n]
        said[f"DDIM is below DDPM in Fréchet distance at {n}"] = is_positive(lower)
    said["DDIM at 10 is below DDPM at 100"] = is_positive(frechet["ddpm", 100] - frechet["ddim", 10])
    for n in (10, 20, 50):
        nearer = distance["ddim", n] - distance["dpm++2m", n]
        said[f"DPM-Solver++(2M) is nearer to the solution than DDIM at {n}"] = is_positive(nearer)
    room = ENOUGH * frechet["dpm++2m", 100] - frechet["dpm++2m", 20]
    said[f"DPM-Solver++(2M) at 20 is at most {ENOUGH} times its Fréchet distance at 100"] = is_positive(room)
    return said


def plot(
    cells: dict[Cell, np.ndarray], solvers: Sequence[str], path: Path, label: str, level: tuple, scale: str
) -> None:
    """A line a solver, of means over seeds, and a named level to hold them against; the scale is the upright one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8))
    axes = figure.subplots()
    for name in solvers:
        place, values = SOLVERS.index(name), [cells[name, n].mean() for n in EVALUATIONS]
        color = COLORS[place % len(COLORS)]
        line = "-" if place < len(COLORS) else "--"
        axes.plot(EVALUATIONS, values, color=color, linestyle=line, marker="o", markersize=4, label=name)
    axes.axhline(level[1], color="black", linestyle=":", linewidth=1, label=level[0])
    axes.set(xscale="log", yscale=scale, xlabel="evaluations of the network", ylabel=label)
    axes.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, bbox_to_anchor=(1.01, 1), loc="upper left")
    save_figure(figure, path)


def table(cells: dict[Cell, np.ndarray], solvers: Sequence[str]) -> str:
    """A row a solver, a column a number of evaluations."""
    rows = [[name, *(str(interval(cells[name, n])) for n in EVALUATIONS)] for name in solvers]
    return markdown(["solver", *map(str, EVALUATIONS)], rows)


def report(found: Results, said: dict[str, str], judge: Judge) -> str:
    """The verdict and the figures as Markdown."""
    return f"""# Steps against quality, by solver

Verdict: the claim {whole(said)}.

{markdown(["part", "verdict"], list(said.items()))}

Fréchet distance to held-out digits by evaluations of the network; {len(judge.labels)} digits a cell, {len(SEEDS)}
seeds, means with 95 % intervals over seeds; as many training digits are {judge.of_training_digits:.3f} away.

{table(found["frechet"], SOLVERS)}

![Fréchet distance](solvers.png)

Root mean square distance to the solution from the same noise, pixels in [-1, 1]. Heun's method with 199 evaluations is
{interval(found["distance"][CHECK])} from it.

{table(found["distance"], EXACT)}

![distance to the solution](solution.png)

Share that a classifier of real digits names as asked.

{table(found["accuracy"], SOLVERS)}
"""


def run(configs: Sequence[PretrainImagesConfig], runs: Path, workdir: Path) -> dict[str, str]:
    """Trains what is not trained yet, draws, judges; writes the plots and ``report.md``."""
    judge = make_judge(SAMPLES)
    workdir.mkdir(parents=True, exist_ok=True)
    models = denoisers(runs, configs)
    judged = lambda seed, cells: measure(models[seed], judge, seed, cells)  # noqa: E731
    found = measured(workdir / "figures.jsonl", len(models), CELLS, ("solver", "evaluations"), judged)
    said = verdicts(found)
    level = ("training digits", judge.of_training_digits)
    shown = [name for name in SOLVERS if name != "heun, Karras"]  # whose distances of up to 240 would hide the others'
    plot(found["frechet"], shown, workdir / "solvers.png", "Fréchet distance to held-out digits", level, "linear")
    known = ("how well the solution is known", float(found["distance"][CHECK].mean()))
    plot(found["distance"], EXACT, workdir / "solution.png", "root mean square distance to the solution", known, "log")
    text = report(found, said, judge)
    train.replace_text(workdir / "report.md", text)
    print(text)
    return said


if __name__ == "__main__":
    main(__doc__, run)
