"""Two processes of four devices are one of eight: the same numbers, examples and checkpoint, resumed by any number."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fmzoo import train
from fmzoo.errors import InputError
from fmzoo.parallel import from_first, gather_json
from fmzoo.stages import pretrain, report
from fmzoo.train.metrics_log import read_rows
from tests.parallel.part_of_run import record
from tests.train import small_run

ROOT = Path(__file__).parents[2]
MESH = "data=2,fsdp=4"


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def start(*arguments):
    command = [sys.executable, "-m", "tests.parallel.part_of_run", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended_well(*processes):
    try:
        for process in processes:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said[-3000:]
    finally:
        for process in processes:
            process.kill()


def seen(*paths):
    """``{step: rows}`` of one or several processes, rows by example."""
    steps = {}
    for path in paths:
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            steps.setdefault(entry["step"], []).extend(map(tuple, entry["rows"]))
    return steps


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return small_run.write_texts(tmp_path_factory.mktemp("data") / "texts")


@pytest.fixture(scope="module")
def eight(texts, tmp_path_factory):
    """The run of one process of eight devices, this one."""
    folder = tmp_path_factory.mktemp("eight") / "run"
    undo = record(Path(f"{folder}.seen.0"), None)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report, "write_report", lambda *_: None)
            assert pretrain(small_run.config(texts, mesh=MESH, steps=6, checkpoint_every=2), folder)
    finally:
        undo()
    return folder


@pytest.fixture(scope="module")
def two(texts, tmp_path_factory):
    """The run of two processes, stopped after step 4 by a signal to the second, then of one process of four devices."""
    folder, port = tmp_path_factory.mktemp("two") / "run", free_port()
    ended_well(*(start(f"127.0.0.1:{port}", 2, i, 4, folder, texts, MESH, 4) for i in range(2)))
    stopped = {
        "rows": read_rows(folder / "metrics.jsonl"),
        "steps": train.complete_steps(folder / "checkpoints"),
        "files": sorted(path.name for path in folder.iterdir()),
        "writers": sorted(path.name for path in (folder / "checkpoints" / "4" / "state").glob("ocdbt.process_*")),
    }
    Path(f"{folder}.seen.0").rename(f"{folder}.first.0")
    Path(f"{folder}.seen.1").rename(f"{folder}.first.1")
    ended_well(start("none", 1, 0, 4, folder, texts, "fsdp=4", ""))
    return folder, stopped


def close(rows, expected):
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for name in ("loss", "grad_norm", "weight"):
        np.testing.assert_allclose([row[name] for row in rows], [row[name] for row in expected], rtol=1e-5)


def test_two_processes_match_one_to_rounding(eight, two):
    close(two[1]["rows"], read_rows(eight / "metrics.jsonl")[:4])


def test_all_stop_at_the_step_that_one_was_told_at_and_write_one_checkpoint(two):
    assert two[1]["steps"] == [2, 4]
    assert two[1]["writers"] == ["ocdbt.process_0", "ocdbt.process_1"]
    assert two[1]["files"] == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "timing.jsonl",
        "tokenizer",
    ]


def test_they_see_the_same_examples_in_the_same_order(eight, two):
    whole, (folder, _) = seen(Path(f"{eight}.seen.0")), two
    assert [example for step in sorted(whole) for example, _ in whole[step]] == list(range(48))
    halves = [Path(f"{folder}.first.{i}") for i in range(2)]
    for half in halves:
        assert all(len(rows) == 4 for rows in seen(half).values())
    assert seen(*halves) == {step: whole[step] for step in (1, 2, 3, 4)}


def test_one_process_of_four_goes_on_with_no_example_missed_or_repeated(eight, two):
    whole, (folder, _) = seen(Path(f"{eight}.seen.0")), two
    assert seen(Path(f"{folder}.seen.0")) == {step: whole[step] for step in (5, 6)}
    close(read_rows(folder / "metrics.jsonl"), read_rows(eight / "metrics.jsonl"))
    found, step = train.load_params(folder / "checkpoints")
    expected, _ = train.load_params(eight / "checkpoints")
    assert step == 6
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)


def test_one_process_tells_itself():
    assert gather_json({"a": [1, "é"]}) == [{"a": [1, "é"]}]
    assert from_first(lambda: 3) == 3

    def refuse():
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        from_first(refuse)
