"""Five families with experts against transformers: the same random weights give every logit, and go back bit for bit.

The tolerance is that of `test_transformers_parity`; every planted error must exceed it in the same comparison.
"""

import dataclasses
import json
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

import fmzoo
from fmzoo import models
from fmzoo.interop import huggingface
from tests.reference.test_transformers_parity import agrees, run_ours, same_weights, sizes, tokens_for

pytestmark = pytest.mark.reference

LENGTH = 23  # tokens: beyond the window and the original context below
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "original_max_position_embeddings": 16}
ROPE = {"rope_type": "default", "rope_theta": 1e3}


def mixture(vocab, width, d_ff, layers, heads, kv_heads, head_dim, experts, chosen, **options):
    number = {"num_local_experts": experts, "num_experts_per_tok": chosen}
    return sizes(vocab, width, d_ff, layers, heads, kv_heads, head_dim) | number | options


def qwen3(*numbers, d_ff, **options):
    found = mixture(*numbers, moe_intermediate_size=d_ff, **options)
    return found | {"num_experts": found.pop("num_local_experts")}


def olmoe(*numbers, **options):
    found = mixture(*numbers[:6], None, *numbers[6:], **options)
    return {name: value for name, value in found.items() if name != "head_dim"} | {
        "num_experts": found.pop("num_local_experts")
    }


def deepseek(vocab, width, d_ff, layers, heads, rank, still, turned, value, experts, chosen, **options):
    return sizes(vocab, width, d_ff, layers, heads) | {
        "kv_lora_rank": rank, "qk_nope_head_dim": still, "qk_rope_head_dim": turned, "v_head_dim": value,
        "n_routed_experts": experts, "num_experts_per_tok": chosen,
    } | options  # fmt: skip


CASES = {
    "mixtral-window": ("MixtralConfig", mixture(61, 34, 23, 3, 4, 2, 10, 5, 2, sliding_window=7)),
    "mixtral-all": ("MixtralConfig", mixture(53, 30, 17, 2, 3, 1, 12, 3, 3, tie_word_embeddings=True)),
    "mixtral-one": ("MixtralConfig", mixture(71, 38, 29, 2, 6, 3, 8, 7, 1, rope_parameters=ROPE, hidden_act="gelu")),
    "qwen3_moe-renormalised": ("Qwen3MoeConfig", qwen3(67, 36, 40, 2, 4, 2, 14, 6, 3, d_ff=19, norm_topk_prob=True)),
    "qwen3_moe-plain": (
        "Qwen3MoeConfig", qwen3(59, 42, 31, 3, 6, 2, 10, 5, 2, d_ff=13, attention_bias=True, rope_parameters=ROPE),
    ),
    "qwen3_moe-dense": (
        "Qwen3MoeConfig",
        qwen3(73, 28, 33, 3, 3, 3, 16, 4, 2, d_ff=21, norm_topk_prob=True, mlp_only_layers=[0], rope_parameters=ROPE),
    ),
    "olmoe-plain": ("OlmoeConfig", olmoe(67, 36, 21, 2, 3, 3, 6, 3)),
    "olmoe-renormalised": ("OlmoeConfig", olmoe(59, 40, 15, 3, 4, 2, 5, 2, norm_topk_prob=True, rope_parameters=ROPE)),
    "olmoe-bias": ("OlmoeConfig", olmoe(71, 28, 27, 2, 2, 1, 9, 4, attention_bias=True, tie_word_embeddings=True)),
    "deepseek_v2-lite": (
        "DeepseekV2Config",
        deepseek(
            67, 36, 44, 3, 3, 12, 10, 6, 9, 6, 3, q_lora_rank=None, first_k_dense_replace=1, moe_intermediate_size=13,
            n_shared_experts=2, rope_parameters=YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        ),
    ),
    "deepseek_v2-groups": (
        "DeepseekV2Config",
        deepseek(
            59, 40, 37, 4, 4, 14, 8, 4, 11, 8, 3, q_lora_rank=17, first_k_dense_replace=2, moe_intermediate_size=9,
            n_shared_experts=1, routed_scaling_factor=1.7, topk_method="group_limited_greedy", n_group=4, topk_group=2,
            rope_parameters=YARN | {"mscale": 0.6, "mscale_all_dim": 1.0},
        ),
    ),
    "deepseek_v2-bias": (
        "DeepseekV2Config",
        deepseek(
            73, 28, 33, 2, 2, 10, 12, 8, 7, 5, 2, q_lora_rank=15, moe_intermediate_size=11, n_shared_experts=1,
            attention_bias=True, rope_parameters=ROPE,
        ),
    ),
    "deepseek_v3-groups": (
        "DeepseekV3Config",
        deepseek(
            67, 36, 44, 3, 3, 11, 10, 6, 9, 8, 3, q_lora_rank=14, first_k_dense_replace=1, moe_intermediate_size=13,
            n_group=4, topk_group=2, rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        ),
    ),
    "deepseek_v3-plain": (
        "DeepseekV3Config",
        deepseek(
            59, 40, 37, 2, 4, 13, 8, 4, 11, 6, 2, q_lora_rank=None, first_k_dense_replace=0, moe_intermediate_size=9,
            n_group=1, topk_group=1, norm_topk_prob=False, rope_interleave=False, rope_parameters=ROPE,
        ),
    ),
    "deepseek_v3-bias": (
        "DeepseekV3Config",
        deepseek(
            73, 28, 33, 4, 2, 9, 12, 8, 7, 6, 3, q_lora_rank=15, first_k_dense_replace=2, moe_intermediate_size=11,
            n_shared_experts=2, n_group=2, topk_group=1, routed_scaling_factor=0.7, attention_bias=True,
            rope_parameters=ROPE,
        ),
    ),
}  # fmt: skip
FAMILIES = sorted({name.split("-")[0] for name in CASES})


