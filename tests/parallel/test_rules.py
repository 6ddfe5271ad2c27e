"""Axis rules: each parameter once, whatever the config; optimizers follow; devices hold their share."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from fmzoo import models, parallel, train
from fmzoo.errors import InputError
from fmzoo.parallel import Rules
from fmzoo.parallel.rules import path_of

RULES = models.DECODER_RULES
BASE = models.DecoderConfig(
    vocab_size=64,
    d_model=16,
    num_layers=4,
    context_length=16,
    attention=models.AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8, window=4),
    mlp=models.MlpConfig(d_ff=32),
)
RICH = {
    "attention__qkv_bias": True,
    "attention__out_bias": True,
    "mlp__bias": True,
    "norm__kind": "layer",
    "norm__bias": True,
    "norm__placement": "both",
    "position": "learned",
}
LAYERS = {
    "period": {},
    "prefix": {"prefix": ("local", "global")},
    "tail": {"pattern": ("local", "local", "global")},
    "prefix, period of two and tail": {"prefix": ("global",), "pattern": ("local", "global")},
    "prefix alone": {"prefix": ("global",) * 4},
}


def mesh():
    return parallel.mesh("data=2,fsdp=2,tensor=2")


def init(config):
    """Parameters, which do not depend on what computes attention; only one of those runs anywhere and at any length."""
    module = models.Decoder(models.replace(config, attention__implementation="xla"))
    return module.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def shapes(config):
    return jax.eval_shape(lambda: init(config))


def options(config, prefix=""):
    """Every change of one option of a nested config: the other choices of a Literal, the other truth of a bool."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from options(value, f"{prefix}{field.name}__")
        elif isinstance(value, bool):
            yield {f"{prefix}{field.name}": not value}
        elif typing.get_origin(hints[field.name]) is typing.Literal:
            yield from ({f"{prefix}{field.name}": c} for c in typing.get_args(hints[field.name]) if c != value)


OPTIONS = list(options(BASE))


def test_every_option_is_tried():
    assert len(OPTIONS) >= 25
    assert {"norm__kind": "layer"} in OPTIONS
    assert {"tied_head": True} in OPTIONS


@pytest.mark.parametrize("change", OPTIONS, ids=str)
def test_every_option_has_a_rule_for_each_of_its_parameters(change, x64):
    found = parallel.specs(RULES, shapes(models.replace(BASE, **change)), mesh())
    kernels = {path_of(keys): spec for keys, spec in jax.tree.leaves_with_path(found)}
    assert kernels["period/0/attention/query/kernel"] == P(None, "fsdp", "tensor")
    assert kernels["period/0/mlp/down/kernel"] == P(None, "tensor", "fsdp")


@pytest.mark.parametrize("layers", LAYERS)
def test_every_place_of_a_layer_has_rules_for_a_rich_block(layers):
    tree = shapes(models.replace(BASE, **RICH, **LAYERS[layers]))
    found = {path_of(keys): spec for keys, spec in jax.tree.leaves_with_path(parallel.specs(RULES, tree, mesh()))}
    for path, spec in found.items():
        kind = path.rpartition("/")[2]
        if kind == "kernel" or path.endswith("embed") or path == "head":
            assert "fsdp" in spec, path
        if path.endswith(("query/bias", "value/bias", "up/bias")):
            assert spec[-1] == "tensor", path
        if "norm" in path or path.endswith(("out/bias", "down/bias")):
            assert not any(spec), path
    assert any(path.startswith("prefix/0/") for path in found) == layers.startswith("prefix")


def test_layers_that_are_not_stacked_have_rules_too():
    """As decoding unstacks them: a list of trees in the period's place."""
    tree = jax.eval_shape(lambda: models.unstack(init(BASE)))
    found = {path_of(keys): spec for keys, spec in jax.tree.leaves_with_path(parallel.specs(RULES, tree, mesh()))}
    assert found["period/0/3/attention/query/kernel"] == P("fsdp", "tensor")


def adapters_of(base):
    make = lambda key: models.init_lora(key, base, 2, r"attention/(query|value|out)|mlp/")  # noqa: E731
    return make(jax.random.key(0))


