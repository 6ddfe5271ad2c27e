"""Eight families against transformers: the same random weights give every logit, and go back bit for bit.

Two float32 implementations add in other orders. Here that made 4e-7 to 1e-5 of the largest logit, and 3e-5 where scores
vary by 20. The tolerance of 1e-4 leaves room for that and for no error: every planted one must exceed it in the same
comparison, and the smallest of them made 5e-4.
"""

import dataclasses
import importlib
import json
import zlib

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo import models

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4  # of the largest logit, elementwise
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
GLOBAL = {"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}}
LOCAL = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
PLAIN = {"rope_type": "default", "rope_theta": 1e6}
FEW, MANY = 6, 23  # tokens: within and beyond every window below


def sizes(vocab, width, d_ff, layers, heads, kv_heads=None, head_dim=None, **options):
    return (
        {
            "vocab_size": vocab,
            "hidden_size": width,
            "intermediate_size": d_ff,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads or heads,
            "max_position_embeddings": 48,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        }
        | ({} if head_dim is None else {"head_dim": head_dim})
        | options
    )


def gpt2(vocab, width, layers, heads, **options):
    return {
        "vocab_size": vocab,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": 29,
        "bos_token_id": None,
        "eos_token_id": None,
    } | options


CASES = {
    "llama-plain": ("LlamaConfig", sizes(67, 36, 44, 3, 3, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5)),
    "llama-llama3": (
        "LlamaConfig",
        sizes(71, 40, 33, 2, 4, 1, 14, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16}),
    ),
    "llama-yarn": ("LlamaConfig", sizes(53, 48, 20, 3, 6, 2, tie_word_embeddings=True, rope_parameters=YARN)),
    "llama-linear": ("LlamaConfig", sizes(59, 28, 51, 2, 2, 1, 22, rope_parameters=LINEAR, hidden_act="gelu")),
    "mistral-window": ("MistralConfig", sizes(61, 34, 47, 3, 4, 2, 10, sliding_window=7)),
    "mistral-one-kv": (
        "MistralConfig",
        sizes(73, 30, 26, 2, 5, 1, 18, sliding_window=None, rope_parameters=PLAIN),
    ),
    "mistral-linear": (
        "MistralConfig",
        sizes(47, 50, 31, 2, 6, 3, 8, sliding_window=3, tie_word_embeddings=True, rope_parameters=LINEAR),
    ),
    "qwen2-tied": ("Qwen2Config", sizes(83, 42, 37, 2, 7, 1, tie_word_embeddings=True)),
    "qwen2-windows": (
        "Qwen2Config",
        sizes(67, 48, 29, 4, 4, 2, use_sliding_window=True, sliding_window=7, max_window_layers=1),
    ),
    "qwen2-yarn": ("Qwen2Config", sizes(79, 36, 50, 3, 3, 1, 20, rope_parameters=YARN)),
    "qwen3-tied": ("Qwen3Config", sizes(61, 38, 45, 2, 4, 1, 24, tie_word_embeddings=True)),
    "qwen3-windows": (
        "Qwen3Config",
        sizes(
            89, 44, 27, 5, 6, 2, 12, attention_bias=True, use_sliding_window=True, sliding_window=7,
            layer_types=["full_attention", "sliding_attention"] * 2 + ["full_attention"],
        ),
    ),
    "qwen3-yarn": ("Qwen3Config", sizes(57, 52, 35, 3, 5, 5, 16, rope_parameters=YARN)),
    "gemma-one-kv": ("GemmaConfig", sizes(67, 38, 41, 2, 4, 1, 26)),
    "gemma-untied": ("GemmaConfig", sizes(73, 46, 30, 3, 3, 3, 20, tie_word_embeddings=False)),
    "gemma-gelu": ("GemmaConfig", sizes(59, 32, 55, 2, 6, 2, 12, hidden_act="gelu", rms_norm_eps=1e-5)),
    "gemma2-one-kv": (
        "Gemma2Config",
        sizes(61, 36, 43, 3, 4, 1, 22, sliding_window=7, query_pre_attn_scalar=3, attn_logit_softcapping=4.0,
              final_logit_softcapping=3.0),
    ),
    "gemma2-scalar": (
        "Gemma2Config",
        sizes(71, 48, 32, 4, 6, 3, 16, sliding_window=5, query_pre_attn_scalar=8, attn_logit_softcapping=6.0,
              final_logit_softcapping=None),
    ),
    "gemma2-untied": (
        "Gemma2Config",
        sizes(53, 40, 25, 5, 5, 5, 12, sliding_window=8, query_pre_attn_scalar=4, attn_logit_softcapping=None,
              final_logit_softcapping=2.0, tie_word_embeddings=False),
    ),
    "gemma3-one-kv": (
        "Gemma3TextConfig",
        sizes(67, 36, 31, 7, 4, 1, 18, sliding_window=7, query_pre_attn_scalar=5),
    ),
    "gemma3-linear": (
        "Gemma3TextConfig",
        sizes(73, 30, 37, 8, 6, 2, 14, sliding_window=5, query_pre_attn_scalar=4, rope_parameters=GLOBAL | LOCAL),
    ),
    "gemma3-pattern": (
        "Gemma3TextConfig",
        sizes(59, 44, 23, 4, 4, 4, 16, sliding_window=9, query_pre_attn_scalar=6, final_logit_softcapping=2.5,
              layer_types=["sliding_attention", "full_attention"] * 2),
    ),
    "gpt2-plain": ("GPT2Config", gpt2(67, 42, 3, 3)),
    "gpt2-inner": ("GPT2Config", gpt2(71, 40, 2, 5, n_inner=53, layer_norm_epsilon=1e-3, activation_function="gelu")),
    "gpt2-untied": ("GPT2Config", gpt2(59, 33, 4, 1, tie_word_embeddings=False, scale_attn_weights=False)),
}  # fmt: skip
FAMILIES = sorted({name.split("-")[0] for name in CASES})


