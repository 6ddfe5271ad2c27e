"""Instruction tuning in small: what is trained, what a run folder holds, and what is loaded from it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo import models, train
from fmzoo.errors import InputError
from fmzoo.interop import parameter_runs
from fmzoo.models.projection import Lora
from fmzoo.stages import FinetuneTextConfig, finetune_text
from fmzoo.stages.finetune_text import prepare
from fmzoo.text import CHAT_FORMATS, ByteTokenizer
from tests.command import fmzoo as command

pytestmark = pytest.mark.usefixtures("one_device")
MODEL = models.DecoderConfig(
    vocab_size=258, d_model=16, num_layers=2, context_length=128, attention=models.AttentionConfig(2, 1, 8),
    mlp=models.MlpConfig(d_ff=32),
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model as a run's folder, and conversations of which some are held out."""
    folder = tmp_path_factory.mktemp("tuning")
    params = models.Decoder(MODEL).init(jax.random.key(1), np.zeros((1, 1), np.int32))["params"]
    parameter_runs.save(models.Pretrained(models.Decoder(MODEL), params, MODEL, ByteTokenizer()), folder / "base")
    (folder / "chats").mkdir()
    for split, numbers in (("train", range(20)), ("validation", range(20, 24))):
        rows = [{"prompt": f"q{i}", "completion": "yes" if i % 2 else "no"} for i in numbers]
        (folder / "chats" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def config(place):
    return FinetuneTextConfig(
        source=str(place / "base"), data=str(place / "chats"), chat_template="chatml", sequence_length=96, rank=2,
        steps=40, batch_size=4, checkpoint_every=20, quiet=True,
        optimizer=train.OptimizerConfig(learning_rate=2e-2, warmup_steps=1, weight_decay=0.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(config, place):
    assert finetune_text(config, place / "adapters")
    return place / "adapters"


def test_answers_become_likelier_and_the_base_stays(config, run):
    before, after = (float(x) for x in (run / "report.md").read_text().split("before and after | ")[1][:14].split(", "))
    assert after < before - 1
    tuned, base = fmzoo.load(run), fmzoo.load(config.source)
    kernel = tuned.params["period"]["0"]["attention"]["query"]["kernel"]
    assert isinstance(kernel, Lora)
    assert kernel.scale == config.scale == 16
    plain, adapters = models.separate(tuned.params)
    jax.tree.map(np.testing.assert_array_equal, plain, base.params)
    assert np.abs(adapters["period"]["0"]["mlp"]["down"]["kernel"]["b"]).max() > 0
    assert tuned.chat_template == CHAT_FORMATS["chatml"]


def test_a_finished_run_is_left_alone_and_another_is_refused(config, run):
    assert finetune_text(config, run)
    with pytest.raises(InputError, match="holds another run: rank is 2 there and 3 here"):
        finetune_text(dataclasses.replace(config, rank=3), run)


def test_every_parameter_is_trained_at_rank_0(config, place):
    assert finetune_text(dataclasses.replace(config, rank=0, steps=2, checkpoint_every=2), place / "whole")
    tuned, base = fmzoo.load(place / "whole"), fmzoo.load(config.source)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), tuned.params, base.params)
    assert min(jax.tree.leaves(moved)) > 0
    assert tuned.config == dataclasses.replace(base.config)


def test_a_base_in_fewer_bits_stays_as_it_is(config):
    made = prepare(dataclasses.replace(config, quantize="int4"))
    kernel = made.frozen["base"]["period"]["0"]["attention"]["query"]["kernel"]
    state, metrics = made.step(made.state, made.frozen, next(made.batches))
    assert np.isfinite(float(metrics["loss"]))
    assert jax.tree.leaves(kernel)[0].dtype == np.uint8
    assert set(state.params) <= set(made.frozen["base"])


def test_the_command_tunes_what_writes(place):
    line = ("finetune", place / "base", "--data", place / "chats", "--workdir", place / "told")
    line = (*line, "--sequence-length", "96", "--chat-template", "chatml", "--quiet")
    ended = command(*line, "--steps", "1")
    assert ended.status == 0, ended.err
    assert "is finished" in ended.out
    ended = command(*line, "--steps", "2", "--rank", "3")
    assert ended.status == 2
    assert "holds another run: rank is 16 there and 3 here" in ended.err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rank": -1}, "rank is -1; at least 0"),
        ({"rank": 0, "quantize": "int8"}, "quantize is 'int8' and rank 0 trains the base"),
        ({"sequence_length": 129}, "sequence_length 129 is over the context of the source, 128"),
        ({"chat_template": None}, "carries no chat template; name a format"),
        ({"targets": "nothing"}, "match no kernel"),
        ({"data": "nowhere.jsonl"}, "does not exist"),
        ({"sequence_length": 20}, "none of 20 conversations has an answer within 20 tokens"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_left(config, tmp_path, change, sentence):
    with pytest.raises(InputError, match=sentence):
        finetune_text(dataclasses.replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()
