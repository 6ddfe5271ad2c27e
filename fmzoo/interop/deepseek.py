"""DeepSeek-V2 and V3 in the format of transformers: latent attention, dense first layers, then experts."""

import dataclasses
import math
from typing import Any

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.experts import expert_rows, experts_of, ignore_training, read_dense_layers, read_experts
from fmzoo.interop.family import (
    ACTIVATIONS,
    Family,
    llama_rows,
    llama_table,
    read_depth,
    read_sizes,
    write_activation,
    write_sizes,
)
from fmzoo.interop.mapping import Row, Table, torch_linear
from fmzoo.interop.rope import read_rope
from fmzoo.models import AttentionConfig, DecoderConfig, ExpertsConfig, LatentConfig, MlpConfig, NormConfig, RopeConfig

NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
ATTENTION = {
    "query_down": "q_a_proj", "query_up": "q_b_proj", "key_value_down": "kv_a_proj_with_mqa",
    "key_value_up": "kv_b_proj",
}  # fmt: skip
SECOND = {
    "vocab_size": 102_400, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "rope_theta": 10_000.0, "attention_bias": False, "attention_dropout": 0.0,
    "first_k_dense_replace": 0, "kv_lora_rank": 512, "q_lora_rank": 1536, "n_routed_experts": 64,
    "n_shared_experts": 2, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "routed_scaling_factor": 1.0,
    "topk_method": "greedy", "v_head_dim": 128, "moe_intermediate_size": 1407,
}  # fmt: skip
THIRD = SECOND | {
    "vocab_size": 129_280, "hidden_size": 7168, "intermediate_size": 18_432, "num_hidden_layers": 61,
    "num_attention_heads": 128, "max_position_embeddings": 4096, "first_k_dense_replace": 3, "n_routed_experts": 256,
    "n_shared_experts": 1, "routed_scaling_factor": 2.5, "moe_intermediate_size": 2048, "n_group": 8,
    "topk_group": 4, "num_experts_per_tok": 8, "norm_topk_prob": True, "rope_interleave": True,
}  # fmt: skip


def _table(config: DecoderConfig) -> Table:
    """Layers past the last one, which predict more than one token, are left out."""
    ours, theirs = "layers/{i}/attention", "model.layers.{i}.self_attn"
    latents = [row for a, b in ATTENTION.items() for row in torch_linear(f"{ours}/{a}", f"{theirs}.{b}")]
    scales = [
        Row(f"{ours}/{a}_norm/scale", f"{theirs}.{b}_a_layernorm.weight")
        for a, b in (("query", "q"), ("key_value", "kv"))
    ]
    rows = (*latents, *scales, *llama_rows(NORMS), *expert_rows(config, "mlp"))
    return llama_table(rows, ignored=(f"model.layers.{config.num_layers}.*",))


def _decoder(a: Attributes, experts: dict[str, Any], interleaved: bool) -> DecoderConfig:
    sizes, bias = read_sizes(a), a.take("attention_bias", bool)
    heads, rope_dim = a.integer("num_attention_heads"), a.integer("qk_rope_head_dim")
    head_dim = a.integer("qk_nope_head_dim") + rope_dim
    a.demand("num_key_value_heads", heads, None)
    a.demand("head_dim", rope_dim, None)
    a.demand("qk_head_dim", head_dim, None)
    rope = dataclasses.replace(read_rope(a, sizes["context_length"]), interleaved=interleaved)
    latent = LatentConfig(
        a.integer("kv_lora_rank"), a.integer("q_lora_rank", optional=True), rope_dim, a.integer("v_head_dim")
    )
    attention = AttentionConfig(
        heads, heads, head_dim, scale=_read_scale(a, head_dim, rope), qkv_bias=bias, out_bias=bias,
        dropout=a.number("attention_dropout"), latent=latent,
    )  # fmt: skip
    return DecoderConfig(
        **sizes,
        prefix=("global",) * experts["dense_layers"],
        attention=attention,
        mlp=MlpConfig(d_ff=a.integer("intermediate_size"), activation=a.one_of("hidden_act", ACTIVATIONS)),
        experts=ExpertsConfig(**experts),
        norm=NormConfig(epsilon=a.number("rms_norm_eps")),
        rope=rope,
    )


def _read_scale(a: Attributes, head_dim: int, rope: RopeConfig) -> float:
    """Of the scores: YaRN's factor over all dimensions counts twice, for queries and for keys."""
    spellings = [a.take(name, dict, optional=True) or {} for name in ("rope_scaling", "rope_parameters")]
    over = next((s["mscale_all_dim"] for s in spellings if s.get("mscale_all_dim")), 0)
    return head_dim**-0.5 * (_mscale(rope.factor, over) ** 2 if rope.scaling == "yarn" else 1.0)


