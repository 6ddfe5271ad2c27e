"""Ten families against transformers: the same random weights give every logit, and go back bit for bit.

The tolerance is that of `test_transformers_parity`; every planted error must exceed it in the same comparison.
"""

import dataclasses
import json
import zlib

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo import models
from fmzoo.interop import huggingface
from tests.reference.test_transformers_parity import agrees, run_ours, same_weights, sizes, tokens_for

pytestmark = pytest.mark.reference

LENGTH, SHORT = 23, 9  # tokens: beyond every window and the original context below, and within
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.1, 1.3, 1.4, 2.0, 2.2],
    "long_factor": [1.2, 1.9, 3.0, 3.1, 5.0, 9.0], "original_max_position_embeddings": 16,
}  # fmt: skip
IDS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


def rope(fraction, theta=1e4, **options):
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": fraction} | options


def gpt_neox(*args, **options):
    return {name: value for name, value in sizes(*args, **options).items() if name != "num_key_value_heads"}


def gptj(vocab, width, layers, heads, rotated, **options):
    sized = {"vocab_size": vocab, "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 29}
    return sized | {"rotary_dim": rotated} | IDS | options


def gpt_neo(vocab, width, kinds, heads, **options):
    sized = {"vocab_size": vocab, "hidden_size": width, "num_layers": len(kinds), "num_heads": heads}
    return sized | {"attention_types": [[kinds, 1]], "max_position_embeddings": 29} | IDS | options


def opt(vocab, width, d_ff, layers, heads, **options):
    sized = {"vocab_size": vocab, "hidden_size": width, "ffn_dim": d_ff, "num_hidden_layers": layers}
    return sized | {"num_attention_heads": heads, "max_position_embeddings": 29} | IDS | options


def bloom(vocab, width, layers, heads, **options):
    return {"vocab_size": vocab, "hidden_size": width, "n_layer": layers, "n_head": heads} | IDS | options


def xglm(vocab, width, d_ff, layers, heads, **options):
    sized = {"vocab_size": vocab, "d_model": width, "ffn_dim": d_ff, "num_layers": layers, "attention_heads": heads}
    return sized | {"max_position_embeddings": 29} | IDS | options


CASES = {
    "phi-plain": ("PhiConfig", sizes(67, 36, 44, 3, 3, rope_parameters=rope(0.5))),
    "phi-qknorm": ("PhiConfig", sizes(71, 40, 33, 2, 4, 2, rope_parameters=rope(0.4, 1e3), qk_layernorm=True)),
    "phi-tied": (
        "PhiConfig",
        sizes(59, 28, 51, 2, 2, tie_word_embeddings=True, rope_parameters=rope(1.0, rope_type="linear", factor=3.0)),
    ),
    "phi3-window": ("Phi3Config", sizes(61, 36, 47, 3, 3, 1, sliding_window=7)),
    "phi3-partial": ("Phi3Config", sizes(73, 40, 26, 2, 4, 2, rope_parameters=rope(0.6), tie_word_embeddings=True)),
    "phi3-longrope": (
        "Phi3Config",
        sizes(47, 48, 31, 2, 4, 4, original_max_position_embeddings=16, rope_parameters=LONGROPE, hidden_act="gelu"),
    ),
    "gpt_neox-plain": ("GPTNeoXConfig", gpt_neox(67, 36, 44, 3, 3, rope_parameters=rope(0.34))),
    "gpt_neox-sequential": (
        "GPTNeoXConfig",
        gpt_neox(71, 40, 33, 2, 4, rope_parameters=rope(0.25), use_parallel_residual=False, attention_bias=False),
    ),
    "gpt_neox-tied": (
        "GPTNeoXConfig",
        gpt_neox(59, 42, 51, 2, 7, rope_parameters=rope(1.0, 1e3), tie_word_embeddings=True, hidden_act="gelu_fast"),
    ),
    "gptj-plain": ("GPTJConfig", gptj(67, 40, 3, 2, 6)),
    "gptj-whole": ("GPTJConfig", gptj(71, 36, 2, 3, 12, n_inner=53)),
    "gptj-odd": ("GPTJConfig", gptj(59, 33, 2, 3, 4, activation_function="relu", layer_norm_epsilon=1e-3)),
    "gpt_neo-plain": ("GPTNeoConfig", gpt_neo(67, 42, ["global", "local"], 3, window_size=7)),
    "gpt_neo-windows": ("GPTNeoConfig", gpt_neo(71, 40, ["local", "local", "global"], 5, window_size=4)),
    "gpt_neo-untied": (
        "GPTNeoConfig",
        gpt_neo(59, 33, ["global"], 1, intermediate_size=50, tie_word_embeddings=False, activation_function="gelu"),
    ),
    "opt-plain": ("OPTConfig", opt(67, 42, 50, 3, 3)),
    "opt-narrow": ("OPTConfig", opt(71, 40, 33, 2, 5, word_embed_proj_dim=22, do_layer_norm_before=False)),
    "opt-bare": (
        "OPTConfig",
        opt(59, 33, 47, 2, 1, enable_bias=False, _remove_final_layer_norm=True, tie_word_embeddings=False,
            activation_function="gelu_new"),
    ),
    "bloom-three": ("BloomConfig", bloom(67, 42, 3, 3)),
    "bloom-seven": ("BloomConfig", bloom(71, 35, 2, 7, layer_norm_epsilon=1e-3)),
    "bloom-untied": ("BloomConfig", bloom(59, 32, 2, 4, tie_word_embeddings=False)),
    "xglm-plain": ("XGLMConfig", xglm(67, 42, 50, 3, 3)),
    "xglm-odd": ("XGLMConfig", xglm(71, 39, 33, 2, 3, scale_embedding=False, activation_function="relu")),
    "xglm-untied": ("XGLMConfig", xglm(59, 40, 47, 2, 5, tie_word_embeddings=False)),
    "olmo2-plain": ("Olmo2Config", sizes(67, 36, 44, 3, 3)),
    "olmo2-grouped": ("Olmo2Config", sizes(71, 40, 33, 2, 4, 2, 14, tie_word_embeddings=True, rms_norm_eps=1e-3)),
    "olmo2-bias": (
        "Olmo2Config",
        sizes(59, 28, 51, 2, 2, 1, attention_bias=True,
              rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}),
    ),
    "smollm3-fourth": ("SmolLM3Config", sizes(67, 36, 44, 5, 3, 1, tie_word_embeddings=True)),
    "smollm3-listed": (
        "SmolLM3Config", sizes(71, 40, 33, 3, 4, 2, no_rope_layers=[0, 1, 1], attention_bias=True, mlp_bias=True)
    ),
    "smollm3-windows": (
        "SmolLM3Config",
        sizes(59, 28, 51, 4, 2, 1, 18, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=7,
              layer_types=["sliding_attention", "full_attention"] * 2),
    ),
}  # fmt: skip
QUERIES = ("q_proj", "k_proj", "query_key_value", "qkv_proj")


