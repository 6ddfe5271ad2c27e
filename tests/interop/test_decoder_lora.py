"""PEFT's adapters over decoders, held to what they are: a change ``scale * B A`` of the tensors of transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

import fmzoo
from fmzoo import models
from fmzoo.errors import InputError
from fmzoo.interop import decoder_lora, decoder_structure, to_theirs
from fmzoo.interop.huggingface import read_config
from fmzoo.interop.lora_files import Target
from fmzoo.interop.mapping import locations
from fmzoo.models import Decoder, Pretrained
from tests.interop.test_dense_families import LLAMA, SMALL
from tests.interop.test_huggingface import random_params

EXPERTS = LLAMA | {"num_local_experts": 2, "num_key_value_heads": 1, "intermediate_size": 10}
GPT2 = {"vocab_size": 19, "n_embd": 12, "n_layer": 3, "n_head": 2, "n_positions": 32}
FAMILIES = SMALL | {"gpt2": GPT2, "llama": LLAMA | {"num_key_value_heads": 1}, "mixtral": EXPERTS}
WRITTEN = ("gpt2", "phi3", "gpt_neox", "bloom", "opt", "llama", "mixtral")  # with kernels joined in each way, and not
RANK = 2


@pytest.fixture(scope="module")
def cases():
    """A function that gives the config, random parameters and target of a family, each made once."""
    made = {}

    def case(name):
        if name not in made:
            family, config = read_config({"model_type": name, "tie_word_embeddings": False} | FAMILIES[name])
            made[name] = config, random_params(config), Target(family.mapping(config), decoder_structure(config))
        return made[name]

    return case


def tensors_of(params, target):
    return {name: np.asarray(x) for name, x in to_theirs(target.table, target.structure, params).items()}


def layers_of(target):
    """Every layer that may be adapted, and whether its tensor is ``[in, out]``."""
    found = locations(target.table, target.structure).items()
    return {
        name.removesuffix(".weight"): layout.outputs == 1 for name, (_, layout) in found if layout.outputs is not None
    }


def write_adapter(folder, layers, params, target, **config):
    """PEFT's folder with random factors for these layers, and the tensors of the base as it changes them."""
    rng, tensors, changed = np.random.default_rng(0), {}, tensors_of(params, target)
    for layer, inputs_first in layers.items():
        kernel = changed[f"{layer}.weight"]
        inputs, outputs = kernel.shape if inputs_first else kernel.shape[::-1]
        down, up = (rng.standard_normal(shape).astype(np.float32) for shape in ((RANK, inputs), (outputs, RANK)))
        tensors |= {f"base_model.model.{layer}.lora_A.weight": down, f"base_model.model.{layer}.lora_B.weight": up}
        product = 1.5 * (up @ down)
        changed[f"{layer}.weight"] = kernel + (product.T if inputs_first else product)
    folder.mkdir()
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": RANK, "lora_alpha": 3, "target_modules": "all-linear", "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(values | config))
    return changed


@pytest.mark.parametrize("name", FAMILIES)
def test_an_adapter_of_every_layer_changes_the_tensors_that_it_is_for(cases, name, tmp_path):
    config, params, target = cases(name)
    needed = write_adapter(tmp_path / "adapter", layers_of(target), params, target)
    adapters = decoder_lora.load(tmp_path / "adapter", config, name)
    found = tensors_of(models.merge(params, adapters), target)
    assert found.keys() == needed.keys()
    unchanged = tensors_of(params, target)
    assert sum(not np.array_equal(unchanged[n], needed[n]) for n in needed) == len(layers_of(target)) > 6
    for path, tensor in needed.items():
        np.testing.assert_allclose(found[path], tensor, atol=1e-4, err_msg=path)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("shared", [True, False], ids=["one a", "each its a"])
def test_adapters_are_written_as_the_same_change(cases, name, shared, tmp_path):
    config, params, target = cases(name)
    adapters = models.init_lora(jax.random.key(1), params, RANK, "attention|mlp")
    rng = np.random.default_rng(2)
    adapters = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), adapters)
    if shared:  # as what an adapter of a fused kernel gives
        for path, leaf in flatten_dict(adapters).items():
            if path[-1] == "a":
                leaf[...] = np.resize(np.linspace(-1, 1, 7), leaf.shape)
    decoder_lora.save(tmp_path / "adapter", adapters, config, 0.5, name)
    again = decoder_lora.load(tmp_path / "adapter", config, name)
    needed, found = models.merge(params, adapters, 0.5), models.merge(params, again)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, needed)
    written = safetensors.numpy.load_file(tmp_path / "adapter/adapter_model.safetensors")
    places = locations(target.table, target.structure)
    for layer, down in ((n, x) for n, x in written.items() if ".lora_A." in n):
        parts = len(places[layer.removeprefix("base_model.model.").replace(".lora_A", "")][0])
        assert len(down) == RANK * (1 if shared else parts)
    values = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert values["fan_in_fan_out"] == (name == "gpt2")


