"""What the experiments with digits say of figures that are made up, and how they count evaluations."""

import dataclasses

import guidance_tradeoff
import numpy as np
import pytest
import small_digits
import solvers_and_steps
import verdicts

from fmzoo import diffusion
from fmzoo.diffusion import Process
from fmzoo.stages.images import COSINE

NOISE = np.array([0.001, -0.001, 0.0])  # of three seeds


def tradeoff(**figures):
    """Figures at guidance 1, 1.25, 1.5, 2, 4 and 8 as the paper has them, but for those given."""
    published = {
        "accuracy": [0.95, 0.96, 0.97, 0.98, 0.99, 0.99], "precision": [0.8, 0.82, 0.84, 0.87, 0.93, 0.95],
        "recall": [0.8, 0.75, 0.7, 0.6, 0.4, 0.2], "coverage": [0.95, 0.95, 0.94, 0.9, 0.7, 0.4],
        "frechet": [1.0, 0.9, 0.9, 1.2, 3.0, 6.0],
    } | figures  # fmt: skip
    at = guidance_tradeoff.SCALES
    return {name: {(w,): v + NOISE * v for w, v in zip(at, row, strict=True)} for name, row in published.items()}


def test_guidance_as_published_holds_and_each_part_can_fail():
    said = guidance_tradeoff.verdicts(tradeoff())
    assert set(said.values()) == {"holds"}
    flat = guidance_tradeoff.verdicts(tradeoff(recall=[0.8] * 6))
    assert {part for part in said if flat[part] != "holds"} == {"diversity: recall is lower at w = 4 than at 1"}
    falls = {"accuracy": [0.9] * 3 + [0.8] * 3, "precision": [0.9] * 3 + [0.8] * 3, "frechet": [2, 3, 3, 2, 2, 1]}
    falls |= {"recall": [0.5] * 3 + [0.8] * 3, "coverage": [0.5] * 3 + [0.8] * 3}
    assert set(guidance_tradeoff.verdicts(tradeoff(**falls)).values()) == {"FAILS"}


def test_what_is_measured_is_kept(tmp_path):
    asked = []

    def measure(seed, cells):
        for cell in cells:
            asked.append((seed, cell))
            yield {"w": cell[0], "value": seed + cell[0]}
            if len(asked) == 3:
                raise KeyboardInterrupt

    log, cells = tmp_path / "figures.jsonl", [(1.0,), (2.0,)]
    with pytest.raises(KeyboardInterrupt):
        small_digits.measured(log, 2, cells, ("w",), measure)
    found = small_digits.measured(log, 2, cells, ("w",), measure)
    assert asked == [(0, (1.0,)), (0, (2.0,)), (1, (1.0,)), (1, (2.0,))]
    assert {cell: values.tolist() for cell, values in found["value"].items()} == {(1.0,): [1, 2], (2.0,): [2, 3]}


def steps_and_quality():
    """Figures by cell in which first order needs ten times the evaluations of second order."""
    frechet, distance = {}, {}
    for n in solvers_and_steps.EVALUATIONS:
        frechet |= {("ddpm", n): 1 + 100 / n, ("ddim", n): 1 + 5 / n, ("dpm++2m", n): 1 + 20 / n**2}
        distance |= {("ddim", n): 1 / n, ("dpm++2m", n): 2 / n**2}
    return {
        "frechet": {cell: value + NOISE for cell, value in frechet.items()},
        "distance": {cell: value + NOISE / 100 for cell, value in distance.items()},
    }


def failures(found):
    return {part for part, verdict in solvers_and_steps.verdicts(found).items() if verdict == "FAILS"}


def test_solvers_as_published_hold_and_each_part_can_fail():
    said = solvers_and_steps.verdicts(steps_and_quality())
    assert set(said.values()) == {"holds"}
    worse, names = steps_and_quality(), {"ddim": "ddpm", "ddpm": "ddim"}
    frechet = worse["frechet"]
    worse["frechet"] = {(names.get(name, name), n): values for (name, n), values in frechet.items()}
    assert failures(worse) == {part for part in said if part.startswith("DDIM")}
    worse = steps_and_quality()
    for n in solvers_and_steps.EVALUATIONS:
        worse["distance"]["dpm++2m", n] = worse["distance"]["ddim", n] * 1.1
        worse["frechet"]["dpm++2m", n] = worse["frechet"]["ddpm", n]
    assert failures(worse) == {part for part in said if part.startswith("DPM-Solver++")}


def test_a_difference_within_its_interval_decides_nothing():
    assert verdicts.is_positive([0.3, 0.1, -0.1]) == "is not decided"
    assert verdicts.whole({"a": "holds", "b": "is not decided"}) == "holds in part"
    mean, low, high = verdicts.interval([1.0, 2.0, 3.0])
    assert mean == 2
    np.testing.assert_allclose([low, high], 2 + np.array([-1, 1]) * 4.302653 / np.sqrt(3), rtol=1e-6)  # t of 2 degrees


@pytest.mark.parametrize("name", solvers_and_steps.SOLVERS)
@pytest.mark.parametrize("process", [COSINE, Process()])
def test_a_solver_takes_the_steps_that_its_evaluations_allow(name, process):
    for evaluations in (5, 10):
        walk = solvers_and_steps.plan(process, name, evaluations)
        steps = len(set(walk.rows["step"].tolist()))
        more = diffusion.plan(dataclasses.replace(process, karras=name.endswith("Karras")), walk.solver, steps + 1)
        assert len(walk) <= evaluations < len(more)
        assert walk.process.karras == name.endswith("Karras")
        assert len(walk) == evaluations or name.startswith("heun")


def test_the_seeds_are_runs_of_their_own():
    configs = [small_digits.config(seed) for seed in small_digits.SEEDS]
    assert len({(config.seed, config.data_seed) for config in configs}) == 3
    same = {dataclasses.replace(config, seed=0, data_seed=0) for config in configs}
    assert len(same) == 1
