"""`kill -9` of image runs at random moments: they go on as if nothing had been, averages and both states included."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from fmzoo import train
from tests.stages import small_image_runs

ROOT = Path(__file__).parents[2]


def start(seconds, *runs):
    """A process that runs each to the end or goes on, on one device, and waits before each batch."""
    flags = re.sub("host_platform_device_count=[0-9]+", "host_platform_device_count=1", os.environ["XLA_FLAGS"])
    words = [str(word) for run in runs for word in run]
    line = [sys.executable, "-m", "tests.stages.small_image_runs", str(seconds), *words]
    return subprocess.Popen(line, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags})


def kill_once(name, folder, at, moment):
    """Starts a run and kills it a moment after a step and a first checkpoint; gives the step of the last complete one.

    A checkpoint is written while the run goes on, which may be some steps further before it is complete.
    """
    process = start(0.05, (name, folder))

    def is_there():
        reached = any(row["step"] == at for row in train.read_rows(folder / "timing.jsonl"))
        return reached and train.complete_steps(folder / "checkpoints")

    while process.poll() is None and not is_there():
        time.sleep(0.01)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return max(train.complete_steps(folder / "checkpoints"), default=0)


def last_state(folder):
    """Every array of the last checkpoint, and the position in the data."""
    step = folder / "checkpoints" / str(train.complete_steps(folder / "checkpoints")[-1])
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(step / "state").tree)
        tree = reader.restore(step / "state", args=ocp.args.PyTreeRestore(restore_args=numpy))
    arrays = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
    return arrays, (step / "data" / "metadata").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with every run ``killed`` and gone on with, and ``whole``, from one process; and how each was killed."""
    folder, kills = tmp_path_factory.mktemp("killed"), {}
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    for name, config in small_image_runs.RUNS.items():
        kills[name] = seed, draw.randint(4, 9), draw.uniform(0, 0.1)
        assert 0 < kill_once(name, folder / name / "killed", *kills[name][1:]) < config.steps, kills[name]
    runs = [(name, folder / name / fate) for name in kills for fate in ("killed", "whole")]
    assert start(0, *runs).wait() == 0, kills
    return folder, kills


@pytest.mark.parametrize("name", small_image_runs.RUNS)
def test_a_run_killed_at_a_random_moment_is_the_run_that_was_not(name, finished):
    folder, kills = finished
    whole, killed = (folder / name / fate for fate in ("whole", "killed"))
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes(), kills[name]
    (expected, place), (found, same) = last_state(whole), last_state(killed)
    assert same == place
    assert expected.keys() == found.keys()
    assert any("ema" in path for path in expected)
    assert any("discriminator" in path for path in expected) == (name == "pretrain_autoencoder")
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=f"{path} after seed, step and moment {kills[name]}")
