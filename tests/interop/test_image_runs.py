"""The model of an image run: what its denoiser is told of a caption, and which widths fit together."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.interop.image_runs import ImageModelConfig, init_params
from fmzoo.models.clip_text import ClipTextConfig
from fmzoo.models.denoiser import denoise, make_denoiser
from fmzoo.models.mmdit import MMDiTConfig
from fmzoo.models.text_to_image import encode_prompts
from fmzoo.stages.images import FLOW

READER = ClipTextConfig(260, d_model=8, num_layers=2, num_heads=2, d_ff=16, context_length=6, eos_id=0)
MMDIT = MMDiTConfig(
    sample_size=4, in_channels=1, out_channels=1, num_layers=2, num_heads=2, head_dim=4, context_features=8,
    pooled_features=8, max_grid=2,
)  # fmt: skip
MODEL = ImageModelConfig(MMDIT, FLOW, READER)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: init_params(MODEL, jax.random.key(0)))()


def tell(params, rows):
    return jax.jit(encode_prompts, static_argnums=0)(MODEL.system, params, {"text_encoder": jnp.array(rows)})


def test_a_denoiser_of_two_streams_is_told_a_caption_as_tokens_and_as_one_vector(params):
    told = tell(params, [[1, 30, 40, 0, 0, 0], [1, 30, 41, 0, 0, 0]])
    assert {name: value.shape for name, value in told.items()} == {"context": (2, 6, 8), "pooled": (2, 8)}
    assert MODEL.system.family == "sd3"
    assert all(np.abs(value[0] - value[1]).max() > 0 for value in told.values())
    np.testing.assert_array_equal(told["context"][0, :2], told["context"][1, :2])
    x, t = jnp.ones((2, 4, 4, 1)), jnp.full(2, 500.0)
    said = jax.eval_shape(functools.partial(denoise, make_denoiser(MMDIT)), params["denoiser"], x, t, told)
    assert said.shape == x.shape


def test_the_vector_is_that_of_the_end_of_the_text_whatever_stands_behind_it(params):
    pooled = tell(params, [[1, 30, 40, 0, 0, 0], [1, 30, 40, 0, 250, 7]])["pooled"]
    np.testing.assert_allclose(pooled[0], pooled[1], atol=1e-6)


@pytest.mark.parametrize("encoder", [None, dataclasses.replace(READER, projection=9)])
def test_widths_that_do_not_fit_are_refused(encoder):
    with pytest.raises(InputError, match="pooled_features is 8 and the encoder's pooled output has width"):
        init_params(dataclasses.replace(MODEL, encoder=encoder), jax.random.key(0))
