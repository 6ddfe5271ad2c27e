"""Pretraining: presets, what a run may change, what a mistake leaves, and going on exactly."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from fmzoo import models, train, zoo
from fmzoo.errors import InputError
from fmzoo.stages import PRESETS, PretrainConfig, is_finished, prepare, preset, pretrain
from fmzoo.stages.run_folder import BEFORE_RUN_FILE, check_workdir, nothing_left, open_workdir, read_config
from fmzoo.text import ByteTokenizer

MODEL = models.DecoderConfig(
    vocab_size=258, d_model=16, num_layers=1, context_length=32, tied_head=True,
    attention=models.AttentionConfig(2, 1, 8), mlp=models.MlpConfig(32),
)  # fmt: skip


@pytest.fixture
def config(tmp_path):
    (tmp_path / "song.txt").write_text("Full fathom five thy father lies; " * 60)
    return PretrainConfig(
        model=MODEL, data=str(tmp_path / "song.txt"), tokenizer="byte", batch_size=8, sequence_length=32,
        steps=6, checkpoint_every=2, quiet=True, optimizer=train.OptimizerConfig(schedule="constant", warmup_steps=1),
    )  # fmt: skip


@pytest.mark.parametrize("name", [*PRESETS, "llama2-7b", "gemma3-1b", "gpt2-124m"])
def test_presets_are_consistent(name):
    config = preset(name)
    assert config.sequence_length <= config.model.context_length
    if name in zoo.names():
        assert config.model == zoo.entry(name).config()


def test_going_on_repeats_the_run_that_was_not_stopped(config, tmp_path):
    assert pretrain(config, tmp_path / "whole")
    for steps in (2, 5, 6):
        assert pretrain(dataclasses.replace(config, steps=steps), tmp_path / "parts")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    params = [train.load_params(run / "checkpoints")[0] for run in (whole, parts)]
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_a_run_is_its_step_over_its_batches(config, tmp_path):
    assert pretrain(config, tmp_path / "run")
    run = prepare(config)
    state, losses = run.state, []
    with run.batches:
        for _ in range(config.steps):
            state, metrics = run.step(state, {}, next(run.batches))
            losses.append(float(metrics["loss"]))
    assert losses == [row["loss"] for row in train.read_rows(tmp_path / "run" / "metrics.jsonl")]


def test_a_config_is_read_back_whole(config, tmp_path):
    open_workdir(config, epath.Path(tmp_path / "run"), ByteTokenizer())
    assert read_config(tmp_path / "run", PretrainConfig) == config
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"tokenizer", "config.json"}


def test_only_what_does_not_change_the_run_may_change(config, tmp_path):
    workdir = epath.Path(tmp_path / "run")
    assert not check_workdir(config, workdir)
    open_workdir(config, workdir, ByteTokenizer())
    assert check_workdir(dataclasses.replace(config, steps=9, quiet=False, workers=1), workdir)
    for changes in (
        {"seed": 1},
        {"data_seed": 1},
        {"batch_size": 16},
        {"model": models.replace(MODEL, norm__bias=True)},
    ):
        with pytest.raises(InputError, match="another run"):
            check_workdir(dataclasses.replace(config, **changes), workdir)


def test_what_a_kill_left_before_the_config_is_no_other_run(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    for name in BEFORE_RUN_FILE:
        (workdir / name).mkdir()
    assert not check_workdir(config, epath.Path(workdir))
    (workdir / "mine.txt").write_text("")
    with pytest.raises(InputError, match="other files"):
        check_workdir(config, epath.Path(workdir))


def test_a_config_of_another_stage_is_refused(config, tmp_path):
    open_workdir(config, epath.Path(tmp_path / "run"), ByteTokenizer())
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stage": "dpo"}))
    with pytest.raises(InputError, match="'dpo'"):
        read_config(tmp_path / "run", PretrainConfig)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss_chunk": 0}, "loss_chunk is 0; a number above 0"),
        ({"z_loss": -1e-4}, "z_loss is -0.0001; at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; 0 to below 1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0; at least 1"),
        ({"sequence_length": 33}, "sequence_length 33 is over model.context_length 32"),
    ],
)
def test_values_out_of_range_are_refused_when_a_config_is_made(config, changes, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize("there", ["parents", "workdir"])
def test_a_mistake_leaves_nothing_new(tmp_path, there):
    workdir = epath.Path(tmp_path / "runs" / "first")
    if there == "workdir":
        workdir.mkdir(parents=True)
    before = set(tmp_path.rglob("*"))

    def fail_after_writing():
        (workdir / "tokenizer").mkdir(parents=True)
        (workdir / "metrics.jsonl").write_text("{}")
        raise InputError("mine")

    with pytest.raises(InputError, match="mine"), nothing_left(workdir, unless=False):
        fail_after_writing()
    assert set(tmp_path.rglob("*")) == before


def test_a_mistake_takes_nothing_away(tmp_path):
    workdir = epath.Path(tmp_path / "run")
    workdir.mkdir()
    (workdir / "metrics.jsonl").write_text("{}")
    with pytest.raises(InputError), nothing_left(workdir, unless=True):
        raise InputError("the run was there before")
    with pytest.raises(InputError, match="cannot be written"), nothing_left(workdir, unless=True):
        raise PermissionError(13, "Permission denied")
    with pytest.raises(KeyboardInterrupt), nothing_left(workdir, unless=False):
        raise KeyboardInterrupt
    assert (workdir / "metrics.jsonl").exists()


def test_finished_is_all_steps_and_a_report(config, tmp_path):
    assert not is_finished(config, tmp_path / "run")
    assert pretrain(config, tmp_path / "run")
    assert is_finished(config, tmp_path / "run")
    assert is_finished(dataclasses.replace(config, steps=4), tmp_path / "run")
    assert not is_finished(dataclasses.replace(config, steps=7), tmp_path / "run")
    (tmp_path / "run" / "report.md").unlink()
    assert not is_finished(config, tmp_path / "run")
    assert pretrain(config, tmp_path / "run")
    assert (tmp_path / "run" / "report.md").exists()
