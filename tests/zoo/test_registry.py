"""The zoo: every count is the published one, every entry says where its figures come from."""

import re

import jax
import jax.numpy as jnp
import pytest

from fmzoo import models, zoo
from fmzoo.errors import InputError
from fmzoo.zoo.registry import register

SIZES = {
    "llama1": "7b 13b 33b 65b",
    "llama2": "7b 13b 34b 70b",
    "llama3": "8b 70b",
    "llama3.1": "8b 70b 405b",
    "llama3.2": "1b 3b",
    "mistral": "7b",
    "gemma1": "2b 7b",
    "gemma2": "2b 9b 27b",
    "gemma3": "270m 1b 4b 12b 27b",
    "qwen2.5": "0.5b 1.5b 3b 7b 14b 32b 72b",
    "qwen3": "0.6b 1.7b 4b 8b 14b 32b",
    "gpt2": "124m 355m 774m 1.5b",
    "gptneo": "125m 1.3b 2.7b",
    "gptj": "6b",
    "pythia": "14m 70m 160m 410m 1b 1.4b 2.8b 6.9b 12b",
    "neox": "20b",
    "opt": "125m 350m 1.3b 2.7b 6.7b 13b 30b 66b",
    "bloom": "560m 1.1b 1.7b 3b 7.1b 176b",
    "xglm": "564m 1.7b 2.9b 4.5b 7.5b",
    "phi1": "1.3b",
    "phi1.5": "1.3b",
    "phi2": "2.7b",
    "phi3": "3.8b 14b",
    "phi3.5": "3.8b",
    "phi4": "14b",
    "olmo2": "1b 7b 13b 32b",
    "smollm2": "135m 360m 1.7b",
    "smollm3": "3b",
}


def test_all_dense_sizes_are_there():
    assert {f"{family}-{size}" for family, sizes in SIZES.items() for size in sizes.split()} <= set(zoo.names())


@pytest.mark.parametrize("name", zoo.names())
def test_the_count_is_the_published_one(name):
    entry = zoo.entry(name)
    config = entry.config()
    shapes = jax.eval_shape(models.Decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == entry.parameters
    assert models.parameter_count(config) == entry.parameters


@pytest.mark.parametrize("name", zoo.names())
def test_an_entry_accounts_for_itself(name):
    entry = zoo.entry(name)
    assert entry.name == name
    assert re.fullmatch(r"[a-z]+[0-9.]*-[a-z0-9.-]+", name)
    assert any(source.startswith("parameters") for source in entry.sources)
    assert all(": " in source for source in entry.sources)
    assert entry.public
    assert entry.assumed
    assert entry.repository is None or re.fullmatch(r"[\w-]+/[\w.-]+", entry.repository)
    if sized := re.fullmatch(r"[a-z]+[0-9.]*-([0-9.]+)([mb])", name):
        size = float(sized[1]) * {"m": 1e6, "b": 1e9}[sized[2]]
        config, near = entry.config(), pytest.approx(size, rel=0.35)
        tables = config.vocab_size * config.d_model * (1 if config.tied_head else 2)
        assert near in (entry.parameters, entry.parameters - tables)  # some are named without embeddings and head


ACTIVE = {  # billions, as published; with embeddings and head where that is said
    "mixtral-8x7b": 12.9,
    "mixtral-8x22b": 39,
    "qwen3-30b-a3b": 3.3,
    "qwen3-235b-a22b": 22,
    "olmoe-1b-7b": 1.3,
    "deepseek-v2": 21,
    "deepseek-v3": 37,
}


@pytest.mark.parametrize("name", ACTIVE)
def test_a_mixture_activates_what_is_published(name):
    assert models.active_parameter_count(zoo.entry(name).config()) / 1e9 == pytest.approx(ACTIVE[name], rel=0.02)


def test_what_tells_versions_apart():
    assert zoo.entry("llama3-8b").config().rope.scaling == "none"
    assert zoo.entry("llama3.1-8b").config().rope.factor == 8
    assert zoo.entry("llama3.2-1b").config().rope.factor == 32
    assert zoo.entry("mistral-7b").config().kinds == ("local",) * 32
    assert zoo.entry("gemma2-27b").config().attention.scale == 144**-0.5
    assert zoo.entry("gemma2-2b").config().kinds[:4] == ("local", "global") * 2
    assert zoo.entry("gemma3-1b").config().kinds.count("global") == 4
    assert zoo.entry("gemma3-4b").config().rope.scaling == "linear"
    assert zoo.entry("qwen2.5-7b").config().attention.qkv_bias
    assert zoo.entry("qwen3-8b").config().attention.qk_norm == "head"
    assert zoo.entry("phi1-1.3b").config().rope.fraction == 0.5
    assert zoo.entry("phi2-2.7b").config().rope.fraction == 0.4
    assert zoo.entry("opt-350m").config().embed_dim == 512
    assert zoo.entry("opt-125m").config().embed_dim is None
    assert zoo.entry("smollm3-3b").config().kinds.count("nope") == 9


def test_an_unknown_name_brings_the_nearest():
    with pytest.raises(InputError, match=r"the zoo has no model 'llama2-7'; the nearest are .*llama2-7b"):
        zoo.entry("llama2-7")


def test_a_name_is_registered_once_and_in_lower_case():
    entry = zoo.entry("gpt2-124m")
    with pytest.raises(InputError, match="'gpt2-124m' is taken or not in lower case"):
        register(entry)
