"""The loop: rows once, resumption bit for bit, SIGTERM, updates that are not finite, a full disk."""

import errno
import json
import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmzoo import train
from fmzoo.errors import InputError
from fmzoo.objectives import example_keys, weighted_mean
from fmzoo.train.metrics_log import MetricsLog, read_rows

ROWS, WIDTH = 4, 3


def noisy(params, frozen, batch, rng, statistics=None):
    """A regression with noise, so that a key that went astray would show."""
    keys = example_keys(rng, "noise", batch["example_id"])
    noise = jax.vmap(lambda key: jax.random.normal(key, ()))(keys)
    error = (batch["x"] @ params["w"] - batch["y"] - 0.1 * noise) ** 2
    return {"loss": weighted_mean(error, jnp.ones(ROWS))}, {}


OPTIMIZER = optax.adamw(0.05)
STEP = jax.jit(
    train.moving_average(train.skip_nonfinite(train.update(train.gradients(noisy), OPTIMIZER)), 0.9), donate_argnums=0
)


def start():
    return train.init_state({"w": jnp.zeros(WIDTH)}, OPTIMIZER, jax.random.key(3), ema=True)


class Stream:
    """Batches without end, each from its number; ``spoilt`` ones hold an infinity."""

    def __init__(self, spoilt=(), watch=lambda number: None):
        self.number, self.spoilt, self.watch = 0, spoilt, watch

    def __next__(self) -> dict[str, Any]:
        self.number += 1
        self.watch(self.number)
        rng = np.random.default_rng(self.number)
        x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
        if self.number in self.spoilt:
            x[0, 0] = np.inf
        ids = np.arange(ROWS, dtype=np.int32) + ROWS * self.number
        return {"x": x, "y": x.sum(axis=1), "example_id": ids}

    def get_state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]


def fit(folder, data=None, step=STEP, frozen=None, **config):
    config = {"steps": 7, "checkpoint_every": 3, "quiet": True} | config
    return train.fit(step, start(), frozen or {}, data or Stream(), train.FitConfig(**config), folder)


