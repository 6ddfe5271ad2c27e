"""DiT and MMDiT: their sizes and cost, their parts in closed form, and what must not change their output."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fmzoo import parallel
from fmzoo.errors import InputError
from fmzoo.models import init_lora, join, merge
from fmzoo.models.denoiser import make_denoiser
from fmzoo.models.dit import DIT_SIZES, DiT, DiTConfig, dit
from fmzoo.models.dit_sharding import DIT_RULES
from fmzoo.models.image_accounting import dit_flops, image_model_parameters, image_model_shapes, mmdit_flops
from fmzoo.models.image_transformer import patchify, sincos_positions, unpatchify
from fmzoo.models.mmdit import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM, MMDiT, MMDiTConfig
from tests.models.operations import count_operations

DIT = DiTConfig(
    sample_size=4, in_channels=3, out_channels=6, num_layers=2, num_heads=2, head_dim=6, num_classes=4
)  # fmt: skip
MMDIT = MMDiTConfig(
    sample_size=4, in_channels=3, out_channels=3, num_layers=4, num_dual_layers=1, num_heads=2, head_dim=6,
    context_features=5, pooled_features=7, max_grid=5, qk_norm=True,
)  # fmt: skip
MODULES = {DiTConfig: DiT, MMDiTConfig: MMDiT}


def random_params(config, seed=0):
    """Parameters of any size: nothing is 0."""
    rng, flat = np.random.default_rng(seed), {}
    for path, shape in image_model_shapes(config).items():
        wide = max(shape[-2] if len(shape) > 1 else 10, 1) ** -0.5
        flat[path] = (rng.standard_normal(shape) * wide + path.endswith("scale")).astype(np.float32)
    return unflatten_dict(flat, sep="/")


@functools.cache
def inputs(config):
    rng = np.random.default_rng(1)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    sample, times = normal(3, 4, 6, config.in_channels), np.array([0.0, 17.5, 999.0], np.float32)
    if isinstance(config, DiTConfig):
        return sample, times, np.array([0, 4, 2])
    return sample, times, normal(3, 5, config.context_features), normal(3, config.pooled_features)


@functools.cache
def runner(config):
    module = MODULES[type(config)](config)
    return jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs))


def run(config, params, *given):
    return np.asarray(runner(config)(params, *(given or inputs(config))))


BOTH = pytest.mark.parametrize("config", [DIT, MMDIT], ids=["dit", "mmdit"])


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (dit("S"), 32_963_360 - 98_304),
        (dit("B"), 130_512_416 - 196_608),
        (dit("L"), 458_102_816 - 262_144),
        (dit("XL"), 675_129_632 - 294_912),
        (SD3_MEDIUM, 2_028_328_000),
        (SD35_MEDIUM, 2_243_171_520),
        (SD35_LARGE, 8_056_627_520),
    ],
)
def test_full_sizes_have_the_published_number_of_parameters(config, count):
    assert image_model_parameters(config) == count  # without the 256 fixed positions that DiT's authors count


def test_sizes_are_named():
    assert set(DIT_SIZES) == {"S", "B", "L", "XL"}
    assert dit("XL") == DiTConfig()
    with pytest.raises(InputError, match="'M'; one of S, B, L, XL"):
        dit("M")


def test_operations_are_those_of_the_traced_network():
    for config in (dit("S"), dit("XL", 4)):
        shapes = [
            jax.ShapeDtypeStruct(s, d) for s, d in (((1, 32, 32, 4), "float32"), ((1,), "float32"), ((1,), "int32"))
        ]
        assert count_operations(DiT(config), shapes) == dit_flops(config, 32, 32, training=False)
        assert dit_flops(config, 32, 32) == 3 * dit_flops(config, 32, 32, training=False)
    assert dit_flops(dit("XL"), 32, 32, training=False) == pytest.approx(2 * 118.64e9, rel=2e-3)  # 2212.09748, table 4
    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((1, 8, 4, 3), (1,), (1, 7, 5), (1, 7))]
    assert count_operations(MMDiT(MMDIT), shapes) == mmdit_flops(MMDIT, 8, 4, 7, training=False)


def test_patches_are_cut_in_reading_order_and_put_back():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = patchify(jnp.asarray(x), 2)
    np.testing.assert_array_equal(patches[1, 4], x[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(unpatchify(patches, 4, 6, 2), x)


def test_positions_are_sines_of_the_column_and_then_the_row():
    table = sincos_positions(3, 5, 8, 6.0)
    row, column = 2, 4
    for start, place in ((0, column * 6 / 5), (4, row * 6 / 3)):
        waves = [np.sin(place), np.sin(place / 100), np.cos(place), np.cos(place / 100)]
        np.testing.assert_allclose(table[row, column, start : start + 4], waves, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "changed"), [(DIT, 2), (dataclasses.replace(MMDIT, num_layers=1, num_dual_layers=0), 3)]
)
def test_an_untrained_network_says_nothing_and_every_parameter_is_declared(config, changed):
    params = jax.jit(MODULES[type(config)](config).init)(jax.random.key(0), *inputs(config))["params"]
    assert {p: leaf.shape for p, leaf in flatten_dict(params, sep="/").items()} == image_model_shapes(config)
    assert not run(config, params).any()
    zero = [path for path, leaf in flatten_dict(params, sep="/").items() if "kernel" in path and not leaf.any()]
    assert all("modulation" in path or path == "head/kernel" for path in zero)
    assert sum("modulation" in path for path in zero) == changed


@BOTH
def test_a_row_depends_on_no_other_row_and_on_each_of_its_inputs(config):
    params, given = random_params(config), inputs(config)
    whole = run(config, params)
    assert whole.shape == (3, 4, 6, config.out_channels)
    order = np.array([2, 0, 1])
    np.testing.assert_array_equal(run(config, params, *(x[order] for x in given)), whole[order])
    for place in range(len(given)):
        other = [x.copy() for x in given]
        other[place][1] = 1 if other[place].dtype == int else other[place][1] + 1
        change = np.abs(run(config, params, *other) - whole).reshape(3, -1).max(axis=1)
        assert change[1] > 1e-3
        assert change[0] == change[2] == 0


def test_the_order_of_the_context_does_not_matter_but_its_length_does():
    params, (sample, times, context, pooled) = random_params(MMDIT), inputs(MMDIT)
    whole = run(MMDIT, params)
    turned = run(MMDIT, params, sample, times, context[:, ::-1].copy(), pooled)
    np.testing.assert_allclose(turned, whole, atol=1e-5 * np.abs(whole).max())
    assert np.abs(run(MMDIT, params, sample, times, context[:, :4], pooled) - whole).max() > 1e-3


@pytest.mark.parametrize("config", [DIT, MMDIT], ids=["dit", "mmdit"])
def test_no_way_of_computing_changes_a_gradient(config):
    params = random_params(config)

    def gradient(config):
        module = make_denoiser(config)
        return jax.jit(jax.grad(lambda p: jnp.mean(module.apply({"params": p}, *inputs(config)) ** 2)))(params)

    plain = gradient(config)
    options = {"layers": "unrolled", "remat": "full", "attention": "rows", "transposed_inputs": True}
    other = gradient(dataclasses.replace(config, **options))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    assert largest > 0
    for one, two in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5 * largest)


def test_all_of_mmdit_learns_but_its_positions_and_what_the_last_context_asks():
    params, module = random_params(MMDIT), MMDiT(dataclasses.replace(MMDIT, attention="rows"))
    square = jax.jit(jax.value_and_grad(lambda p: jnp.mean(module.apply({"params": p}, *inputs(MMDIT)) ** 2)))
    value, grads = square(params)
    assert value == pytest.approx(np.mean(run(MMDIT, params) ** 2), rel=1e-5)
    unmoved = {path for path, leaf in flatten_dict(grads, sep="/").items() if not jnp.abs(leaf).max() > 0}
    asked = {f"last/attention/context/{name}" for name in ("query/kernel", "query/bias", "query_norm/scale")}
    assert unmoved == asked | {"position/bias"}


@BOTH
def test_bfloat16_is_finite_and_near(config):
    params = random_params(config)
    near, exact = run(dataclasses.replace(config, dtype="bfloat16"), params), run(config, params)
    assert near.dtype == np.float32
    assert 1e-5 < np.abs(near - exact).max() / np.abs(exact).max() < 0.1


@BOTH
def test_adapters_work_as_merged_ones_do_and_every_leaf_fits_one_rule(config):
    params = random_params(config)
    adapters = init_lora(jax.random.key(3), params, 2, r"attention/.*(query|value|out)|mlp|modulation|patch|time")
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
    joined, merged = run(config, join(params, adapters, 0.3)), run(config, merge(params, adapters, 0.3))
    np.testing.assert_allclose(joined, merged, atol=1e-4 * np.abs(merged).max())
    mesh = parallel.mesh("data=2,fsdp=2,tensor=2")
    for tree in (params, adapters, join(params, adapters)):
        assert all(
            isinstance(leaf, jax.sharding.PartitionSpec) for leaf in leaves(parallel.specs(DIT_RULES, tree, mesh))
        )
    split = parallel.specs(DIT_RULES, params, mesh)
    block = split["blocks" if config is DIT else "dual"]
    assert block["mlp" if config is DIT else "context_mlp"]["up"]["kernel"] == jax.P(None, "fsdp", "tensor")


def leaves(tree):
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: DiTConfig(num_heads=3, head_dim=3), "head_dim is 9; a multiple of 4"),
        (lambda: DiTConfig(sample_size=5), "sample_size is 5; a multiple of patch_size 2"),
        (lambda: MMDiTConfig(num_dual_layers=24), "num_dual_layers is 24; 0 to num_layers - 1 = 23"),
        (
            lambda: run(DIT, random_params(DIT), np.zeros((1, 3, 4, 3)), np.zeros(1), np.zeros(1, int)),
            "sample is 3 x 4",
        ),
        (
            lambda: run(DIT, random_params(DIT), np.zeros((1, 4, 4, 2)), np.zeros(1), np.zeros(1, int)),
            "sample has shape",
        ),
        (
            lambda: run(
                MMDIT, random_params(MMDIT), np.zeros((1, 12, 4, 3)), np.zeros(1), np.zeros((1, 2, 5)), np.zeros((1, 7))
            ),
            "sample is 6 x 2 patches; at most max_grid 5",
        ),
        (
            lambda: run(
                MMDIT, random_params(MMDIT), np.zeros((1, 4, 4, 3)), np.zeros(1), np.zeros((1, 2, 4)), np.zeros((1, 7))
            ),
            "context has shape",
        ),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        change()
