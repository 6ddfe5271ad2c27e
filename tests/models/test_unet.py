"""The U-Net: its sizes, its parts in closed form, and what must not change its output."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import models
from fmzoo.errors import InputError
from fmzoo.models.convolution import Convolution, convolve, convolve_upsampled, upsample
from fmzoo.models.image_attention import attend_pixels
from fmzoo.models.norms import GroupNorm
from fmzoo.models.time_embedding import sinusoids
from fmzoo.models.unet import UNet
from fmzoo.models.unet_accounting import unet_flops, unet_parameters, unet_shapes
from fmzoo.models.unet_config import (
    STABLE_DIFFUSION_1,
    STABLE_DIFFUSION_1_INPAINTING,
    STABLE_DIFFUSION_2,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION_XL_REFINER,
    UNetConfig,
)
from fmzoo.models.unet_sharding import UNET_RULES

TINY = UNetConfig(
    in_channels=3, out_channels=2, channels=(8, 12), layers=(1, 1), transformer_layers=(1, 0), num_heads=(2, 3),
    context_dim=5, groups=4, num_classes=6, added_dim=7 + 2 * 4, added_number_dim=4, dropout=0.1,
)  # fmt: skip


def tree_at(tree, path):
    """The part of a tree of parameters at a path."""
    return functools.reduce(lambda part, name: part[name], path.split("/"), tree)


def random_like(shapes, seed=0):
    """Parameters of any size: no zeros, no ones."""
    rng = np.random.default_rng(seed)
    flat = {}
    for path, shape in shapes.items():
        fan_in = max(1, int(np.prod(shape[:-1])))
        value = rng.standard_normal(shape) * fan_in**-0.5 if len(shape) > 1 else 0.3 * rng.standard_normal(shape)
        flat[path] = (value + path.endswith("scale")).astype(np.float32)
    out = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        functools.reduce(lambda part, key: part.setdefault(key, {}), parents, out)[name] = value
    return out


@pytest.fixture(scope="module")
def case():
    """Parameters, inputs of three rows and odd size, and the network compiled once."""
    rng = np.random.default_rng(0)
    given = {
        "sample": rng.standard_normal((3, 5, 7, 3)).astype(np.float32),
        "timesteps": np.array([0.0, 17.5, 999.0], np.float32),
        "context": rng.standard_normal((3, 4, 5)).astype(np.float32),
        "added": {
            "pooled": rng.standard_normal((3, 7)).astype(np.float32),
            "time_ids": rng.uniform(0, 64, (3, 2)).astype(np.float32),
            "label": np.array([0, 5, 2]),
        },
    }
    params = random_like(unet_shapes(TINY))
    module = UNet(TINY)
    apply = jax.jit(lambda params, keys, given: module.apply({"params": params}, **given, dropout_keys=keys))
    return params, given, apply


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (STABLE_DIFFUSION_1, 859_520_964),
        (STABLE_DIFFUSION_1_INPAINTING, 859_535_364),
        (STABLE_DIFFUSION_2, 865_910_724),
        (STABLE_DIFFUSION_XL, 2_567_463_684),
        (STABLE_DIFFUSION_XL_REFINER, 2_259_526_660),
    ],
)
def test_full_sizes_have_the_published_number_of_parameters(config, count):
    assert unet_parameters(config) == count


def test_a_row_depends_on_no_other_row(case):
    params, given, apply = case
    keys = jax.random.split(jax.random.key(1), 3)
    whole = apply(params, keys, given)
    order = np.array([2, 0, 1])
    moved = apply(params, keys[order], jax.tree.map(lambda leaf: leaf[order], given))
    np.testing.assert_array_equal(moved, whole[order])
    other = {**given, "sample": given["sample"].copy()}
    other["sample"][0] += 1
    changed = apply(params, keys, other)
    np.testing.assert_array_equal(changed[1:], whole[1:])
    assert np.abs(changed[0] - whole[0]).max() > 1e-2
    assert whole.shape == (3, 5, 7, 2)
    assert whole.dtype == jnp.float32


@pytest.mark.parametrize("field", ["timesteps", "context", "pooled", "time_ids", "label"])
def test_every_condition_is_heard_in_its_row(case, field):
    params, given, apply = case
    before = apply(params, None, given)
    other = jax.tree.map(np.copy, given)
    part = other if field in other else other["added"]
    part[field][1] = (part[field][1] + 1) % 6
    change = np.abs(apply(params, None, other) - before).reshape(3, -1).max(axis=1)
    assert change[1] > 1e-3
    assert change[0] == change[2] == 0


def test_dropout_needs_keys_and_draws_by_key(case):
    params, given, apply = case
    one, same, other = (apply(params, jax.random.split(jax.random.key(n), 3), given) for n in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - apply(params, None, given)).max() > 1e-3


def test_recomputing_and_attending_by_rows_change_no_gradient(case):
    config = dataclasses.replace(
        TINY, channels=(8,), layers=(1,), transformer_layers=(1,), num_heads=(2,), mid="plain", num_classes=None,
        added_dim=None,
    )  # fmt: skip
    params, given = random_like(unet_shapes(config)), {**case[1], "added": None}

    def gradient(config):
        def loss(params):
            return jnp.mean(UNet(config).apply({"params": params}, **given) ** 2)

        return jax.jit(jax.grad(loss))(params)

    plain = gradient(config)
    other = gradient(dataclasses.replace(config, remat="full", attention="rows", transposed_inputs=True))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain)) > 0
    for one, two in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5 * largest)


def test_bfloat16_is_finite_and_near(case):
    params, given, apply = case
    module = UNet(dataclasses.replace(TINY, dtype="bfloat16"))
    near, exact = jax.jit(lambda p: module.apply({"params": p}, **given))(params), apply(params, None, given)
    assert near.dtype == jnp.float32
    error = np.abs(near - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 0.05


def test_low_rank_adapters_work_in_it(case):
    params, given, apply = case
    adapters = models.init_lora(jax.random.key(0), params, 2, r"(self|cross)_attention/(query|value)|mlp/up")
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
    apart = apply(models.join(params, adapters, 0.5), None, given)
    merged = apply(models.merge(params, adapters, 0.5), None, given)
    np.testing.assert_allclose(apart, merged, atol=1e-5)
    assert np.abs(merged - apply(params, None, given)).max() > 1e-3
    bad = models.join(params, {"down_0": {"resnet_0": {"conv1": {"kernel": {"a": 0.0, "b": 0.0}}}}})
    with pytest.raises(InputError, match="conv1/kernel is a Lora"):
        UNet(TINY).apply({"params": bad}, **given)


@pytest.mark.parametrize("config", [TINY, STABLE_DIFFUSION_XL])
def test_every_parameter_has_exactly_one_sharding_rule(config):
    shapes = unet_shapes(config)
    kernels = {path: shape for path, shape in shapes.items() if path.endswith("kernel") and len(shape) == 2}
    for path, (inputs, outputs) in kernels.items():
        shapes = shapes | {f"{path}/kernel": (inputs, outputs), f"{path}/a": (inputs, 2), f"{path}/b": (2, outputs)}
    for path, shape in shapes.items():
        rows = [axes for pattern, axes in UNET_RULES.table if re.fullmatch(pattern, path)]
        assert len(rows) == 1, (path, rows)
        assert len(rows[0]) == len(shape), path
        assert {*rows[0]} <= {None, *UNET_RULES.axes}


def test_operations_are_those_of_the_compiled_products():
    config = dataclasses.replace(TINY, channels=(32, 64), groups=8, num_heads=(2, 4), dropout=0.0)
    given = (jnp.zeros((1, 13, 9, 3)), jnp.zeros(1), jnp.zeros((1, 9, 5)))
    added = {"pooled": jnp.zeros((1, 7)), "time_ids": jnp.zeros((1, 2)), "label": jnp.zeros(1, int)}
    params = random_like(unet_shapes(config))
    lowered = jax.jit(lambda p: UNet(config).apply({"params": p}, *given, added)).lower(params)
    counted, stated = lowered.compile().cost_analysis()["flops"], unet_flops(config, 13, 9, 9, training=False)
    assert stated == pytest.approx(counted, rel=0.08)  # norms, activations and what the border saves are the rest


def test_group_norm_is_its_formula():
    x = np.random.default_rng(0).normal(5, 2, (2, 3, 4, 6)).astype(np.float32)
    params = {"scale": np.arange(1, 7, dtype=np.float32), "bias": np.arange(6, dtype=np.float32)}
    parts = x.reshape(2, 12, 3, 2)
    centred = parts - parts.mean((1, 3), keepdims=True)
    needed = (centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-3)).reshape(x.shape)
    found = GroupNorm(3, 1e-3).apply({"params": params}, x)
    np.testing.assert_allclose(found, needed * params["scale"] + params["bias"], atol=2e-5)


@pytest.mark.parametrize(("stride", "padding"), [(1, None), (2, None), (2, ((0, 1), (0, 1)))])
def test_a_convolution_is_its_sum(stride, padding):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((1, 5, 6, 2)), rng.standard_normal((3, 3, 2, 4))
    padded = np.pad(x, ((0, 0), *(padding or ((1, 1), (1, 1))), (0, 0)))
    rows, columns = ((n - 3) // stride + 1 for n in padded.shape[1:3])
    needed = np.zeros((1, rows, columns, 4))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            needed[:, i, j] = np.einsum("bhwc,hwcf->bf", window, kernel)
    params = {"kernel": kernel.astype(np.float32), "bias": np.ones(4, np.float32)}
    found = Convolution(4, stride=stride, padding=padding).apply({"params": params}, x.astype(np.float32))
    np.testing.assert_allclose(found, needed + 1, atol=1e-5)
    np.testing.assert_allclose(convolve(x.astype(np.float32), params["kernel"], stride, padding), needed, atol=1e-5)


def test_upsampling_repeats_pixels():
    x = np.arange(12.0).reshape(1, 2, 3, 2)
    whole = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(upsample(x), whole)
    np.testing.assert_array_equal(upsample(x, (3, 5)), whole[:, :3, :5])


def test_convolving_what_is_upsampled_in_fewer_products_is_the_same():
    x, kernel = jax.random.normal(jax.random.key(0), (2, 3, 4, 5)), jax.random.normal(jax.random.key(1), (3, 3, 5, 2))
    np.testing.assert_allclose(convolve_upsampled(x, kernel), convolve(upsample(x), kernel), atol=2e-5)


def test_sinusoids_are_their_formula():
    found = sinusoids(jnp.array([0.0, 3.5]), 5, frequency_shift=1.0)
    angles = 3.5 * 10_000.0 ** -np.arange(2)
    np.testing.assert_allclose(found[1], [*np.cos(angles), *np.sin(angles), 0], atol=1e-6)
    np.testing.assert_allclose(found[0], [1, 1, 0, 0, 0], atol=0)
    swapped = sinusoids(jnp.array([3.5]), 4, sines_first=True)
    np.testing.assert_allclose(swapped[0, :2], np.sin(3.5 * 10_000.0 ** -(np.arange(2) / 2)), atol=1e-6)


def test_attention_by_rows_is_attention():
    """In float64, values and gradients, and large scores do not overflow."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        q, k, v, out = (rng.standard_normal((2, n, 3, 4)) for n in (6, 5, 5, 6))

        def score(implementation):
            return lambda *qkv: jnp.sum(attend_pixels(*qkv, implementation=implementation) * out)

        for factor in (1.0, 300.0):
            one, two = (jax.value_and_grad(score(name), (0, 1, 2))(q * factor, k, v) for name in ("xla", "rows"))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), one, two)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"channels": ()}, "channels is empty"),
        ({"layers": (1,)}, "layers is"),
        ({"groups": 5}, "groups 5 does not divide channels 8"),
        ({"num_heads": (3, 3)}, "num_heads 3 does not divide channels 8"),
        ({"mid_transformer_layers": 0}, "mid_transformer_layers is 0"),
        ({"attention": "flash"}, "one of xla, rows, cudnn"),
        ({"transformer_layers": (-1, 0)}, "transformer_layers"),
    ],
)
def test_configs_that_cannot_be_are_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"context": None}, "context is None"),
        ({"context": np.zeros((3, 4, 6))}, "context has shape"),
        ({"sample": np.zeros((3, 5, 7, 4))}, "sample has shape"),
        ({"added": {}}, "added has no 'label'"),
        ({"added": {"label": np.zeros(3, int), "pooled": np.zeros((3, 7)), "time_ids": np.zeros((3, 3))}}, "time_ids"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(case, changes, sentence):
    params, given, _ = case
    with pytest.raises(InputError, match=sentence):
        UNet(TINY).apply({"params": params}, **{**given, **changes})
