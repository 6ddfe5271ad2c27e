"""`kill -9`, after a checkpoint and in the middle of a save: the run goes on as if nothing had been."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from fmzoo import train
from tests.train import small_run

ROOT = Path(__file__).parents[2]


def start(*arguments):
    return subprocess.Popen([sys.executable, "-m", "tests.train.small_run", *map(str, arguments)], cwd=ROOT)


def arrays(state):
    plain = state.replace(rng=jax.random.key_data(state.rng))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(plain)}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return small_run.write_texts(tmp_path_factory.mktemp("data") / "texts")


def test_a_run_killed_twice_is_the_run_that_was_not(texts, tmp_path):
    whole, finished = small_run.run(tmp_path / "whole", texts)
    assert finished
    killed, checkpoints = tmp_path / "killed", tmp_path / "killed" / "checkpoints"

    first = start(killed, texts, "hang")
    while train.complete_steps(checkpoints) != [3]:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL

    second = start(killed, texts, "die in the second save")
    assert second.wait(timeout=300) == -signal.SIGKILL
    assert (checkpoints / "8.orbax-checkpoint-tmp").exists()
    assert train.complete_steps(checkpoints) == [3, 6]
    assert train.load_params(checkpoints)[1] == 6

    state, finished = small_run.run(killed, texts)
    assert finished
    assert train.complete_steps(checkpoints) == [3, 6, 8]
    assert (killed / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert not list(checkpoints.glob("*tmp*"))
    expected, found = arrays(whole), arrays(state)
    assert expected.keys() == found.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
