"""The latent autoencoder and its discriminator: sizes and cost, parts in closed form, what changes the output."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fmzoo import parallel
from fmzoo.errors import InputError
from fmzoo.models import autoencoder as latents
from fmzoo.models.autoencoder import AutoencoderConfig, AutoencoderKL, from_latents, to_latents
from fmzoo.models.autoencoder_sharding import AUTOENCODER_RULES
from fmzoo.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from fmzoo.models.image_accounting import autoencoder_flops, image_model_parameters, image_model_shapes
from tests.models.operations import count_operations

TINY = AutoencoderConfig(channels=(4, 8), layers_per_block=1, norm_groups=2, latent_channels=2)
CRITIC = DiscriminatorConfig(features=4, num_layers=2, norm_groups=2)
MODULE = AutoencoderKL(TINY)


def random_params(shapes, seed=0):
    """Parameters of any size: no zeros, no ones."""
    rng, flat = np.random.default_rng(seed), {}
    for path, shape in shapes.items():
        wide = max(int(np.prod(shape[:-1])), 10) ** -0.5
        flat[path] = (rng.standard_normal(shape) * wide + path.endswith("scale")).astype(np.float32)
    return unflatten_dict(flat, sep="/")


def pictures(rows, height, width, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (rows, height, width, 3)).astype(np.float32)


@functools.cache
def params():
    return random_params(image_model_shapes(TINY))


@functools.cache
def runner(config):
    module = AutoencoderKL(config)

    def run(params, image):
        mean, logvar = module.apply({"params": params}, image, method="encode")
        return mean, logvar, module.apply({"params": params}, mean, method="decode")

    return jax.jit(run)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (latents.SD_AUTOENCODER, 83_653_863),
        (latents.SDXL_AUTOENCODER, 83_653_863),
        (latents.SD3_AUTOENCODER, 83_819_683),
        (latents.FLUX_AUTOENCODER, 83_819_683),
    ],
    ids=["sd", "sdxl", "sd3", "flux"],
)
def test_full_sizes_have_the_published_number_of_parameters(config, count):
    assert image_model_parameters(config) == count
    assert config.factor == 8


def test_the_parts_of_the_full_size_have_the_published_numbers():
    sizes = {"encoder": 0, "decoder": 0}
    for path, shape in image_model_shapes(latents.SD_AUTOENCODER).items():
        if path.split("/")[0] in sizes:
            sizes[path.split("/")[0]] += int(np.prod(shape))
    assert sizes == {"encoder": 34_163_592, "decoder": 49_490_179}


def test_operations_are_those_of_the_traced_network():
    shapes = [jax.ShapeDtypeStruct((1, 12, 20, 3), "float32")]
    saved = 2 * 8 * 8 * (9 - 4) * 12 * 20  # by the convolution of an upsampled map, which is not counted
    assert count_operations(MODULE, shapes) + saved == autoencoder_flops(TINY, 12, 20, training=False)
    encoder = count_operations(MODULE, shapes, method="encode")
    assert encoder == autoencoder_flops(TINY, 12, 20, part="encoder", training=False)
    decoder = autoencoder_flops(TINY, 12, 20, part="decoder")
    assert decoder + 3 * encoder == autoencoder_flops(TINY, 12, 20)


def test_a_row_depends_on_no_other_row_and_outputs_are_wide():
    image = pictures(3, 6, 10)
    outputs = runner(TINY)(params(), image)
    assert [x.shape for x in outputs] == [(3, 3, 5, 2), (3, 3, 5, 2), (3, 6, 10, 3)]
    order = np.array([2, 0, 1])
    for turned, whole in zip(runner(TINY)(params(), image[order]), outputs, strict=True):
        np.testing.assert_array_equal(turned, whole[order])
    near = runner(dataclasses.replace(TINY, dtype="bfloat16"))(params(), image)
    for rough, exact in zip(near, outputs, strict=True):
        assert rough.dtype == jnp.float32
        assert 1e-5 < np.abs(rough - exact).max() / np.abs(exact).max() < 0.1


def test_float16_is_computed_in_float32_unless_told_otherwise():
    """Weights that make activations of 1e5, as SDXL's do: float16 ends at 65,504."""
    large = jax.tree.map(np.copy, params())
    large["encoder"]["conv_in"]["kernel"] *= 1e6
    image = pictures(1, 4, 4)
    half = dataclasses.replace(TINY, dtype="float16")
    assert half.compute_dtype == jnp.float32
    assert all(np.isfinite(output).all() for output in runner(TINY)(large, image))
    overflown = runner(dataclasses.replace(half, upcast=False))(large, image)
    assert not np.isfinite(overflown[0]).all()