def bits(state):
    """Every array of a state as bytes, by path."""
    state = state.replace(rng=jax.random.key_data(state.rng))
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in jax.tree.leaves_with_path(state)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of seven steps: its folder and its last state."""
    folder = tmp_path_factory.mktemp("whole")
    state, finished = fit(folder)
    assert finished
    return folder, bits(state)


def log(folder):
    return (folder / "metrics.jsonl").read_bytes()


def test_each_step_has_one_row_and_every_checkpoint_is_there(whole):
    folder, _ = whole
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert set(rows[0]) == {"step", "loss", "grad_norm", "weight", "updated", "skipped"}
    assert train.complete_steps(folder / "checkpoints") == [3, 6, 7]
    assert [row["step"] for row in read_rows(folder / "timing.jsonl")] == list(range(1, 8))
    assert any("tfevents" in path.name for path in (folder / "tensorboard").iterdir())


def test_a_run_in_two_parts_is_the_run_in_one(whole, tmp_path):
    fit(tmp_path, steps=4)
    state, finished = fit(tmp_path)
    assert finished
    assert log(tmp_path) == log(whole[0])
    assert bits(state) == whole[1]


def test_rows_after_the_checkpoint_are_cut_and_written_again(whole, tmp_path):
    """What a kill leaves: steps that no checkpoint holds, and half a row."""
    fit(tmp_path, steps=3)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 4, "loss": 77.0}\n{"step": 5, "lo')
    with open(tmp_path / "timing.jsonl", "ab") as file:
        file.write(b'{"step": 4, "seconds": 77.0}\n{"step": 5, "sec')
    state, _ = fit(tmp_path)
    assert log(tmp_path) == log(whole[0])
    assert [row["step"] for row in read_rows(tmp_path / "timing.jsonl")] == list(range(1, 8))
    assert bits(state) == whole[1]


def test_a_killed_save_is_ignored_and_done_again(whole, tmp_path):
    fit(tmp_path, steps=3)
    half = tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    (half / "_CHECKPOINT_METADATA").write_text('{"init_timestamp_nsecs": 1, "commit_timestamp_nsecs": null}')
    assert train.complete_steps(tmp_path / "checkpoints") == [3]
    assert train.load_params(tmp_path / "checkpoints")[1] == 3
    state, _ = fit(tmp_path)
    assert train.complete_steps(tmp_path / "checkpoints") == [3, 6, 7]
    assert log(tmp_path) == log(whole[0])
    assert bits(state) == whole[1]


def test_an_old_checkpoint_that_a_kill_left_half_removed_is_removed(whole, tmp_path):
    fit(tmp_path, steps=6)
    rest = tmp_path / "checkpoints" / "2" / "state" / "d"
    rest.mkdir(parents=True)
    state, _ = fit(tmp_path)
    assert train.complete_steps(tmp_path / "checkpoints") == [3, 6, 7]
    assert not (tmp_path / "checkpoints" / "2").exists()
    assert bits(state) == whole[1]


def test_a_checkpoint_that_is_half_copied_is_refused_and_stays(tmp_path):
    fit(tmp_path, steps=3)
    half = tmp_path / "checkpoints" / "5" / "state"
    half.mkdir(parents=True)
    with pytest.raises(InputError, match="checkpoint .*5 is not complete"):
        fit(tmp_path)
    assert half.exists()


def test_a_finished_run_goes_on_if_there_are_more_steps_to_take(whole, tmp_path):
    fit(tmp_path, steps=6)
    again, finished = fit(tmp_path, steps=6)
    assert finished
    assert int(again.step) == 6
    state, _ = fit(tmp_path)
    assert bits(state) == whole[1]


def test_sigterm_saves_after_the_step_and_ends_cleanly(whole, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    stop = lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == 5 else None  # noqa: E731
    state, finished = fit(tmp_path, Stream(watch=stop))
    assert not finished
    assert int(state.step) == 5
    assert train.complete_steps(tmp_path / "checkpoints") == [3, 5]
    assert signal.getsignal(signal.SIGTERM) is before
    state, finished = fit(tmp_path)
    assert finished
    assert log(tmp_path) == log(whole[0])
    assert bits(state) == whole[1]


def test_retention_keeps_the_newest_and_the_multiples(tmp_path):
    fit(tmp_path, steps=8, checkpoint_every=1, keep_checkpoints=2, keep_every=3)
    assert train.complete_steps(tmp_path / "checkpoints") == [3, 6, 7, 8]


def test_updates_that_are_not_finite_are_skipped_and_counted(tmp_path):
    state, finished = fit(tmp_path, Stream(spoilt={2, 3, 6}), nonfinite_patience=3)
    assert finished
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["skipped"] for row in rows] == [0, 1, 1, 0, 0, 1, 0]
    assert [row["updated"] for row in rows] == [1, 0, 0, 1, 1, 0, 1]
    assert rows[1]["loss"] in ("inf", "nan")
    assert int(state.step) == 7
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((state.params, state.ema)))


def test_too_many_in_a_row_stop_the_run_naming_the_step(tmp_path):
    with pytest.raises(InputError, match="not finite 3 times in a row, up to step 6; a lower learning rate"):
        fit(tmp_path, Stream(spoilt={4, 5, 6, 7}), nonfinite_patience=3)
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert train.complete_steps(tmp_path / "checkpoints") == [3]


def test_the_count_in_a_row_goes_on_after_a_restart(tmp_path):
    spoilt = {3, 4, 5, 6}
    fit(tmp_path, Stream(spoilt), steps=4, nonfinite_patience=3)
    with pytest.raises(InputError, match="3 times in a row, up to step 5"):
        fit(tmp_path, Stream(spoilt), nonfinite_patience=3)


def test_several_states_are_skipped_and_shown_by_their_names(tmp_path, capfd):
    plain = train.skip_nonfinite(train.update(train.gradients(noisy), OPTIMIZER))
    step = jax.jit(train.in_turn(train.on("policy", plain), train.on("value", plain)))
    states = {"policy": start(), "value": start()}
    with pytest.raises(InputError, match="2 times in a row, up to step 3"):
        train.fit(step, states, {}, Stream({2, 3}), train.FitConfig(steps=5, nonfinite_patience=2), tmp_path)
    assert {"policy/loss", "value/loss", "policy/skipped"} <= set(read_rows(tmp_path / "metrics.jsonl")[0])
    assert "step 1 of 5" in capfd.readouterr().out


class Full:
    """Stands in for a disk that is full from some write on."""

    def __init__(self, monkeypatch, module, name, after):
        self.calls, self.after, self.true = 0, after, getattr(module, name)
        monkeypatch.setattr(module, name, self)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls > self.after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.true(*args, **kwargs)


def test_a_full_disk_at_a_save_is_one_sentence_and_the_last_checkpoint_loads(whole, tmp_path, monkeypatch, capfd):
    from orbax.checkpoint._src.serialization import jax_array_handlers

    with monkeypatch.context() as patch:
        Full(patch, jax_array_handlers, "_async_serialize_replica_slices", 1)
        with pytest.raises(InputError, match=r"no space is left in .*; free some, and the run goes on from") as error:
            fit(tmp_path)
    assert len(str(error.value)) < 300
    assert "Traceback" not in "".join(capfd.readouterr())
    assert train.complete_steps(tmp_path / "checkpoints") == [3]
    params, step = train.load_params(tmp_path / "checkpoints")
    assert step == 3
    assert np.all(np.isfinite(params["w"]))
    state, _ = fit(tmp_path)
    assert log(tmp_path) == log(whole[0])
    assert bits(state) == whole[1]


def test_a_full_disk_at_the_log_is_the_same_sentence(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Full(patch, os, "fsync", 1)
        with pytest.raises(InputError, match="no space is left in"):
            fit(tmp_path)
    assert train.complete_steps(tmp_path / "checkpoints") == [3]
    state, _ = fit(tmp_path)
    assert log(tmp_path) == log(whole[0])
    assert bits(state) == whole[1]


def test_a_folder_may_be_a_file_url_or_relative(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state, _ = fit("here")
    assert log(tmp_path / "here") == log(whole[0])
    fit(f"file://{tmp_path}/a%20run", steps=4)
    state, finished = fit(tmp_path / "a run")
    assert finished
    assert log(tmp_path / "a run") == log(whole[0])
    assert bits(state) == whole[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a run", "here"]


@pytest.mark.parametrize("path", ["memory://run", "ftp://host/run", "file://elsewhere/run"])
def test_a_place_that_nothing_reaches_is_refused(path):
    with pytest.raises(InputError, match=r"a local path, file:// or gs:// is needed|file:///\.\.\. is needed"):
        fit(path)


def test_the_log_is_kept_where_nothing_can_be_appended(bucket):
    run = bucket / "run"
    log = MetricsLog(run / "metrics.jsonl")
    for step in range(1, 6):
        log.append(step, {"loss": 1 / step})
        log.flush()
    MetricsLog(run / "metrics.jsonl").cut(3)
    with MetricsLog(run / "metrics.jsonl") as log:
        log.append(4, {"loss": float("nan")})
    assert [row["step"] for row in log.read()] == [1, 2, 3, 4]
    assert log.read()[-1] == {"step": 4, "loss": "nan"}
    assert sorted(path.name for path in run.iterdir()) == ["metrics.jsonl"]


def test_an_unfinished_save_in_a_bucket_does_not_count(bucket):
    for step, committed in ((2, 17), (4, None)):
        folder = bucket / "checkpoints" / str(step)
        (folder / "state" / "d").mkdir(parents=True)
        (folder / "state" / "d" / "x").write_text("x")
        (folder / "_CHECKPOINT_METADATA").write_text(json.dumps({"commit_timestamp_nsecs": committed}))
    assert train.complete_steps(bucket / "checkpoints") == [2]
    with pytest.raises(InputError, match=r"has no step 4; it holds the steps \[2\]"):
        train.load_params(bucket / "checkpoints", step=4)


@pytest.mark.parametrize("field", ["steps", "checkpoint_every", "keep_checkpoints", "nonfinite_patience"])
def test_a_length_below_one_is_refused(field):
    with pytest.raises(InputError, match=f"{field} is 0; at least 1 is needed"):
        train.FitConfig(**{field: 0})
