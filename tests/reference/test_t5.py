"""T5's encoder against transformers, both ways; the tolerance and its reason are those of CLIP's text tower."""

import dataclasses

import jax
import numpy as np
import pytest

from fmzoo.interop import folders, t5, to_ours, to_theirs
from fmzoo.models.t5 import T5Encoder
from fmzoo.text.files import read_json, write_json

pytestmark = pytest.mark.reference
TOLERANCE = 1e-4
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CASES = {
    "gated": (23, {"vocab_size": 61, "d_model": 30, "d_kv": 8, "d_ff": 41, "num_layers": 3, "num_heads": 3} | GATED),
    "gated-far": (41, {"vocab_size": 47, "d_model": 26, "d_kv": 13, "d_ff": 30, "num_layers": 2, "num_heads": 2,
                       "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
                       "layer_norm_epsilon": 1e-5} | GATED),
    "relu": (17, {"vocab_size": 53, "d_model": 34, "d_kv": 6, "d_ff": 25, "num_layers": 2, "num_heads": 5,
                  "relative_attention_num_buckets": 12}),
}  # fmt: skip


def reference(name):
    import torch
    import transformers

    length, options = CASES[name]
    torch.manual_seed(length)
    model = transformers.T5EncoderModel._from_config(transformers.T5Config(**options)).eval()
    for path, parameter in model.named_parameters():
        kernel = parameter.shape[-1] ** -0.5 if ".q." not in path else (parameter.shape[-1] * options["d_kv"]) ** -0.5
        scale = 1.0 if "shared" in path or "relative" in path else 0.3 if parameter.ndim == 1 else 1.5 * kernel
        parameter.data = (1.0 if parameter.ndim == 1 else 0.0) + scale * torch.randn(parameter.shape)
    return model


def tokens_for(name, config):
    return np.random.default_rng(1).integers(0, config.vocab_size, (3, CASES[name][0]))


def run_reference(model, tokens, mask=None):
    import torch

    with torch.no_grad():
        mask = None if mask is None else torch.tensor(mask)
        return model(torch.tensor(tokens), attention_mask=mask).last_hidden_state.numpy()


def run_ours(config, params, tokens, segment_ids=None):
    run = jax.jit(T5Encoder(config).apply, compiler_options={"xla_backend_optimization_level": 0})
    return np.asarray(run({"params": params}, tokens, segment_ids))


def agrees(ours, theirs):
    return bool(np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max())


@pytest.mark.parametrize("name", CASES)
def test_every_state_agrees_and_no_planted_error_does(name, tmp_path):
    model = reference(name)
    model.save_pretrained(tmp_path)
    config = t5.read_config(read_json(tmp_path / "config.json"))
    params = to_ours(t5.table(config), t5.structure(config), folders.read_tensors(tmp_path))
    tokens = tokens_for(name, model.config)
    theirs = run_reference(model, tokens)
    assert theirs.std() > 0.3
    assert agrees(run_ours(config, params, tokens), theirs)
    mask = (np.arange(tokens.shape[1]) < np.asarray([[5], [tokens.shape[1]], [9]])).astype(np.int32)
    masked = run_reference(model, tokens, mask)
    assert not agrees(masked[mask > 0], theirs[mask > 0])
    assert agrees(run_ours(config, params, tokens, mask)[mask > 0], masked[mask > 0])
    planted = {
        "activation": dataclasses.replace(config, activation="gelu"),
        "epsilon": dataclasses.replace(config, epsilon=config.epsilon + 1e-3),
        "max_distance": dataclasses.replace(config, max_distance=config.max_distance // 2),
    }
    for error, wrong in planted.items():
        assert not agrees(run_ours(wrong, params, tokens), theirs), error
    table = params["relative_bias"]
    mirrored = np.concatenate(np.split(np.asarray(table), 2)[::-1])
    assert not agrees(run_ours(config, {**params, "relative_bias": mirrored}, tokens), theirs)


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_what_is_written(name, tmp_path):
    model = reference(name)
    model.save_pretrained(tmp_path / "theirs")
    config = t5.read_config(read_json(tmp_path / "theirs/config.json"))
    params = to_ours(t5.table(config), t5.structure(config), folders.read_tensors(tmp_path / "theirs"))
    (tmp_path / "ours").mkdir()
    folders.write_tensors(tmp_path / "ours", to_theirs(t5.table(config), t5.structure(config), params))
    write_json(tmp_path / "ours/config.json", t5.write_config(config))
    assert t5.read_config(read_json(tmp_path / "ours/config.json")) == config
    again, information = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(information.values())
    tokens = tokens_for(name, model.config)
    np.testing.assert_array_equal(run_reference(again.eval(), tokens), run_reference(model, tokens))