def test_layers_left_out_are_not_changed_and_not_written(cases, tmp_path):
    config, params, target = cases("llama")
    layers = {layer: flag for layer, flag in layers_of(target).items() if ".2.self_attn.q_proj" in layer}
    write_adapter(tmp_path / "adapter", layers, params, target, layers_to_transform=[2])
    adapters = decoder_lora.load(tmp_path / "adapter", config)
    (path, a), (_, b) = flatten_dict(adapters, sep="/").items()
    assert path == "period/0/attention/query/kernel/a"
    assert [bool(jnp.any(layer)) for layer in a] == [bool(jnp.any(layer)) for layer in b] == [False, False, True, False]
    decoder_lora.save(tmp_path / "again", adapters, config)
    assert len(safetensors.numpy.load_file(tmp_path / "again/adapter_model.safetensors")) == 2


def test_a_model_is_loaded_and_saved_with_its_adapter(cases, tmp_path):
    config, params, target = cases("llama")
    base = tmp_path / "base"
    fmzoo.save(Pretrained(Decoder(config), params, config), base)
    layers = {layer: flag for layer, flag in layers_of(target).items() if "self_attn" in layer}
    write_adapter(tmp_path / "adapter", layers, params, target)
    apply = jax.jit(Decoder(config).apply)
    tokens = jnp.arange(8)[None]
    plain, adapted = fmzoo.load(base), fmzoo.load(base, adapter=tmp_path / "adapter")
    needed = apply({"params": adapted.params}, tokens)
    assert jnp.abs(needed - apply({"params": plain.params}, tokens)).max() > 0.1
    fmzoo.save(adapted, tmp_path / "merged")
    fmzoo.convert(base, tmp_path / "converted", adapter=tmp_path / "adapter")
    for folder in ("merged", "converted"):
        found = apply({"params": fmzoo.load(tmp_path / folder).params}, tokens)
        np.testing.assert_allclose(found, needed, atol=1e-4)
    fmzoo.save(adapted, tmp_path / "peft", format="peft")
    again = fmzoo.load(base, adapter=tmp_path / "peft")
    np.testing.assert_allclose(apply({"params": again.params}, tokens), needed, atol=1e-5)
    few = fmzoo.load(base, adapter=tmp_path / "adapter", quantize="int8")  # the adapter stays as it is
    kernels, kept = models.separate(few.params)
    jax.tree.map(np.testing.assert_array_equal, kept, models.separate(adapted.params)[1])
    assert isinstance(kernels["period"]["0"]["attention"]["query"]["kernel"], models.Int8Kernel)
    with pytest.raises(InputError, match="format is peft and the model has no adapters"):
        fmzoo.save(plain, tmp_path / "none", format="peft")


BAD_CONFIGS = {
    "bias": ({"bias": "all"}, "bias 'all'"),
    "another method": ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    "a base that changes": ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
    "whole layers": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "what comes one day": ({"use_something": True}, "use_something 'True'"),
    "slow pattern": ({"alpha_pattern": {"(a+)+": 1}}, "two repetitions"),
    "no pattern": ({"alpha_pattern": {"(a": 1}}, "a regular expression is needed"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_what_is_not_understood_is_refused(cases, name, tmp_path):
    config, params, target = cases("gpt2")
    changes, message = BAD_CONFIGS[name]
    write_adapter(tmp_path / "adapter", {"transformer.h.0.attn.c_attn": True}, params, target, **changes)
    with pytest.raises(InputError, match=message) as error:
        decoder_lora.load(tmp_path / "adapter", config)
    assert len(str(error.value).replace(str(tmp_path), "")) < 300


def test_patterns_of_alphas_are_those_of_peft(cases, tmp_path):
    config, params, target = cases("gpt2")
    layers = {f"transformer.h.{i}.attn.{name}": True for i in range(3) for name in ("c_attn", "c_proj")}
    for i, (pattern, changed) in enumerate(
        [("c_proj", [0, 1, 2]), (r"h\.[01]\..*c_proj", [0, 1]), ("^h.0.attn.c_proj", []), ("proj", [])]
    ):
        write_adapter(tmp_path / f"{i}", layers, params, target, alpha_pattern={pattern: 6}, use_rslora=True)
        b = decoder_lora.load(tmp_path / f"{i}", config)["period"]["0"]["attention"]["out"]["kernel"]["b"]
        raw = safetensors.numpy.load_file(tmp_path / f"{i}/adapter_model.safetensors")
        for layer in range(3):
            alpha = 6 if layer in changed else 3
            up = raw[f"base_model.model.transformer.h.{layer}.attn.c_proj.lora_B.weight"]
            np.testing.assert_allclose(b[layer], up.T * alpha / 2**0.5, rtol=1e-6)


def test_an_adapter_of_another_model_is_refused(cases, tmp_path):
    config, params, target = cases("gpt2")
    write_adapter(tmp_path / "adapter", {"transformer.h.2.attn.c_attn": True}, params, target)
    with pytest.raises(InputError, match="which the decoder does not have"):
        decoder_lora.load(tmp_path / "adapter", cases("llama")[0])
    with pytest.raises(InputError, match="do not give"):
        decoder_lora.load(tmp_path / "adapter", models.replace(config, d_model=8), "gpt2")
    (tmp_path / "adapter/adapter_model.safetensors").rename(tmp_path / "adapter/adapter_model.bin")
    with pytest.raises(InputError, match="is a pickle"):
        decoder_lora.load(tmp_path / "adapter", config)