def test_the_log_variance_is_clipped():
    large = jax.tree.map(np.copy, params())
    large["quant_conv"]["bias"] = np.array([100.0, -100.0, 100.0, -100.0], np.float32)
    mean, logvar, _ = runner(TINY)(large, pictures(1, 4, 4))
    assert np.abs(mean).max() > 90
    assert set(np.unique(logvar)) == {-30.0, 20.0}


def test_latents_are_shifted_scaled_and_drawn_by_the_rows_key():
    config = dataclasses.replace(TINY, scaling_factor=0.5, shift_factor=0.25)
    mean, logvar = jnp.full((4, 50, 50, 2), 3.0), jnp.full((4, 50, 50, 2), np.log(0.16))
    np.testing.assert_allclose(to_latents(config, mean, logvar), (3 - 0.25) * 0.5)
    keys = jax.random.split(jax.random.key(0), 4)
    drawn = to_latents(config, mean, logvar, keys)
    back = from_latents(config, drawn)
    assert float(back.mean()) == pytest.approx(3, abs=0.4 / 20_000**0.5 * 4)
    assert float(back.std()) == pytest.approx(0.4, rel=4 / (2 * 20_000) ** 0.5)
    np.testing.assert_array_equal(drawn[1], to_latents(config, mean[1:2], logvar[1:2], keys[1:2])[0])
    assert np.abs(drawn[0] - drawn[1]).max() > 0.1


def test_a_score_sees_its_patch_and_no_other_row():
    """Two strided 4 x 4 convolutions and two plain ones see 1 + 3 (4 + 4 + 2 + 1) = 34 pixels each way; no norms."""
    config = dataclasses.replace(CRITIC, norm="none")
    module = PatchDiscriminator(config)
    image = pictures(2, 60, 60)
    weights = random_params({p: x.shape for p, x in flatten_dict(critic_shapes(config), sep="/").items()})
    scores = jax.jit(lambda x: module.apply({"params": weights}, x))
    assert scores(image).shape == (2, 13, 13)
    seen = jax.jit(jax.grad(lambda x: scores(x)[0, 6, 6]))(image)
    rows, columns = (np.flatnonzero(np.abs(seen[0]).sum(axis=(axis, 2))) for axis in (1, 0))
    assert len(rows) == len(columns) == rows[-1] - rows[0] + 1 == 34
    assert not np.abs(seen[1]).any()


def critic_shapes(config):
    image = jnp.zeros((1, 24, 24, config.image_channels))
    return jax.eval_shape(PatchDiscriminator(config).init, jax.random.key(0), image)["params"]


def test_the_discriminator_has_the_size_of_the_published_one():
    """pix2pix's for two pictures has 2,768,705, without biases where batch norms follow."""
    size = sum(x.size for x in jax.tree.leaves(critic_shapes(DiscriminatorConfig(image_channels=6))))
    assert size == 2_768_705 + 128 + 256 + 512


@pytest.mark.parametrize("shapes", [lambda: shaped(TINY), lambda: critic_shapes(CRITIC)], ids=["autoencoder", "critic"])
def test_every_leaf_fits_one_sharding_rule(shapes):
    specs = parallel.specs(AUTOENCODER_RULES, shapes(), parallel.mesh("data=4,fsdp=2"))
    flat = flatten_dict(specs, sep="/")
    assert any("fsdp" in spec for spec in flat.values())


def shaped(config):
    shapes = {path: jax.ShapeDtypeStruct(shape, "float32") for path, shape in image_model_shapes(config).items()}
    return unflatten_dict(shapes, sep="/")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: AutoencoderConfig(channels=(12, 30)), r"channels is \(12, 30\); multiples of norm_groups 32"),
        (lambda: AutoencoderConfig(channels=()), "channels is empty"),
        (lambda: DiscriminatorConfig(features=48), "features is 48; a multiple of norm_groups 32"),
        (lambda: runner(TINY)(params(), pictures(1, 5, 4)), "image is 5 x 4; multiples of the factor 2"),
        (lambda: runner(TINY)(params(), pictures(1, 4, 4)[..., :2]), "image has shape"),
        (lambda: PatchDiscriminator(CRITIC).init(jax.random.key(0), pictures(1, 11, 12)), "at least 12 each way"),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        change()
