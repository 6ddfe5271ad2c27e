"""Configs and folders of transformers, family by family, without transformers."""

import json
import re
import time

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from fmzoo import zoo
from fmzoo.errors import InputError
from fmzoo.interop import decoder_structure, folders, huggingface
from fmzoo.interop.family import group_layers
from fmzoo.interop.huggingface import read_config, write_config
from fmzoo.interop.network import differences
from fmzoo.models import Decoder, DecoderConfig, Pretrained, RopeConfig, replace
from fmzoo.stages import PRESETS
from fmzoo.text import ByteTokenizer

SMALL = {
    "vocab_size": 19, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
}  # fmt: skip
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
WINDOWS = ["full_attention"] * 2 + ["sliding_attention"] * 3
EVERY_OTHER = ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]
THETA = {"rope_type": "default", "rope_theta": 1e6}
LOCAL, GLOBAL = {"rope_type": "default", "rope_theta": 1e4}, {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
# Each family as transformers 4 spells it and as transformers 5 does.
SPELLINGS = {
    "llama": (
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3"} | LLAMA3, "pretraining_tp": 1},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5} | LLAMA3, "dtype": "bfloat16"},
    ),
    "mistral": (
        {"rope_theta": 1e4, "sliding_window": 4},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "sliding_window": 4},
    ),
    "qwen2": (
        {"rope_theta": 1e6, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
        {"rope_parameters": THETA, "use_sliding_window": True, "sliding_window": 4, "layer_types": WINDOWS},
    ),
    "qwen3": (
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}, "attention_bias": True},
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}, "attention_bias": True},
    ),
    "gemma": (
        {"hidden_act": "gelu", "hidden_activation": None, "rope_theta": 1e4},
        {"hidden_act": "gelu_pytorch_tanh", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ),
    "gemma2": (
        {"sliding_window": 4, "sliding_window_size": 4, "query_pre_attn_scalar": 8, "cache_implementation": "hybrid"},
        {"sliding_window": 4, "query_pre_attn_scalar": 8, "layer_types": EVERY_OTHER},
    ),
    "gemma3_text": (
        {"sliding_window": 4, "sliding_window_pattern": 2, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
         "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"sliding_window": 4, "layer_types": EVERY_OTHER, "_sliding_window_pattern": 6,
         "rope_parameters": {"full_attention": GLOBAL, "sliding_attention": LOCAL}},
    ),
    "gpt2": (
        {"n_ctx": 16, "n_positions": 16, "n_embd": 12, "n_head": 3, "n_layer": 2, "vocab_size": 19, "summary_type": ""},
        {"n_positions": 16, "n_embd": 12, "n_head": 3, "n_layer": 2, "vocab_size": 19, "n_inner": None},
    ),
}  # fmt: skip


def attributes(family, spelling=0, **changes):
    return {"model_type": family} | ({} if family == "gpt2" else SMALL) | SPELLINGS[family][spelling] | changes


def random_params(config, dtype=np.float32):
    draw = np.random.default_rng(0).standard_normal
    shapes = decoder_structure(config).shapes
    return unflatten_dict({path: draw(shape).astype(dtype) for path, shape in shapes.items()}, sep="/")


def pretrained(config, **options):
    return Pretrained(Decoder(config), random_params(config, **options), config)


def written(folder, family="llama", **changes):
    """A folder with a small model of a family."""
    given = attributes(family, **changes)
    huggingface.save(pretrained(read_config(given)[1]), folder)
    (folder / "config.json").write_text(json.dumps(given))
    return folder


def change_tensors(folder, change):
    file = folder / folders.WEIGHTS
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(file)), file)


def assert_same(one, other):
    one, other = flatten_dict(one, sep="/"), flatten_dict(other, sep="/")
    assert one.keys() == other.keys()
    for path in one:
        assert one[path].dtype == other[path].dtype
        np.testing.assert_array_equal(one[path], other[path])


@pytest.mark.parametrize("family", SPELLINGS)
def test_both_spellings_stand_for_one_config(family):
    older, newer = (read_config(attributes(family, i))[1] for i in (0, 1))
    assert older == newer
    assert older.kinds.count("local") == {"mistral": 5, "qwen2": 3, "gemma2": 3, "gemma3_text": 3}.get(family, 0)


