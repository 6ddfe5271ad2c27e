"""Configs and weights of the families from GPT-Neo to SmolLM3, without transformers."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fmzoo import zoo
from fmzoo.errors import InputError
from fmzoo.interop import decoder_structure, folders, huggingface
from fmzoo.interop.huggingface import read_config, write_config
from fmzoo.interop.mapping import to_ours, to_theirs
from fmzoo.interop.network import differences
from fmzoo.models import Decoder, Pretrained, parameter_count, replace
from tests.interop.test_huggingface import assert_same, random_params

LLAMA = {
    "vocab_size": 19, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 4, "num_attention_heads": 2,
}  # fmt: skip
SHORT = {"type": "longrope", "short_factor": [1.0, 1.5, 2]}
# Each family in small, with every attribute that a release has and its class does not fill in.
SMALL = {
    "phi": LLAMA | {"partial_rotary_factor": 0.67, "qk_layernorm": True, "resid_pdrop": 0.1, "auto_map": {}},
    "phi3": LLAMA | {
        "num_key_value_heads": 1, "max_position_embeddings": 64, "original_max_position_embeddings": 16,
        "rope_scaling": SHORT | {"long_factor": [2.0, 4.0, 8.0]}, "sliding_window": 5, "embd_pdrop": 0.0,
    },
    "gpt_neox": LLAMA | {"rotary_pct": 0.34, "hidden_act": "gelu_fast", "classifier_dropout": 0.1},
    "gptj": {
        "vocab_size": 19, "n_embd": 12, "n_layer": 3, "n_head": 2, "rotary_dim": 4, "rotary": True, "n_inner": None,
        "scale_attn_weights": True, "gradient_checkpointing": False, "summary_type": "cls_index",
    },
    "gpt_neo": {
        "vocab_size": 19, "hidden_size": 12, "num_layers": 3, "num_heads": 2, "window_size": 5,
        "attention_types": [[["global", "local"], 1], [["global"], 1]], "intermediate_size": None,
        "attention_layers": ["global", "local", "global"], "summary_type": "cls_index",
    },
    "opt": {
        "vocab_size": 19, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "ffn_dim": 10,
        "do_layer_norm_before": False, "word_embed_proj_dim": 5, "prefix": "</s>", "layerdrop": 0.0, "init_std": 0.02,
    },
    "bloom": {
        "vocab_size": 19, "n_embed": 12, "n_layer": 3, "num_attention_heads": 3, "n_inner": None, "offset_alibi": 100,
        "seq_length": 64, "attention_softmax_in_fp32": True, "unk_token_id": 0, "pretraining_tp": 2,
    },
    "xglm": {
        "vocab_size": 19, "d_model": 12, "num_layers": 3, "attention_heads": 2, "ffn_dim": 10,
        "activation_dropout": 0, "add_cross_attention": False, "decoder_start_token_id": 2,
    },
    "olmo2": LLAMA | {"num_key_value_heads": 1, "attention_bias": True},
    "smollm3": LLAMA | {"num_key_value_heads": 1, "no_rope_layers": [1, 0, 1, 0], "max_window_layers": 28},
}  # fmt: skip


def attributes(family, **changes):
    return {"model_type": family} | SMALL[family] | changes


@pytest.mark.parametrize(("family", "tied"), [(family, i % 2 == 0) for i, family in enumerate(SMALL)])
def test_each_family_goes_there_and_back(family, tied, tmp_path):
    config = read_config(attributes(family, tie_word_embeddings=tied))[1]
    params = random_params(config)
    assert parameter_count(config) == sum(leaf.size for leaf in jax.tree.leaves(params))
    first = write_config(config)[0].model_type
    assert first == ("mistral" if family == "phi3" else family)  # which has no option of its own
    huggingface.save(Pretrained(Decoder(config), params, config), tmp_path / "model", model_type=family)
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == family
    loaded = huggingface.load(tmp_path / "model")
    assert differences(loaded.config, config) == []
    assert (loaded.config.dropout, loaded.config.tied_head) == (config.dropout, tied)
    assert_same(loaded.params, params)


def test_heads_stand_side_by_side_in_neox_and_bloom():
    """Rows of the tensor: head, then query, key and value, then the width of a head."""
    for family, name, heads in (
        ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value", 2),
        ("bloom", "transformer.h.1.self_attention.query_key_value", 3),
    ):
        found, config = read_config(attributes(family))
        params, structure = random_params(config), decoder_structure(config)
        tensors = {n: np.asarray(t) for n, t in to_theirs(found.mapping(config), structure, params).items()}
        ours = params["period"]["0"]["attention"]
        width = 12 // heads
        for part, kind in enumerate(("query", "key", "value")):
            for head in range(heads):
                rows = slice((head * 3 + part) * width, (head * 3 + part + 1) * width)
                columns = slice(head * width, (head + 1) * width)
                np.testing.assert_array_equal(tensors[f"{name}.weight"][rows], ours[kind]["kernel"][1][:, columns].T)
                np.testing.assert_array_equal(tensors[f"{name}.bias"][rows], ours[kind]["bias"][1][columns])
        assert_same(to_ours(found.mapping(config), structure, tensors), params)


def test_phi_3_keeps_its_projections_joined_and_can_be_written_as_itself(tmp_path):
    config = read_config(attributes("phi3", rope_scaling=None, sliding_window=None))[1]
    model = Pretrained(Decoder(config), random_params(config), config)
    huggingface.save(model, tmp_path / "plain")
    assert json.loads((tmp_path / "plain/config.json").read_text())["model_type"] == "llama"
    huggingface.save(model, tmp_path / "phi", model_type="phi3")
    tensors = safetensors.numpy.load_file(tmp_path / "phi" / folders.WEIGHTS)
    assert tensors["model.layers.1.self_attn.qkv_proj.weight"].shape == (24, 12)
    mlp = model.params["period"]["0"]["mlp"]
    joined = tensors["model.layers.1.mlp.gate_up_proj.weight"]
    np.testing.assert_array_equal(joined, np.concatenate([mlp["gate"]["kernel"][1].T, mlp["up"]["kernel"][1].T]))
    assert_same(huggingface.load(tmp_path / "phi").params, model.params)
    with pytest.raises(InputError, match="phi cannot hold"):
        huggingface.save(model, tmp_path / "other", model_type="phi")
    with pytest.raises(InputError, match="model_type is 'phi5'; the nearest are phi"):
        huggingface.save(model, tmp_path / "other", model_type="phi5")
    with pytest.raises(InputError, match="gemma3, is only read"):
        huggingface.save(model, tmp_path / "other", model_type="gemma3")


def test_files_of_older_versions_name_tensors_otherwise(tmp_path):
    for family, start, added in (
        ("bloom", "transformer.", {}),
        ("opt", "model.", {}),
        ("gpt_neox", "", {"gpt_neox.layers.0.attention.masked_bias": np.ones(1, np.float32)}),
        ("gptj", "", {"transformer.h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}),
        ("gpt_neo", "", {"transformer.h.1.attn.attention.bias": np.ones((1, 1, 4, 4), np.float32)}),
        ("xglm", "", {"model.embed_positions.weights": np.ones((4, 12), np.float32)}),
    ):
        config = read_config(attributes(family))[1]
        params = random_params(config)
        huggingface.save(Pretrained(Decoder(config), params, config), tmp_path / family)
        file = tmp_path / family / folders.WEIGHTS
        tensors = safetensors.numpy.load_file(file)
        safetensors.numpy.save_file({n.removeprefix(start): t for n, t in tensors.items()} | added, file)
        assert_same(huggingface.load(tmp_path / family).params, params)


def test_attributes_stand_for_options():
    def config(family, **changes):
        return read_config(attributes(family, **changes))[1]

    assert config("phi").rope.fraction == 0.67
    assert config("phi3").rope.stretched
    assert config("phi3").rope.factor == 4
    assert not config("phi3", max_position_embeddings=16).rope.stretched
    assert config("phi3", sliding_window=64).kinds == ("global",) * 4
    assert config("phi3", partial_rotary_factor=0.34, rope_scaling=None).rope.fraction == 0.34
    assert config("gpt_neox").mlp.activation == "gelu_tanh"
    assert config("gpt_neox", use_parallel_residual=False).block == "sequential"
    assert config("gpt_neo").kinds == ("global", "local", "global")
    assert config("opt").embed_dim == 5
    assert config("opt", word_embed_proj_dim=12).embed_dim is None
    assert not config("opt", do_layer_norm_before=True, _remove_final_layer_norm=True).final_norm
    assert config("smollm3").kinds == ("global", "nope") * 2
    assert config("smollm3", no_rope_layers=None).kinds == ("global",) * 3 + ("nope",)
    windows = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 3}
    assert config("smollm3", use_sliding_window=True, **windows).kinds == ("local", "nope") * 2


def test_any_number_of_dimensions_that_turn_comes_back():
    for whole in range(2, 130, 2):
        for part in range(2, whole + 1, 2):
            given = attributes("gptj", n_embd=whole, n_head=1, rotary_dim=part)
            config = read_config(given)[1]
            assert huggingface.FAMILIES["gptj"].write(config)["rotary_dim"] == part


def test_longrope_says_twice_where_it_was_trained(tmp_path):
    """Version 4 of transformers reads the outer attribute, and of Phi 3 accepts three fields alone."""
    config = read_config(attributes("phi3"))[1]
    written = {name: write_config(config, name)[1] for name in ("phi3", "mistral")}
    assert all(attributes["original_max_position_embeddings"] == 16 for attributes in written.values())
    assert written["phi3"]["rope_scaling"].keys() == {"type", "short_factor", "long_factor"}


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("phi3", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "has rope_scaling 'yarn'; longrope, or none, is"),
        ("phi3", {"rope_scaling": SHORT}, "has long_factor 'None'; list is needed"),
        ("phi3", {"rope_scaling": SHORT | {"long_factor": [1, "2", 3]}}, "a list of numbers above 0 is needed"),
        ("phi3", {"rope_scaling": SHORT | {"long_factor": [1, 2]}}, "rope has 2 factors; 3 are needed"),
        ("phi", {"partial_rotary_factor": 0.0}, "has partial_rotary_factor '0.0'; a number above 0"),
        ("olmo2", {"partial_rotary_factor": 0.5}, "has partial_rotary_factor '0.5'; 1 or None"),
        ("gpt_neox", {"hidden_size": 13}, "has hidden_size '13'; a multiple of num_attention_heads 2"),
        ("gptj", {"rotary_dim": 8}, "has rotary_dim '8'; 1 to 6 is needed"),
        ("gptj", {"rotary_dim": None, "rotary": False}, "has rotary 'False'; True is needed"),
        ("gpt_neo", {"attention_types": [["global", 3]]}, "lists of global and local with numbers, 3 in all"),
        ("gpt_neo", {"attention_types": [[["global"], 10**9]]}, "lists of global and local with numbers, 3 in all"),
        ("gpt_neo", {"attention_types": [[["global"], 2]]}, "3 of global or local is needed"),
        ("gpt_neo", {"attention_layers": ["global"] * 3}, "has attention_layers .* is needed"),
        ("opt", {"layer_norm_elementwise_affine": False}, "has layer_norm_elementwise_affine 'False'; True"),
        ("bloom", {"hidden_size": 24}, "has hidden_size '24'; 12 is needed"),
        ("bloom", {"n_inner": 20}, "has n_inner '20'; None or 48 is needed"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "'True'; False is needed"),
        ("xglm", {"add_cross_attention": True}, "has add_cross_attention 'True'; False or None"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "has no_rope_layers .*; 4 of 0 or 1 is needed"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 3}, "no window in a layer that does not turn"),
        ("smollm3", {"layer_types": ["chunked"] * 4}, "4 of full_attention or sliding_attention is needed"),
    ],
)
def test_what_a_family_cannot_be_is_refused(family, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        read_config(attributes(family, **changes))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SMALL)), st.data())
def test_any_value_of_an_attribute_is_read_or_refused(family, data):
    odd = st.sampled_from(
        [None, True, -1, 0, 3, 2.5, float("nan"), "silu", "", [], ["x", None], [[["x"], 3]], [[[], 3]], {}, 10**400]
    )
    names = sorted({*SMALL[family], *huggingface.FAMILIES[family].defaults, "layer_types", "rope_parameters"})
    changes = data.draw(st.dictionaries(st.sampled_from(names), odd, min_size=1, max_size=2))
    refusal = ""
    try:
        read_config(attributes(family, **changes))
    except InputError as error:
        refusal = str(error)
    assert len(refusal) < 300


RELEASED = {
    "phi2-2.7b": {
        "attention_dropout": 0.0, "embd_pdrop": 0.0, "hidden_act": "gelu_new", "hidden_size": 2560,
        "intermediate_size": 10240, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "model_type": "phi",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.4,
        "qk_layernorm": False, "resid_pdrop": 0.1, "rope_scaling": None, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True, "vocab_size": 51200,
    },
    "phi4-14b": {
        "attention_bias": False, "attention_dropout": 0.0, "embd_pdrop": 0.0, "hidden_act": "silu",
        "hidden_size": 5120, "intermediate_size": 17920, "max_position_embeddings": 16384, "model_type": "phi3",
        "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 10,
        "original_max_position_embeddings": 16384, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": None,
        "rope_theta": 250000, "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 100352,
    },
    "neox-20b": {
        "attention_probs_dropout_prob": 0, "hidden_act": "gelu_fast", "hidden_dropout_prob": 0, "hidden_size": 6144,
        "initializer_range": 0.02, "intermediate_size": 24576, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 64, "num_hidden_layers": 44,
        "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "vocab_size": 50432,
    },
    "gptj-6b": {
        "activation_function": "gelu_new", "attn_pdrop": 0.0, "embd_pdrop": 0.0, "gradient_checkpointing": False,
        "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 4096, "n_head": 16, "n_inner": None,
        "n_layer": 28, "n_positions": 2048, "resid_pdrop": 0.0, "rotary": True, "rotary_dim": 64,
        "scale_attn_weights": True, "summary_activation": None, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
        "tie_word_embeddings": False, "tokenizer_class": "GPT2Tokenizer", "use_cache": True, "vocab_size": 50400,
    },
    "gptneo-125m": {
        "activation_function": "gelu_new", "attention_dropout": 0, "attention_layers": ["global", "local"] * 6,
        "attention_types": [[["global", "local"], 6]], "embed_dropout": 0, "gradient_checkpointing": False,
        "hidden_size": 768, "intermediate_size": None, "layer_norm_epsilon": 1e-05, "max_position_embeddings": 2048,
        "model_type": "gpt_neo", "num_heads": 12, "num_layers": 12, "resid_dropout": 0, "vocab_size": 50257,
        "summary_proj_to_labels": True, "window_size": 256,
    },
    "opt-350m": {
        "_remove_final_layer_norm": False, "activation_dropout": 0.0, "activation_function": "relu",
        "attention_dropout": 0.0, "bos_token_id": 2, "do_layer_norm_before": False, "dropout": 0.1,
        "eos_token_id": 2, "ffn_dim": 4096, "hidden_size": 1024, "init_std": 0.02, "layerdrop": 0.0,
        "max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": 16, "num_hidden_layers": 24,
        "pad_token_id": 1, "prefix": "</s>", "vocab_size": 50272, "word_embed_proj_dim": 512,
    },
    "bloom-560m": {
        "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "hidden_dropout": 0.0,
        "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "layer_norm_epsilon": 1e-05,
        "masked_softmax_fusion": True, "model_type": "bloom", "n_embed": 1024, "n_inner": None, "n_layer": 24,
        "num_attention_heads": 16, "offset_alibi": 100, "pretraining_tp": 1, "seq_length": 2048,
        "skip_bias_add": True, "skip_bias_add_qkv": False, "unk_token_id": 0, "vocab_size": 250880,
    },
    "xglm-1.7b": {
        "activation_dropout": 0.0, "activation_function": "gelu", "attention_dropout": 0.1, "attention_heads": 16,
        "d_model": 2048, "decoder_start_token_id": 2, "dropout": 0.1, "ffn_dim": 8192, "init_std": 0.02,
        "layerdrop": 0.0, "max_position_embeddings": 2048, "model_type": "xglm", "num_layers": 24,
        "scale_embedding": True, "use_cache": True, "vocab_size": 256008,
    },
    "olmo2-7b": {
        "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "olmo2", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 500000, "tie_word_embeddings": False, "vocab_size": 100352,
    },
    "smollm3-3b": {
        "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 11008, "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": False,
        "model_type": "smollm3", "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9,
        "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 4, "pretraining_tp": 2,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None,
        "use_sliding_window": False, "vocab_size": 128256,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs_stand_for_what_the_zoo_has(name):
    family, config = read_config(RELEASED[name])
    assert differences(config, zoo.entry(name).config()) == []
    assert config.dropout == zoo.entry(name).config().dropout
    assert write_config(config, family.model_type)[0] is family


def test_options_of_one_family_are_not_lost_in_another():
    plain = read_config(attributes("olmo2"))[1]
    for change in ({"head_bias": True}, {"final_norm": False}, {"embed_norm": True}, {"pattern": ("nope",)}):
        with pytest.raises(InputError, match="no family of transformers computes this config"):
            write_config(replace(plain, **change))