def reference(name):
    """A model of transformers with random weights large enough that scores and logits vary by 1 or more."""
    import torch
    import transformers

    cls, options = CASES[name]
    config = getattr(transformers, cls)(**options)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    for path, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = scale_of(path, parameter) * noise + mean_of(path, parameter)
    return model


def mean_of(path, parameter):
    """Norms keep their 1 or 0; those of queries and keys are larger, since they alone set the size of the scores."""
    wider = 0.6 if "q_norm" in path or "k_norm" in path else 0.0
    return parameter.data + wider if "norm" in path or "ln_" in path else 0.0


def scale_of(path, parameter):
    """The standard deviation of a weight: as wide as its input for kernels, and wider where scores come from."""
    if parameter.ndim == 1 or "wpe" in path:
        return 0.3
    if "embed" in path or "wte" in path or "lm_head" in path:
        return 4 * max(parameter.shape) ** -0.5
    fan_in = parameter.shape[0] if "c_" in path else parameter.shape[1]
    return (2.5 if any(part in path for part in ("q_proj", "k_proj", "c_attn")) else 1.2) * fan_in**-0.5


def tokens_for(config, length):
    return np.random.default_rng(length).integers(0, config.vocab_size, (2, length))


def run_reference(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def run_ours(pretrained, tokens, config=None):
    module = models.Decoder(config or pretrained.config)
    run = jax.jit(module.apply, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time
    return np.asarray(run({"params": pretrained.params}, tokens))


def agrees(ours, theirs):
    return bool(np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max())


def planted_errors(config):
    """The config with one mistake, for each kind of mistake that can be made with it."""
    found = {}
    rotary = {"rope": config.rope} if config.position == "rope" and "global" in config.kinds else {}
    if config.position == "rope" and "local" in config.kinds:
        rotary |= {"local_rope": config.local_rope or config.rope}
    for field, rope in rotary.items():
        found[f"{field}.theta"] = {field: dataclasses.replace(rope, theta=rope.theta * 1.1)}
        if rope.scaling != "none":
            found[f"{field}.factor"] = {field: dataclasses.replace(rope, factor=rope.factor * 1.1)}
            found[f"{field}.scaling"] = {field: dataclasses.replace(rope, scaling="none")}
    if "local" in config.kinds:
        found["window"] = {"attention__window": config.attention.window + 1}
    if config.attention.logit_softcap:
        found["attention.logit_softcap"] = {"attention__logit_softcap": config.attention.logit_softcap * 1.1}
    if config.position == "learned":
        other = "gelu" if config.mlp.activation == "gelu_tanh" else "gelu_tanh"
        found["activation"] = {"mlp__activation": other}
        found["scale"] = {"attention__scale": (config.attention.scale or config.attention.head_dim**-0.5) * 1.1}
    if config.logit_softcap:
        found["logit_softcap"] = {"logit_softcap": config.logit_softcap * 1.1}
    return {name: models.replace(config, **change) for name, change in found.items()}


@pytest.fixture
def scores(monkeypatch):
    """The standard deviation of the attention scores of each layer that transformers runs."""
    seen = []
    for family in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt2"):
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        monkeypatch.setattr(module, "eager_attention_forward", watch(module.eager_attention_forward, seen))
    return seen


def watch(forward, seen):
    def run(module, query, key, value, attention_mask, scaling=None, **options):
        groups = query.shape[1] // key.shape[1]
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        seen.append(float((query @ key.repeat_interleave(groups, 1).transpose(2, 3) * factor).std()))
        return forward(module, query, key, value, attention_mask, scaling=scaling, **options)

    return run


@pytest.mark.parametrize("name", CASES)
def test_every_logit_agrees_and_no_planted_error_does(name, scores, tmp_path):
    model = reference(name)
    model.save_pretrained(tmp_path)
    ours = fmzoo.load(tmp_path)
    for length in (FEW, MANY):
        tokens = tokens_for(model.config, length)
        theirs = run_reference(model, tokens)
        assert theirs.std() >= 1
        assert agrees(run_ours(ours, tokens), theirs)
    assert len(scores) == 2 * ours.config.num_layers
    assert min(scores) >= 1
    for error, config in planted_errors(ours.config).items():
        assert not agrees(run_ours(ours, tokens, config), theirs), error


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_comes_back_bit_for_bit(name, tmp_path):
    import transformers

    model, sharded = reference(name), name.endswith(("one-kv", "llama3", "inner"))
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB" if sharded else "1GB")
    assert (tmp_path / "theirs/model.safetensors.index.json").exists() == sharded
    fmzoo.save(fmzoo.load(tmp_path / "theirs"), tmp_path / "ours")
    again, information = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(information.values())
    assert same_weights(model, again)
    tokens = tokens_for(model.config, MANY)
    np.testing.assert_array_equal(run_reference(again, tokens), run_reference(model, tokens))


def same_weights(one, other):
    import torch

    mine, yours = one.state_dict(), other.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[name], yours[name]) for name in mine)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_weights_come_back_bit_for_bit(family, tmp_path):
    import torch
    import transformers

    model = reference(next(name for name in CASES if name.startswith(f"{family}-"))).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs")
    fmzoo.save(fmzoo.load(tmp_path / "theirs", dtype="bfloat16"), tmp_path / "ours")
    assert json.loads((tmp_path / "ours/config.json").read_text())["torch_dtype"] == "bfloat16"
    again, information = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype="auto", output_loading_info=True
    )
    assert not any(information.values())
    assert again.dtype == torch.bfloat16
    assert same_weights(model, again)


@pytest.mark.parametrize("older_names", [False, True])
def test_the_language_part_of_a_multimodal_gemma_3(older_names, tmp_path):
    import safetensors.numpy
    import torch
    import transformers

    text = transformers.Gemma3TextConfig(**CASES["gemma3-one-kv"][1])
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    if older_names:
        file = tmp_path / "model.safetensors"
        names = {"model.language_model.": "language_model.model.", "model.": "", "lm_head.": "language_model.lm_head."}
        tensors = safetensors.numpy.load_file(file)
        for new, old in names.items():
            tensors = {old + n.removeprefix(new) if n.startswith(new) else n: t for n, t in tensors.items()}
        safetensors.numpy.save_file(tensors, file)
    ours, tokens = fmzoo.load(tmp_path), tokens_for(text, MANY)
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), token_type_ids=torch.zeros(tokens.shape, dtype=torch.long)).logits.numpy()
    assert agrees(run_ours(ours, tokens), theirs)