@pytest.mark.parametrize("family", SPELLINGS)
@pytest.mark.parametrize("tied", [False, True])
def test_each_family_goes_there_and_back(family, tied, tmp_path):
    config = read_config(attributes(family, tie_word_embeddings=tied))[1]
    model = pretrained(config)
    huggingface.save(model, tmp_path / "model")
    stored = json.loads((tmp_path / "model/config.json").read_text())
    assert stored["model_type"] == family
    assert stored["torch_dtype"] == "float32"
    loaded = huggingface.load(tmp_path / "model")
    assert loaded.config == config
    assert loaded.tokenizer is None
    assert_same(loaded.params, model.params)


def test_the_dtype_asked_for_is_what_parameters_are_stored_in(tmp_path):
    config = read_config(attributes("llama"))[1]
    huggingface.save(pretrained(config), tmp_path / "wide")
    narrow = huggingface.load(tmp_path / "wide", "bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(narrow.params)} == {"bfloat16"}
    huggingface.save(narrow, tmp_path / "narrow")
    assert json.loads((tmp_path / "narrow/config.json").read_text())["torch_dtype"] == "bfloat16"
    assert_same(huggingface.load(tmp_path / "narrow", "bfloat16").params, narrow.params)
    wide = huggingface.load(tmp_path / "narrow").params
    assert_same(wide, jax.tree.map(lambda leaf: leaf.astype("float32"), narrow.params))


def test_a_tokenizer_goes_along_and_its_ids_stand_in_the_config(tmp_path):
    config = read_config(attributes("llama", vocab_size=258))[1]
    model = Pretrained(Decoder(config), random_params(config), config, ByteTokenizer())
    huggingface.save(model, tmp_path / "model")
    stored = json.loads((tmp_path / "model/config.json").read_text())
    assert (stored["bos_token_id"], stored["eos_token_id"], stored["pad_token_id"]) == (256, 257, None)
    assert huggingface.load(tmp_path / "model").tokenizer.encode("a") == [97]


def test_gpt2_files_name_their_tensors_in_two_ways(tmp_path):
    folder = written(tmp_path / "model", "gpt2")
    params = huggingface.load(folder).params
    masks = {f"h.{i}.attn.bias": np.ones((1, 1, 16, 16), np.float32) for i in range(2)}
    change_tensors(folder, lambda tensors: {n.removeprefix("transformer."): t for n, t in tensors.items()} | masks)
    assert_same(huggingface.load(folder).params, params)


def test_gpt2_keeps_queries_keys_and_values_in_one_tensor(tmp_path):
    folder = written(tmp_path / "model", "gpt2")
    fused = safetensors.numpy.load_file(folder / folders.WEIGHTS)["transformer.h.1.attn.c_attn.weight"]
    attention = huggingface.load(folder).params["period"]["0"]["attention"]
    assert fused.shape == (12, 36)
    np.testing.assert_array_equal(attention["key"]["kernel"][1], fused[:, 12:24])


def test_gemma_3_with_vision_gives_its_language_part(tmp_path):
    folder = written(tmp_path / "model", "gemma3_text")
    params = huggingface.load(folder).params
    text = json.loads((folder / "config.json").read_text())
    full = {"model_type": "gemma3", "text_config": text, "vision_config": {}, "mm_tokens_per_image": 4}
    (folder / "config.json").write_text(json.dumps(full))
    extra = {"vision_tower.a": np.ones(1, np.float32), "multi_modal_projector.b.c": np.ones(1, np.float32)}
    change_tensors(folder, lambda tensors: {f"language_model.{n}": t for n, t in tensors.items()} | extra)
    assert_same(huggingface.load(folder).params, params)


def test_old_llama_files_hold_frequencies(tmp_path):
    folder = written(tmp_path / "model")
    extra = {"model.layers.4.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)}
    change_tensors(folder, lambda tensors: tensors | extra)
    huggingface.load(folder)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SPELLINGS)), st.data())
def test_any_value_of_an_attribute_is_read_or_refused(family, data):
    odd = st.sampled_from(
        [None, True, -1, 0, 3, 2.5, float("nan"), "silu", "", [], ["x", None], {}, {"type": []}, 10**400]
    )
    given_values = attributes(family, data.draw(st.integers(0, 1)))
    names = sorted(
        {*given_values, *huggingface.FAMILIES[family].defaults, "layer_types", "rope_scaling"} - {"model_type"}
    )
    changes = data.draw(st.dictionaries(st.sampled_from(names), odd, min_size=1, max_size=2))
    refusal = ""
    try:
        read_config(given_values | changes)
    except InputError as error:
        refusal = str(error)
    assert len(refusal) < 300