def reference(name):
    """A model of transformers with random weights large enough that scores and logits vary by 1 or more."""
    import torch
    import transformers

    cls, options = CASES[name]
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, cls)(**options), attn_implementation="eager", experts_implementation="eager"
    ).eval()
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    biases = [(path, bias) for path, bias in model.named_buffers() if "e_score_correction_bias" in path]
    for path, weight in [*model.named_parameters(), *biases]:
        noise = torch.randn(weight.shape, generator=generator)
        centre = weight.data + (0.6 if "q_norm" in path or "k_norm" in path else 0) if "norm" in path else 0.0
        weight.data = centre + scale_of(path, weight) * noise
    return model


def scale_of(path, weight):
    """The standard deviation: as wide as its input for kernels, and wider where scores come from."""
    if weight.ndim == 1:
        return 0.3
    if "embed" in path or "lm_head" in path:
        return 4 * max(weight.shape) ** -0.5
    wide = ("q_proj", "k_proj", "q_b_proj", "kv_a_proj", "kv_b_proj", "mlp.gate.weight")
    return (2.0 if any(part in path for part in wide) else 1.2) * weight.shape[-1] ** -0.5


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


def planted_errors(name, config):
    """The config with one mistake in what this family has of its own."""
    a, e, r = config.attention, config.experts, config.rope
    found = {
        "mixtral-window": {"experts__renormalised": False, "attention__window": (a.window or 0) + 1},
        "qwen3_moe-renormalised": {"experts__renormalised": False, "experts__top_k": e.top_k - 1},
        "qwen3_moe-plain": {"experts__renormalised": True},
        "olmoe-plain": {"experts__renormalised": True},
        "deepseek_v2-lite": {"attention__scale": None, "rope__interleaved": False, "experts__scale": 1.1},
        "deepseek_v2-groups": {"experts__top_groups": 4, "rope__attention_factor": 1.0},
        "deepseek_v3-groups": {
            "experts__group_score": "max", "experts__scores": "softmax", "attention__scale": a.head_dim**-0.5,
        },
        "deepseek_v3-plain": {"experts__renormalised": True, "rope__interleaved": True},
        "deepseek_v3-bias": {"rope__theta": r.theta * 1.1},
    }.get(name, {})  # fmt: skip
    return {field: models.replace(config, **{field: value}) for field, value in found.items()}


def planted_in_weights(name, params):
    """Parameters with two experts in each other's place, or without the bias of the choice."""
    period = params["period"]["0"]
    experts, found = period["experts"], {}
    if name == "mixtral-window":
        kernel = jnp.roll(experts["up"]["kernel"], 1, axis=1)
        found["another expert's kernel"] = experts | {"up": {"kernel": kernel}}
    if name == "deepseek_v3-bias":
        router = experts["router"] | {"bias": jnp.zeros_like(experts["router"]["bias"])}
        found["no bias"] = experts | {"router": router}
    return {error: params | {"period": {"0": period | {"experts": changed}}} for error, changed in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_logit_agrees_and_no_planted_error_does(name, tmp_path):
    model = reference(name)
    model.save_pretrained(tmp_path)
    ours, tokens = fmzoo.load(tmp_path), tokens_for(model.config, LENGTH)
    theirs, spread = run_reference(model, tokens)
    assert theirs.std() >= 1
    assert spread >= 1
    assert ours.config.experts.num_experts == CASES[name][1].get("n_routed_experts", ours.config.experts.num_experts)
    assert agrees(run_ours(ours, tokens), theirs)
    for error, config in planted_errors(name, ours.config).items():
        assert not agrees(run_ours(ours, tokens, config), theirs), error
    for error, params in planted_in_weights(name, ours.params).items():
        assert not agrees(run_ours(dataclasses.replace(ours, params=params), tokens), theirs), error


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_comes_back_bit_for_bit(name, tmp_path):
    import torch
    import transformers

    model = reference(name)
    dtype = torch.bfloat16 if name.endswith(("plain", "lite", "one")) else torch.float32
    model.to(dtype).save_pretrained(tmp_path / "theirs")
    loaded = fmzoo.load(tmp_path / "theirs", dtype=str(dtype).removeprefix("torch."))
    huggingface.save(loaded, tmp_path / "ours")
    assert json.loads((tmp_path / "ours/config.json").read_text())["model_type"] == name.split("-")[0]
    again, information = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype="auto", output_loading_info=True
    )
    assert not any(information.values())
    assert same_weights(model, again)
    if dtype == torch.float32:
        tokens = tokens_for(model.config, LENGTH)
        again.set_attn_implementation("eager")
        again.set_experts_implementation("eager")
        np.testing.assert_array_equal(run_reference(again, tokens)[0], run_reference(model, tokens)[0])
