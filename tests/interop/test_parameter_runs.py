"""A decoder as a run's folder: out, in, and what goes along; chat template and stop ids of folders of transformers."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo.errors import InputError
from fmzoo.interop import generation_files
from fmzoo.interop.huggingface import read_config
from fmzoo.models import Pretrained
from fmzoo.stages.describe import describe
from fmzoo.text import ByteTokenizer
from tests.interop.test_huggingface import assert_same, attributes, pretrained
from tests.interop.test_stored import made

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def model():
    plain = pretrained(read_config(attributes("llama", vocab_size=258, hidden_size=16, tie_word_embeddings=False))[1])
    changes = {"tokenizer": ByteTokenizer(), "chat_template": TEMPLATE, "stop_ids": (3, 257), "model_type": "llama"}
    return dataclasses.replace(plain, **changes)


def same_but_for_parameters(one, other):
    return all(getattr(one, f) == getattr(other, f) for f in ("config", "chat_template", "stop_ids", "model_type"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_orbax_goes_out_and_in(dtype, tmp_path):
    saved = model()
    saved = dataclasses.replace(saved, params=jax.tree.map(lambda leaf: leaf.astype(dtype), saved.params))
    fmzoo.save(saved, tmp_path / "run", "orbax")
    loaded = fmzoo.load(tmp_path / "run", dtype)
    assert_same(loaded.params, saved.params)
    assert same_but_for_parameters(loaded, saved)
    assert loaded.tokenizer.encode("a") == [97]
    assert describe(tmp_path / "run").steps == (0,)


def test_a_run_is_restored_onto_a_mesh(tmp_path):
    fmzoo.save(model(), tmp_path / "run", "orbax")
    loaded = fmzoo.load(tmp_path / "run", mesh="fsdp=4,tensor=2")
    assert_same(jax.device_get(loaded.params), model().params)
    kernel = loaded.params["period"]["0"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (5, 4, 5)
    with pytest.raises(InputError, match="mesh axis fsdp=8 does not divide"):
        fmzoo.load(tmp_path / "run", mesh="tensor=1,fsdp=8", rules=fmzoo.models.DECODER_RULES._replace(
            axes=dict(fmzoo.models.DECODER_RULES.axes) | {"d_ff": "fsdp", "embed": None}
        ))  # fmt: skip


def test_a_checkpoint_of_others_becomes_a_run_and_one_of_others_again(tmp_path):
    folder = made(tmp_path / "model", "phi3")
    fmzoo.convert(folder, tmp_path / "run", "orbax")
    fmzoo.convert(tmp_path / "run", tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["model_type"] == "phi3"
    assert_same(fmzoo.load(tmp_path / "back").params, fmzoo.load(folder).params)


def test_what_cannot_be_a_run_is_refused(tmp_path):
    image = Pretrained(None, {}, fmzoo.models.UNetConfig())
    with pytest.raises(InputError, match="format is 'orbax' and the model is a UNetConfig"):
        fmzoo.save(image, tmp_path / "run", "orbax")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    with pytest.raises(InputError, match="exists already"):
        fmzoo.save(model(), tmp_path / "full", "orbax")
    wrong = dataclasses.replace(model(), params={"embed": np.zeros(3)})
    with pytest.raises(InputError, match=r"has \(3,\) at embed"):
        fmzoo.save(wrong, tmp_path / "run", "orbax")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_how_answers_are_framed_and_end_goes_along(tmp_path):
    fmzoo.save(model(), tmp_path / "model")
    assert same_but_for_parameters(fmzoo.load(tmp_path / "model"), model())
    stored = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert stored == {"bos_token_id": 256, "eos_token_id": [3, 257]}


CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
NAMED = [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (None, ())),
        ({CONFIG: {"eos_token_id": 7}}, (None, (7,))),
        ({CONFIG: {"eos_token_id": 7}, GENERATION: {"eos_token_id": [5, 3, 99, "2"]}}, (None, (3, 5))),
        ({TOKENIZER: {"chat_template": "a"}}, ("a", ())),
        ({TOKENIZER: {"chat_template": "a"}, "chat_template.jinja": "b"}, ("b", ())),
        ({TOKENIZER: {"chat_template": NAMED}}, ("b", ())),
        ({TOKENIZER: {"chat_template": [*NAMED[:1], 3]}}, (None, ())),
        ({TOKENIZER: {"chat_template": {"default": "a"}}}, (None, ())),
    ],
)
def test_template_and_stop_ids_are_found(files, expected, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert generation_files.read(tmp_path, 19) == expected