def _mscale(factor: float, mscale: float) -> float:
    """YaRN's factor on cos and sin (arXiv 2309.00071, eq. 22), as DeepSeek weighs its logarithm."""
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def _read_experts(a: Attributes) -> dict[str, Any]:
    """What V2 and V3 share."""
    ignore_training(a)
    a.demand("moe_layer_freq", 1)
    a.demand("ep_size", 1)
    for name in ("num_nextn_predict_layers", "num_mtp_layers"):
        a.integer(name, optional=True, least=0)
    a.take("auto_map", dict, optional=True)
    number, d_ff = read_experts(a, "n_routed_experts"), a.integer("moe_intermediate_size")
    a.demand("num_local_experts", number)
    a.demand("num_experts", number)
    return {
        "num_experts": number,
        "top_k": a.integer("num_experts_per_tok"),
        "d_ff": d_ff,
        "dense_layers": read_dense_layers(a, "first_k_dense_replace", read_depth(a)),
        "scale": a.number("routed_scaling_factor", above=0),
        "shared_d_ff": d_ff * a.integer("n_shared_experts"),
    }


def _read_two(a: Attributes) -> DecoderConfig:
    """The chosen scores are never renormalised, whatever `norm_topk_prob` says to transformers."""
    a.demand("norm_topk_prob", False, None)
    a.demand("scoring_func", "softmax")
    a.demand("mlp_bias", False)
    groups, kept = (a.integer(name, optional=True) for name in ("n_group", "topk_group"))
    limited = a.one_of("topk_method", {"greedy": False, "group_limited_greedy": True})
    if limited and not (groups and kept):
        raise a.refuse("n_group", groups, "with topk_group a number of groups")
    choice = {"groups": groups, "top_groups": kept} if limited else {}
    return _decoder(a, _read_experts(a) | choice | {"renormalised": False}, interleaved=True)


def _read_three(a: Attributes) -> DecoderConfig:
    a.demand("scoring_func", "sigmoid")
    a.demand("topk_method", "noaux_tc")
    choice = {
        "scores": "sigmoid",
        "renormalised": a.take("norm_topk_prob", bool),
        "groups": a.integer("n_group"),
        "top_groups": a.integer("topk_group"),
        "group_score": "top2",
        "selection_bias": True,
    }
    return _decoder(a, _read_experts(a) | choice, interleaved=a.take("rope_interleave", bool))


def _write(c: DecoderConfig) -> dict[str, Any]:
    a, e, latent = c.attention, experts_of(c), c.attention.latent
    if latent is None:
        raise InputError("attention.latent is None; latent attention is needed to be a DeepSeek")
    if e.shared_d_ff % e.d_ff or not e.shared_d_ff:
        raise InputError(f"shared_d_ff is {e.shared_d_ff}; a multiple of the experts' d_ff {e.d_ff} is needed")
    attributes = write_sizes(c) | {
        "hidden_act": write_activation(c),
        "kv_lora_rank": latent.kv_rank,
        "q_lora_rank": latent.q_rank,
        "qk_rope_head_dim": latent.rope_dim,
        "qk_nope_head_dim": a.head_dim - latent.rope_dim,
        "v_head_dim": latent.value_dim,
        "first_k_dense_replace": e.dense_layers,
        "n_routed_experts": e.num_experts,
        "num_experts_per_tok": e.top_k,
        "moe_intermediate_size": e.d_ff,
        "n_shared_experts": e.shared_d_ff // e.d_ff,
        "routed_scaling_factor": e.scale,
        "norm_topk_prob": e.renormalised,
    }
    del attributes["head_dim"]
    if c.rope.scaling == "yarn":
        attributes["rope_scaling"] |= _write_mscale(c)
    return attributes


def _write_mscale(c: DecoderConfig) -> dict[str, float]:
    """The weights of YaRN's logarithm that give the config's scale and its factor on cos and sin."""
    a, rope = c.attention, c.rope
    if a.scale is None or rope.factor <= 1:
        return {}
    over, log = (a.scale * a.head_dim**0.5) ** 0.5, 0.1 * math.log(rope.factor)
    given = _mscale(rope.factor, 1) if rope.attention_factor is None else rope.attention_factor
    # Rounded, 0.707 comes back as it was.
    return {"mscale": round((given * over - 1) / log, 9), "mscale_all_dim": round((over - 1) / log, 9)}


def _write_two(c: DecoderConfig) -> dict[str, Any]:
    e = experts_of(c)
    limited = {"topk_method": "group_limited_greedy", "n_group": e.groups, "topk_group": e.top_groups}
    return _write(c) | (limited if e.groups > 1 else {"topk_method": "greedy"})


def _write_three(c: DecoderConfig) -> dict[str, Any]:
    e = experts_of(c)
    return _write(c) | {
        "n_group": e.groups, "topk_group": e.top_groups, "rope_interleave": c.rope.interleaved,
        "num_nextn_predict_layers": 0,
    }  # fmt: skip


FAMILIES = (
    Family("deepseek_v2", "DeepseekV2ForCausalLM", _table, SECOND, _read_two, _write_two),
    Family("deepseek_v3", "DeepseekV3ForCausalLM", _table, THIRD, _read_three, _write_three),
)