def reference(name):
    """A model of transformers with random weights large enough that scores and logits vary by 1 or more."""
    import torch
    import transformers

    cls, options = CASES[name]
    config = getattr(transformers, cls)(**options)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    for path, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = centre_of(path, weight) + scale_of(path, weight) * noise
    return model


def centre_of(path, weight):
    """Norms keep their 1 or 0; those of queries and keys are larger, since they alone set the size of the scores."""
    wider = 0.6 if any(part in path for part in ("q_norm", "k_norm", "q_layernorm", "k_layernorm")) else 0.0
    return weight.data + wider if "norm" in path or "ln_" in path else 0.0


def scale_of(path, weight):
    """The standard deviation: as wide as its input for kernels, and wider where scores come from and are scaled."""
    if weight.ndim == 1 or "wpe" in path or "embed_positions" in path:
        return 0.3
    if any(part in path for part in ("embed", "wte", "lm_head")):
        return 4 * max(weight.shape) ** -0.5
    wide = any(part in path for part in QUERIES) and "attn.attention" not in path
    return (2.5 if wide else 1.2) * weight.shape[1] ** -0.5


def run_reference(model, tokens):
    """Logits, and the least standard deviation that scores have over the keys that a query sees, layer by layer."""
    import torch

    with torch.no_grad():
        found = model(torch.tensor(tokens), output_attentions=True)
    assert len(found.attentions) == model.config.num_hidden_layers
    spread = []
    for weights in found.attentions:
        scores = torch.log(weights[..., -1, :].reshape(-1, tokens.shape[1])).numpy()
        spread.append(np.mean([np.std(row[np.isfinite(row)]) for row in scores]))
    return found.logits.numpy(), min(spread)


def at_length(config, length):
    """Transformers takes the factors of long sequences in calls that are long; here the config says which."""
    if config.rope.scaling != "longrope":
        return config
    return models.replace(config, rope__stretched=length > config.rope.original_context)


