"""What DiT, MMDiT and the autoencoder cost: parameters and floating-point operations, from the config alone.

A kernel counts once for each place where it is applied: two operations for each multiply-add. The backward pass takes
twice the forward; without ``training`` it is the forward pass. What remat computes again and what `convolve_upsampled`
saves are not counted.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from fmzoo.models.autoencoder import AutoencoderConfig, AutoencoderKL
from fmzoo.models.dit import DiT, DiTConfig
from fmzoo.models.mmdit import MMDiT, MMDiTConfig

Shape = tuple[int, ...]
FIXED = "position/bias"  # MMDiT's table of positions


@functools.lru_cache(maxsize=32)
def image_model_shapes(config: DiTConfig | MMDiTConfig | AutoencoderConfig) -> dict[str, Shape]:
    """The shape of every parameter by its path; nothing is allocated."""

    def array(*shape: int, dtype: jnp.dtype = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    c, key = config, jax.random.key(0)
    if isinstance(c, AutoencoderConfig):
        tree = jax.eval_shape(AutoencoderKL(c).init, key, array(1, c.factor, c.factor, c.image_channels))
    else:
        sample = array(1, c.patch_size, c.patch_size, c.in_channels)
        if isinstance(c, DiTConfig):
            tree = jax.eval_shape(DiT(c).init, key, sample, array(1), array(1, dtype=jnp.int32))
        else:
            told = array(1, 1, c.context_features), array(1, c.pooled_features)
            tree = jax.eval_shape(MMDiT(c).init, key, sample, array(1), *told)
    return {path: leaf.shape for path, leaf in flatten_dict(tree["params"], sep="/").items()}


def image_model_parameters(config: DiTConfig | MMDiTConfig | AutoencoderConfig) -> int:
    """How many numbers are trained; MMDiT's table of positions, which is fixed, is not counted."""
    return sum(math.prod(shape) for path, shape in image_model_shapes(config).items() if path != FIXED)


def dit_flops(config: DiTConfig, height: int, width: int, *, training: bool = True) -> float:
    """Floating-point operations for one sample of ``height`` by ``width``."""
    patches = height * width // config.patch_size**2
    forward = 4 * config.num_layers * patches**2 * config.width
    for path, shape in image_model_shapes(config).items():
        if path.endswith("/kernel"):
            forward += 2 * math.prod(shape) * (1 if re.search(r"modulation/|^time/", path) else patches)
    return forward * (3 if training else 1)


def mmdit_flops(config: MMDiTConfig, height: int, width: int, tokens: int, *, training: bool = True) -> float:
    """Floating-point operations for one sample of ``height`` by ``width`` and a context of ``tokens``."""
    c, patches = config, height * width // config.patch_size**2
    forward = 4 * c.width * (c.num_layers * (patches + tokens) ** 2 + c.num_dual_layers * patches**2)
    for path, shape in image_model_shapes(c).items():
        if not path.endswith("/kernel"):
            continue
        places = tokens if re.search(r"^context/|/context(_out|_mlp)?/", path) else patches
        forward += 2 * math.prod(shape) * (1 if re.search(r"modulation/|^(time|pooled)/", path) else places)
    return forward * (3 if training else 1)


def autoencoder_flops(
    config: AutoencoderConfig, height: int, width: int, *, part: str = "both", training: bool = True
) -> float:
    """Floating-point operations for one picture of ``height`` by ``width``.

    Args:
      config: of the autoencoder.
      height: of the picture, divisible by ``config.factor``.
      width: of the picture.
      part: ``encoder``, ``decoder`` or ``both``, quantising convolutions with the part that they belong to.
      training: count the backward pass too.
    """
    deepest, forward = len(config.channels) - 1, 0.0
    for path, shape in image_model_shapes(config).items():
        owner = {"quant_conv": "encoder", "post_quant_conv": "decoder"}.get(path.split("/")[0], path.split("/")[0])
        if part not in ("both", owner) or not path.endswith("/kernel"):
            continue
        pixels = height * width // 4 ** _level(path, deepest)
        forward += 2 * math.prod(shape) * pixels
        if path.endswith("attention/query/kernel"):
            forward += 4 * pixels**2 * shape[1]
    return forward * (3 if training else 1)


def _level(path: str, deepest: int) -> int:
    """The level whose pixels a kernel gives."""
    if found := re.search(r"level_(\d+)_(down|up|block)", path):
        return int(found[1]) + {"down": 1, "up": -1, "block": 0}[found[2]]
    return 0 if re.match(r"encoder/conv_in|decoder/out", path) else deepest