@pytest.mark.parametrize("layers", ["period", "prefix, period of two and tail"])
def test_adapters_are_split_like_the_kernels_that_they_change(layers):
    base = shapes(models.replace(BASE, **LAYERS[layers]))
    adapters = jax.eval_shape(adapters_of, base)
    found = {path_of(keys): spec for keys, spec in jax.tree.leaves_with_path(parallel.specs(RULES, adapters, mesh()))}
    assert found["period/0/mlp/up/kernel/a"] == P(None, "fsdp", None)
    assert found["period/0/mlp/up/kernel/b"] == P(None, None, "tensor")
    assert found["period/0/attention/out/kernel/a"] == P(None, "tensor", None)
    joined = {path_of(keys): s for keys, s in jax.tree.leaves_with_path(
        parallel.specs(RULES, models.join(base, adapters), mesh())
    )}  # fmt: skip
    assert joined["period/0/mlp/up/kernel/kernel"] == P(None, "fsdp", "tensor")


TABLE = (("a/(kernel|b)", ("rows", "columns")), ("a/.*", ("rows", "columns")))


def test_no_rule_and_two_rules_are_errors():
    rules = Rules(TABLE[:1], {"rows": "fsdp", "columns": None})
    tree = {"a": {"kernel": jnp.zeros((4, 4)), "other": jnp.zeros((4, 4))}}
    with pytest.raises(InputError, match=r"parameter a/other \(4, 4\) matches no sharding rule; exactly one is needed"):
        parallel.specs(rules, tree, mesh())
    with pytest.raises(InputError, match="parameter a/kernel fits 2 sharding rules; exactly one is needed"):
        parallel.specs(Rules(TABLE, rules.axes), tree, mesh())
    with pytest.raises(InputError, match=r"parameter params/a/other \(4, 4\) matches no sharding rule"):
        parallel.state_shardings({"params": tree}, mesh(), rules)


def test_a_dimension_that_an_axis_does_not_divide_is_an_error():
    rules = Rules((("w", ("rows",)),), {"rows": "fsdp"})
    with pytest.raises(InputError, match="mesh axis fsdp=2 does not divide rows=3 of w; a divisor is needed"):
        parallel.specs(rules, {"w": jnp.zeros(3)}, mesh())


@pytest.mark.parametrize(("field", "tensor"), [("num_heads", 8), ("num_kv_heads", 4)])
def test_a_mesh_that_would_split_a_head_is_an_error(field, tensor):
    with pytest.raises(InputError, match=f"mesh axis tensor={tensor} does not divide {field}="):
        models.check_mesh(BASE, tensor)
    models.check_mesh(BASE, 2)


OPTIMIZERS = {
    name: train.make_optimizer(train.OptimizerConfig(name=name), 10) for name in ("adamw", "adafactor", "muon")
}


@pytest.mark.parametrize("layers", ["period", "prefix, period of two and tail"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizers_moments_follow_their_parameters(name, layers):
    def make():
        params = init(models.replace(BASE, **RICH, **LAYERS[layers]))
        return train.init_state(params, OPTIMIZERS[name], jax.random.key(0), ema=True, copy=False)

    state = jax.eval_shape(make)
    found = parallel.state_shardings(state, mesh(), RULES)
    params = {path_of(k): (leaf.shape, s.spec) for (k, leaf), s in zip(
        jax.tree.leaves_with_path(state.params), jax.tree.leaves(found.params), strict=True
    )}  # fmt: skip
    assert jax.tree.leaves(found.ema) == jax.tree.leaves(found.params)
    followed = 0
    for (keys, leaf), sharding in zip(
        jax.tree.leaves_with_path(state.opt_state), jax.tree.leaves(found.opt_state), strict=True
    ):
        same = [
            spec for path, (shape, spec) in params.items() if path_of(keys).endswith(f"/{path}") and shape == leaf.shape
        ]
        assert sharding.spec == (same[0] if same else P()), path_of(keys)
        followed += bool(same)
    assert followed >= {"adamw": 2, "muon": 1, "adafactor": 0.3}[name] * len(params)


def bytes_by_device(tree):
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return list(held.values())


@pytest.mark.parametrize(
    ("sizes", "share"), [("fsdp=8", 8), ("fsdp=4,tensor=2", 8), ("data=4,tensor=2", 2), ("data=8", 1)]
)
def test_a_device_holds_its_share_of_parameters_and_moments(sizes, share):
    config = models.replace(BASE, d_model=64, mlp__d_ff=256, vocab_size=512, attention__num_kv_heads=4)
    params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes(config))
    state = train.init_state(params, optax.adamw(1e-3), jax.random.key(0), copy=False).replace(rng=jnp.zeros(2))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    held = bytes_by_device(parallel.place(state, parallel.mesh(sizes), RULES))
    assert len(set(held)) == 1
    assert whole / share <= held[0] < 1.1 * whole / share