RELEASED = {
    "gpt2-124m": {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
        "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
    },
    "qwen2.5-32b": {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 5120, "initializer_range": 0.02,
        "intermediate_size": 27648, "max_position_embeddings": 131072, "max_window_layers": 64, "model_type": "qwen2",
        "num_attention_heads": 40, "num_hidden_layers": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0, "sliding_window": 131072, "torch_dtype": "bfloat16", "transformers_version": "4.43.1",
        "vocab_size": 152064,
    },
    "gemma2-2b": {
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
        "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02,
        "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8,
        "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "float32",
        "transformers_version": "4.42.4", "use_cache": True, "vocab_size": 256000,
    },
    "gemma3-12b": {
        "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
        "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
        "model_type": "gemma3", "torch_dtype": "bfloat16",
        "text_config": {
            "hidden_size": 3840, "intermediate_size": 15360, "model_type": "gemma3_text", "num_attention_heads": 16,
            "num_hidden_layers": 48, "num_key_value_heads": 8, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "vision_config": {"hidden_size": 1152, "image_size": 896, "model_type": "siglip_vision_model"},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs_stand_for_what_the_zoo_has(name):
    assert differences(read_config(RELEASED[name])[1], zoo.entry(name).config()) == []


@pytest.mark.parametrize("name", zoo.names())
def test_every_system_of_the_zoo_can_be_written(name):
    config = zoo.entry(name).config()
    family, written_config = write_config(config)
    assert differences(read_config(written_config)[1], config) == []
    if expected := re.match("llama|mistral|gemma|qwen|gpt2|opt|bloom|xglm|olmo2|gptj|smollm3", name):
        assert family.model_type.startswith(expected.group())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "lama"}, "has model_type 'lama', which is not known; the nearest are llama"),
        ({"model_type": ["llama"]}, "which is not known"),
        ({"attention_sinks": 4}, "has 'attention_sinks' .4., which is not known here"),
        ({"quantization_config": {"bits": 4}}, "has quantization_config .*; None is needed"),
        ({"is_encoder_decoder": True}, "has is_encoder_decoder 'True'; False is needed"),
        ({"hidden_act": "mish"}, "has hidden_act 'mish'; silu or swish or gelu"),
        ({"hidden_size": "12"}, "has hidden_size '12'; int is needed"),
        ({"hidden_size": 0}, "has hidden_size '0'; 1 to 2147483647 is needed"),
        ({"num_hidden_layers": 10**9}, "has num_hidden_layers '1000000000'; 1 to 1000 is needed"),
        ({"tie_word_embeddings": 1}, "has tie_word_embeddings '1'; bool is needed"),
        ({"num_key_value_heads": 3}, "num_heads 4 is not divisible by num_kv_heads 3"),
    ],
)
def test_attributes_that_are_not_understood_are_refused(changes, sentence, tmp_path):
    folder = written(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(attributes("llama", **changes)))
    with pytest.raises(InputError, match=sentence):
        huggingface.load(folder)


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("qwen2", {"attention_bias": False}, "has attention_bias 'False'; True or None is needed"),
        ("qwen3", {"layer_types": ["full_attention"]}, "5 of full_attention or sliding_attention is needed"),
        ("qwen3", {"layer_types": ["chunked_attention"] * 5}, "5 of full_attention or sliding_attention is needed"),
        ("qwen3", {"layer_types": WINDOWS}, "attention.window is None; a window above 0 is needed"),
        ("gemma", {"use_bidirectional_attention": True}, "has use_bidirectional_attention 'True'; False or None"),
        ("gemma2", {"sliding_window_size": 5}, "has sliding_window_size '5'; 4 is needed"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "has attn_logit_softcapping '50.0'; None is needed"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "has scale_attn_by_inverse_layer_idx 'True'; False is"),
        ("gpt2", {"embd_pdrop": 0.2}, "has embd_pdrop '0.2'; 0.1 is needed"),
        ("gpt2", {"n_ctx": 17}, "has n_ctx '17'; 16 is needed"),
        ("gpt2", {"n_head": 5}, "has n_embd '12'; a multiple of n_head 5 is needed"),
    ],
)
def test_what_a_family_cannot_be_is_refused(family, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        read_config(attributes(family, **changes))


def without_up(tensors):
    return {name: tensor for name, tensor in tensors.items() if "up_proj" not in name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_up, r"missing: model\.layers\.0\.mlp\.up_proj\.weight, .* and 2 more"),
        (lambda t: t | {"model.layers.0.self_attn.q_proj.bias": np.ones(24)}, r"not expected by the config: model\."),
        (lambda t: t | {"model.norm.weight": np.ones(13)}, r"model\.norm\.weight has shape \(13,\); \(12,\) is needed"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(change, sentence, tmp_path):
    folder = written(tmp_path / "model")
    change_tensors(folder, change)
    with pytest.raises(InputError, match=sentence) as caught:
        huggingface.load(folder)
    assert len(str(caught.value)) < 300


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json; a folder that transformers' save_pretrained wrote"):
        huggingface.load(tmp_path)


def test_a_config_is_written_as_the_first_family_that_computes_it():
    llama = DecoderConfig(num_layers=4)
    window = replace(llama, attention__window=8, pattern=("local",))
    assert write_config(llama)[0].model_type == "llama"
    assert write_config(replace(llama, d_model=500))[0].model_type == "mistral"  # no multiple of 8 heads
    assert write_config(window)[0].model_type == "mistral"
    assert write_config(replace(window, prefix=("global",), attention__qkv_bias=True))[0].model_type == "qwen2"
    assert write_config(replace(llama, attention__qk_norm="head"))[0].model_type == "qwen3"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"position": "alibi"}, "the nearest, llama cannot hold position"),
        ({"attention__qk_norm": "all"}, r"the nearest, llama cannot hold attention\.qk_norm"),
        ({"block": "parallel"}, "the nearest, llama cannot hold block"),
        ({"rope": RopeConfig(interleaved=True)}, r"the nearest, llama cannot hold rope\.interleaved"),
    ],
)
def test_a_config_that_no_family_computes_is_refused_before_anything_is_written(changes, sentence, tmp_path):
    model = pretrained(replace(DecoderConfig(vocab_size=19, num_layers=2, d_model=16), **changes))
    with pytest.raises(InputError, match=sentence):
        huggingface.save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(path, tensors):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fmzoo.interop.safetensors.write_file", fail)
    with pytest.raises(InputError, match="cannot be written .No space left on device.; more space is needed"):
        huggingface.save(pretrained(read_config(attributes("llama"))[1]), tmp_path / "a/model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_what_a_preset_trains_can_be_written(name):
    assert write_config(PRESETS[name].model)[0].model_type == "mistral"


def test_configs_differ_only_where_logits_would():
    config = DecoderConfig(num_layers=4, attention=DecoderConfig().attention)
    same = {
        "remat": "full", "dtype": "bfloat16", "layers": "unrolled", "dropout": 0.1, "attention__window": 3,
        "prefix": ("global",), "attention__scale": 0.125, "rope__factor": 9.0, "local_rope": RopeConfig(theta=3.0),
        "transposed_inputs": True,
    }  # fmt: skip
    assert differences(config, replace(config, **same)) == []
    other = replace(config, rope__theta=3.0, d_model=128, pattern=("global", "local"), attention__window=3)
    assert {"rope.theta", "d_model", "pattern", "attention.window"} <= set(differences(config, other))


@pytest.mark.parametrize(
    ("kinds", "prefix", "pattern"),
    [
        ("gggg", "", "g"),
        ("lglgl", "", "lg"),
        ("lllllg" * 4 + "ll", "", "lllllg"),
        ("ggglll", "ggg", "l"),
        ("glllg", "", "glll"),
        ("l", "", "l"),
    ],
)
def test_layers_are_grouped_into_the_shortest_period(kinds, prefix, pattern):
    names = {"g": "global", "l": "local"}
    grouped = group_layers(tuple(names[k] for k in kinds))
    assert grouped == {"prefix": tuple(names[k] for k in prefix), "pattern": tuple(names[k] for k in pattern)}
    config = DecoderConfig(
        num_layers=len(kinds), attention=replace(DecoderConfig(), attention__window=2).attention, **grouped
    )
    assert config.kinds == tuple(names[k] for k in kinds)


def test_layers_that_never_repeat_are_grouped_at_once():
    kinds = ("global",) * 999 + ("local",)
    started = time.process_time()
    assert group_layers(kinds) == {"prefix": (), "pattern": kinds}
    assert time.process_time() - started < 5  # trying every beginning and period took ten times as long
