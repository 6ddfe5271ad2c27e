"""Configs and folders of the families with experts, without transformers: both directions, and what is refused."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fmzoo import zoo
from fmzoo.errors import InputError
from fmzoo.interop import huggingface
from fmzoo.interop.huggingface import read_config, write_config
from fmzoo.interop.network import differences
from fmzoo.models import replace
from tests.interop.test_huggingface import assert_same, pretrained

SMALL = {
    "vocab_size": 19, "hidden_size": 16, "intermediate_size": 10, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 32, "num_experts_per_tok": 2,
}  # fmt: skip
LATENT = {
    "kv_lora_rank": 7, "q_lora_rank": 5, "qk_rope_head_dim": 4, "qk_nope_head_dim": 3, "v_head_dim": 6,
    "n_routed_experts": 6, "n_shared_experts": 2, "moe_intermediate_size": 9, "first_k_dense_replace": 1,
    "rope_scaling": {
        "type": "yarn", "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32, "beta_slow": 1,
        "original_max_position_embeddings": 16,
    },
}  # fmt: skip
FAMILIES = {
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 5, "router_aux_loss_coef": 0.02},
    "qwen3_moe": {
        "num_key_value_heads": 2, "num_experts": 6, "moe_intermediate_size": 8, "head_dim": 6, "norm_topk_prob": True,
        "mlp_only_layers": [0],
    },
    "olmoe": {"num_experts": 5, "clip_qkv": None, "norm_topk_prob": False},
    "deepseek_v2": LATENT | {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2, "ep_size": 1},
    "deepseek_v3": LATENT | {"n_group": 2, "topk_group": 1, "norm_topk_prob": True, "scoring_func": "sigmoid"},
}  # fmt: skip


def attributes(family, **changes):
    return {"model_type": family} | SMALL | FAMILIES[family] | changes


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_goes_there_and_back(family, tmp_path):
    config = read_config(attributes(family))[1]
    model = pretrained(config)
    huggingface.save(model, tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == family
    names = set(safetensors.numpy.load_file(tmp_path / "model/model.safetensors"))
    each = "block_sparse_moe.experts.4.w2" if family == "mixtral" else "mlp.experts.4.down_proj"
    assert f"model.layers.2.{each}.weight" in names
    loaded = huggingface.load(tmp_path / "model")
    assert differences(loaded.config, config) == []
    assert_same(loaded.params, model.params)


def test_an_expert_is_where_its_name_says(tmp_path):
    huggingface.save(pretrained(read_config(attributes("mixtral"))[1]), tmp_path / "model")
    tensors = safetensors.numpy.load_file(tmp_path / "model/model.safetensors")
    kernels = huggingface.load(tmp_path / "model").params["period"]["0"]["experts"]
    for ours, theirs in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
        tensor = tensors[f"model.layers.1.block_sparse_moe.experts.3.{theirs}.weight"]
        np.testing.assert_array_equal(kernels[ours]["kernel"][1, 3], tensor.T)


def test_layers_that_predict_further_tokens_are_left_out(tmp_path):
    huggingface.save(pretrained(read_config(attributes("deepseek_v3"))[1]), tmp_path / "model")
    params, file = huggingface.load(tmp_path / "model").params, tmp_path / "model/model.safetensors"
    extra = {"model.layers.3.eh_proj.weight": np.ones((12, 24), np.float32)}
    safetensors.numpy.save_file(safetensors.numpy.load_file(file) | extra, file)
    assert_same(huggingface.load(tmp_path / "model").params, params)


def test_a_missing_expert_is_refused(tmp_path):
    huggingface.save(pretrained(read_config(attributes("olmoe"))[1]), tmp_path / "model")
    file = tmp_path / "model/model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    del tensors["model.layers.1.mlp.experts.2.up_proj.weight"]
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(InputError, match=r"missing: model\.layers\.1\.mlp\.experts\.2\.up_proj\.weight"):
        huggingface.load(tmp_path / "model")


RELEASED = {
    "mixtral-8x7b": {
        "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": False,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32000,
    },
    "qwen3-30b-a3b": {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 6144, "max_position_embeddings": 32768, "max_window_layers": 48, "mlp_only_layers": [],
        "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32,
        "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
        "output_router_logits": False, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001, "sliding_window": None, "tie_word_embeddings": False,
        "use_sliding_window": False, "vocab_size": 151936,
    },
    "olmoe-1b-7b": {
        "attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None, "eos_token_id": 50279,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 1024, "max_position_embeddings": 4096,
        "model_type": "olmoe", "norm_topk_prob": False, "num_attention_heads": 16, "num_experts": 64,
        "num_experts_per_tok": 8, "num_hidden_layers": 16, "num_key_value_heads": 16, "output_router_logits": False,
        "pad_token_id": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
        "router_aux_loss_coef": 0.01, "tie_word_embeddings": False, "vocab_size": 50304,
    },
    "deepseek-v2-lite": {
        "attention_bias": False, "aux_loss_alpha": 0.001, "auto_map": {"AutoConfig": "x"}, "first_k_dense_replace": 1,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 10944, "kv_lora_rank": 512,
        "max_position_embeddings": 163840, "model_type": "deepseek_v2", "moe_intermediate_size": 1408,
        "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": False,
        "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16,
        "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096, "type": "yarn",
        },
        "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": True,
        "tie_word_embeddings": False, "topk_group": 1, "topk_method": "greedy", "v_head_dim": 128,
        "vocab_size": 102400,
    },
    "deepseek-v3": {
        "attention_bias": False, "attention_dropout": 0.0, "aux_loss_alpha": 0.001, "ep_size": 1,
        "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432,
        "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
        "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
        "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096, "type": "yarn",
        },
        "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": True,
        "tie_word_embeddings": False, "topk_group": 4, "topk_method": "noaux_tc", "v_head_dim": 128,
        "vocab_size": 129280,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs_stand_for_what_the_zoo_has(name):
    assert differences(read_config(RELEASED[name])[1], zoo.entry(name).config()) == []


@pytest.mark.parametrize("name", ["mixtral-8x22b", "qwen3-235b-a22b", "deepseek-v2", "deepseek-v2-lite", "deepseek-v3"])
def test_a_system_of_the_zoo_can_be_written(name):
    config = zoo.entry(name).config()
    family, written = write_config(config)
    assert family.model_type == name.split("-")[0].replace("qwen3", "qwen3_moe").replace(
        "deepseek", written["model_type"]
    )
    assert differences(read_config(written)[1], config) == []


def test_yarn_is_written_as_deepseek_weighs_it():
    written = write_config(zoo.entry("deepseek-v2-lite").config())[1]
    assert written["rope_scaling"]["mscale"] == written["rope_scaling"]["mscale_all_dim"] == 0.707
    assert (written["n_shared_experts"], written["first_k_dense_replace"], written["topk_method"]) == (2, 1, "greedy")


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("mixtral", {"num_local_experts": 2**30}, "has num_local_experts '1073741824'; at most 100000 over all layers"),
        ("mixtral", {"num_local_experts": 1}, "top_k is 2 of 1 of 1 groups of 1 experts"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, r"has mlp_only_layers '\[1\]'; the first layers, counted from 0"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "has decoder_sparse_step '2'; 1 is needed"),
        ("qwen3_moe", {"use_sliding_window": True}, "has use_sliding_window 'True'; False is needed"),
        ("olmoe", {"clip_qkv": 8.0}, "has clip_qkv '8.0'; None is needed"),
        ("deepseek_v2", {"norm_topk_prob": True}, "has norm_topk_prob 'True'; False or None is needed"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "has topk_method 'noaux_tc'; greedy or group_limited_greedy"),
        ("deepseek_v2", {"n_group": None}, "has n_group 'None'; with topk_group a number of groups is needed"),
        ("deepseek_v2", {"first_k_dense_replace": 4}, "has first_k_dense_replace '4'; at most the 3 layers"),
        ("deepseek_v3", {"n_group": 4}, "num_experts 6 is not divisible by groups 4"),
        ("deepseek_v3", {"num_key_value_heads": 2}, "has num_key_value_heads '2'; 4 or None is needed"),
        ("deepseek_v3", {"quantization_config": {"quant_method": "fp8"}}, "has quantization_config .*; None is needed"),
        ("deepseek_v3", {"moe_layer_freq": 2}, "has moe_layer_freq '2'; 1 is needed"),
    ],
)
def test_what_a_family_cannot_be_is_refused(family, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        read_config(attributes(family, **changes))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.data())
def test_any_value_of_an_attribute_is_read_or_refused(family, data):
    odd = st.sampled_from([None, True, -1, 0, 3, 2.5, float("nan"), "silu", "", [], ["x", None], {}, 10**400])
    names = sorted({*attributes(family), *huggingface.FAMILIES[family].defaults, "rope_scaling"} - {"model_type"})
    changes = data.draw(st.dictionaries(st.sampled_from(names), odd, min_size=1, max_size=2))
    refusal = ""
    try:
        read_config(attributes(family, **changes))
    except InputError as error:
        refusal = str(error)
    assert len(refusal) < 300


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("mixtral-8x7b", {"experts__shared_d_ff": 5, "experts__shared_gate": True}, r"cannot hold experts\.shared"),
        ("deepseek-v3", {"experts__shared_d_ff": 5}, "no family of transformers computes this config"),
        ("deepseek-v2", {"attention__scale": 0.3, "rope__scaling": "none"}, r"cannot hold attention\.scale"),
    ],
)
def test_a_config_that_no_family_computes_is_refused(name, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        write_config(replace(zoo.entry(name).config(), **changes))
