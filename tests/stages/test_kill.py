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


def start(name, folder, seconds):
    """A process that runs to the end or goes on, on one device, and waits before each batch."""
    flags = re.sub("host_platform_device_count=[0-9]+", "host_platform_device_count=1", os.environ["XLA_FLAGS"])
    line = [sys.executable, "-m", "tests.stages.small_image_runs", name, str(folder), str(seconds)]
    return subprocess.Popen(line, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags})


def kill_once(name, folder, at, moment):
    """Starts a run and kills it a moment after a step; gives that of the last complete checkpoint."""
    process = start(name, folder, 0.05)
    while process.poll() is None and not any(row["step"] == at for row in train.read_rows(folder / "timing.jsonl")):
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


@pytest.mark.parametrize("name", small_image_runs.RUNS)
def test_a_run_killed_at_a_random_moment_is_the_run_that_was_not(name, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(name, whole, 0).wait() == 0
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    kills = draw.randint(4, 9), draw.uniform(0, 0.1)
    assert kill_once(name, killed, *kills) < small_image_runs.RUNS[name].steps, (seed, kills)
    assert start(name, killed, 0).wait() == 0
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes(), (seed, kills)
    (expected, place), (found, same) = last_state(whole), last_state(killed)
    assert same == place
    assert expected.keys() == found.keys()
    assert any("ema" in path for path in expected)
    assert any("discriminator" in path for path in expected) == (name == "pretrain_autoencoder")
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=f"{path} after {kills} of seed {seed}")
