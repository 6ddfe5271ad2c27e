"""`load` and `save`: which source is what, and what is said when it is none."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict

import fmzoo
from fmzoo import train
from fmzoo.errors import InputError
from fmzoo.interop import config_json, decoder_structure
from fmzoo.models import AttentionConfig, Decoder, DecoderConfig, MlpConfig, Pretrained
from fmzoo.text import ByteTokenizer

CONFIG = DecoderConfig(258, 16, 3, 32, AttentionConfig(2, 1, 8, window=4), MlpConfig(24), pattern=("local",))


def model(config=CONFIG):
    draw = np.random.default_rng(0).standard_normal
    shapes = decoder_structure(config).shapes
    params = unflatten_dict({path: 0.3 * draw(shape).astype(np.float32) for path, shape in shapes.items()}, sep="/")
    return Pretrained(Decoder(config), params, config, ByteTokenizer())


def run_folder(folder):
    """A run with two checkpoints, of which the newer holds the parameters and twice these as their average."""
    folder.mkdir()
    values = {"fmzoo": "0", "stage": "pretrain", "model": config_json.to_json(CONFIG)}
    (folder / "config.json").write_text(json.dumps(values))
    ByteTokenizer().save(folder / "tokenizer")
    checkpoints = train.Checkpoints(folder / "checkpoints")
    for step, factor in ((3, 0.0), (7, 1.0)):
        params = jax.tree.map(lambda leaf, factor=factor: jnp.asarray(leaf * factor), model().params)
        state = train.init_state(params, optax.sgd(0.1), jax.random.key(0), ema=True)
        checkpoints.save(step, state.replace(ema=jax.tree.map(lambda leaf: 2 * leaf, params)), {})
    checkpoints.close()
    return folder


def same(one, other):
    return jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), one, other))


def test_what_is_saved_loads_and_runs(tmp_path):
    fmzoo.save(model(), tmp_path / "model")
    loaded = fmzoo.load(tmp_path / "model")
    assert loaded.config == CONFIG
    assert same(loaded.params, model().params)
    tokens = np.array([loaded.tokenizer.encode("hello")])
    expected = model().module.apply({"params": model().params}, tokens)
    np.testing.assert_array_equal(loaded.module.apply({"params": loaded.params}, tokens), expected)


def test_stored_and_computed_dtypes_are_chosen_apart(tmp_path):
    fmzoo.save(model(), tmp_path / "model")
    loaded = fmzoo.load(str(tmp_path / "model"), dtype="bfloat16", compute_dtype="float16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(loaded.params)} == {"bfloat16"}
    assert loaded.config.dtype == loaded.module.config.dtype == "float16"


def test_float64_is_exact_where_it_is_enabled(tmp_path, x64):
    fmzoo.save(model(), tmp_path / "model")
    assert same(fmzoo.load(tmp_path / "model", dtype="float64").params, model().params)


def test_a_run_gives_its_newest_parameters_or_their_average(tmp_path):
    folder = run_folder(tmp_path / "run")
    newest, average = fmzoo.load(folder), fmzoo.load(folder, dtype="bfloat16", average=True)
    assert newest.config == CONFIG
    assert newest.tokenizer.encode("a") == [97]
    assert same(newest.params, model().params)
    doubled = jax.tree.map(lambda leaf: jnp.asarray(2 * leaf, "bfloat16"), model().params)
    assert same(average.params, doubled)


def test_a_path_comes_before_a_name_of_the_zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fmzoo.save(model(), "gpt2-124m")
    assert fmzoo.load("gpt2-124m").config == CONFIG


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        ("llama2-7b", {}, "llama2-7b is a configuration without weights; fmzoo.load.'meta-llama/Llama-2-7b-hf'. "),
        ("llama2-34b", {}, "llama2-34b is a configuration without weights; none exist"),
        (
            "lama2-7b",
            {},
            "source 'lama2-7b' is no run folder, no path and no name of the zoo; the nearest are llama2-7b",
        ),
        ("llama2-7b", {"dtype": "int8"}, "dtype is 'int8'; one of float32, bfloat16, float16, float64 is needed"),
        ("llama2-7b", {"dtype": "float64"}, "float64 with jax_enable_x64"),
        ("llama2-7b", {"average": True}, "average is True and llama2-7b is no run folder"),
    ],
)
def test_what_is_no_source_is_refused(source, options, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence) as caught:
        fmzoo.load(source, **options)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("pytorch_model.bin", "is a pickle, which is never loaded"),
        ("notes.txt", "is a file of no known format; a folder with config.json and safetensors is needed"),
    ],
)
def test_a_file_is_refused(name, sentence, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match=sentence):
        fmzoo.load(tmp_path / name)


def test_a_damaged_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"fmzoo": "0", "model": {"num_layer": 3}}))
    with pytest.raises(InputError, match="model has no field 'num_layer'; the nearest are num_layers"):
        fmzoo.load(tmp_path)


def test_nothing_is_saved_over_what_is_there(tmp_path):
    (tmp_path / "file").write_text("1")
    with pytest.raises(InputError, match="exists already; a new or an empty folder is needed"):
        fmzoo.save(model(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(InputError, match="format is 'onnx'; one of huggingface, diffusers, gguf"):
        fmzoo.save(model(), tmp_path / "model", format="onnx")


def test_a_weight_that_is_no_plain_array_is_not_saved(tmp_path):
    params = model().params
    params["head"] = object()
    with pytest.raises(InputError, match=r"parameter head is a object; an array of shape \(16, 258\) is needed"):
        fmzoo.save(Pretrained(Decoder(CONFIG), params, CONFIG), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