def planted_errors(name, config):
    """The config with one mistake in what this family has of its own."""
    a, r = config.attention, config.rope
    found = {
        "phi-plain": {"rope__fraction": 0.67, "mlp__activation": "gelu"},
        "phi-qknorm": {"rope__theta": r.theta * 1.1},
        "phi3-window": {"attention__window": (a.window or 0) + 1},
        "phi3-longrope": {"rope__stretched": False, "rope__attention_factor": 1.0},
        "gpt_neox-plain": {"block": "sequential", "rope__fraction": 0.5},
        "gpt_neox-tied": {"mlp__activation": "gelu"},
        "gptj-plain": {"rope__interleaved": False, "rope__fraction": 0.4},
        "gpt_neo-plain": {"attention__scale": None, "attention__window": (a.window or 0) - 1},
        "opt-plain": {"mlp__activation": "gelu"},
        "bloom-three": {"embed_norm": False, "position": "none", "attention__scale": 0.3},
        "xglm-plain": {"position_offset": 1, "scaled_embedding": False},
        "olmo2-plain": {"norm__epsilon": 1e-2},
        "smollm3-fourth": {"pattern": ("global",) * 4},
        "smollm3-windows": {"attention__window": (a.window or 0) + 1},
    }.get(name, {})
    changed = {field: models.replace(config, **{field: value}) for field, value in found.items()}
    if name == "smollm3-windows":
        changed |= {"turned": models.replace(config, pattern=("local", "global"))}
    return changed


def swapped(params, one, other):
    """Parameters with two kernels of equal shape in each other's place."""
    attention = params["period"]["0"]["attention"]
    attention = attention | {one: attention[other], other: attention[one]}
    return params | {"period": params["period"] | {"0": params["period"]["0"] | {"attention": attention}}}


def shifted(params):
    """Parameters with each position's row in the place of the next one's."""
    return params | {"position_embed": jax.numpy.roll(params["position_embed"], 1, axis=0)}


@pytest.mark.parametrize("name", CASES)
def test_every_logit_agrees_and_no_planted_error_does(name, tmp_path):
    model = reference(name)
    model.save_pretrained(tmp_path)
    ours = fmzoo.load(tmp_path)
    if ours.config.rope.scaling == "longrope":
        tokens = tokens_for(model.config, SHORT)
        theirs, _ = run_reference(model, tokens)
        assert agrees(run_ours(ours, tokens, at_length(ours.config, SHORT)), theirs)
    tokens = tokens_for(model.config, LENGTH)
    theirs, spread = run_reference(model, tokens)
    assert theirs.std() >= 1
    assert spread >= 1
    assert agrees(run_ours(ours, tokens), theirs)
    for error, config in planted_errors(name, ours.config).items():
        assert not agrees(run_ours(ours, tokens, config), theirs), error
    if name in ("phi3-longrope", "gpt_neox-plain", "bloom-three"):  # whose tensors are joined
        wrong = models.Pretrained(ours.module, swapped(ours.params, "query", "key"), ours.config)
        assert not agrees(run_ours(wrong, tokens), theirs)
    if name in ("opt-plain", "gpt_neo-plain"):
        assert not agrees(run_ours(models.Pretrained(ours.module, shifted(ours.params), ours.config), tokens), theirs)


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_comes_back_bit_for_bit(name, tmp_path):
    import transformers

    model = reference(name)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB" if name.endswith(("plain", "window")) else "1GB")
    huggingface.save(fmzoo.load(tmp_path / "theirs"), tmp_path / "ours", model_type=name.split("-")[0])
    again, information = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(information.values())
    assert same_weights(model, again)
    tokens = tokens_for(model.config, LENGTH)
    np.testing.assert_array_equal(run_reference(again, tokens)[0], run_reference(model, tokens)[0])


@pytest.mark.parametrize("name", ["phi3-window", "gpt_neox-plain", "bloom-three"])
def test_bfloat16_weights_come_back_bit_for_bit(name, tmp_path):
    import torch
    import transformers

    model = reference(name).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs")
    huggingface.save(fmzoo.load(tmp_path / "theirs", "bfloat16"), tmp_path / "ours", model_type=name.split("-")[0])
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
    assert again.dtype == torch.bfloat16
    assert same_weights(model, again)


def test_phi_3_as_the_family_that_it_was_or_the_first_that_computes_it(tmp_path):
    """Of a model that does not say what it is, a Mistral is saved, of which transformers makes the same logits."""
    import transformers

    model = reference("phi3-window")
    model.save_pretrained(tmp_path / "theirs")
    pretrained = fmzoo.load(tmp_path / "theirs")
    fmzoo.save(pretrained, tmp_path / "same")
    assert json.loads((tmp_path / "same" / "config.json").read_text())["model_type"] == "phi3"
    fmzoo.save(dataclasses.replace(pretrained, model_type=None), tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    assert type(again).__name__ == "MistralForCausalLM"
    tokens = tokens_for(model.config, LENGTH)
    assert agrees(run_reference(again, tokens)[0], run_reference(model, tokens)[0])
