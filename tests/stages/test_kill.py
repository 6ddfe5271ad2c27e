"""`kill -9` of image runs at random moments: they go on as if nothing had been, averages and both states included."""

import contextlib
import random
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


def kill_once(name, folder, at, moment):
    """Starts or goes on, and kills a moment after a step; gives that of the last complete checkpoint."""
    timing = folder / "timing.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "tests.stages.small_image_runs", name, str(folder)], cwd=ROOT)
    while process.poll() is None and not any(row["step"] == at for row in train.read_rows(timing)):
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
def test_a_run_killed_at_random_moments_is_the_run_that_was_not(name, tmp_path, monkeypatch):
    small_image_runs.leave_out_reports(monkeypatch.setattr)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert small_image_runs.run(name, whole)
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    kills = [(at, draw.uniform(0, 0.1)) for at in (draw.randint(1, 2), draw.randint(4, 10))]
    reached = [kill_once(name, killed, *kill) for kill in kills]
    assert reached[-1] < small_image_runs.RUNS[name].steps, (seed, kills)
    assert small_image_runs.run(name, killed)
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes(), (seed, kills)
    (expected, place), (found, same) = last_state(whole), last_state(killed)
    assert same == place
    assert expected.keys() == found.keys()
    assert any("ema" in path for path in expected)
    assert any("discriminator" in path for path in expected) == (name == "pretrain_autoencoder")
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=f"{path} after {kills} of seed {seed}")
