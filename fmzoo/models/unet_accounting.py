"""What a U-Net costs: parameters and floating-point operations, from its config alone."""

import functools
import math
import re

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from fmzoo.models.unet import UNet
from fmzoo.models.unet_config import UNetConfig

Shape = tuple[int, ...]
FEW_TOKENS = 1  # of the context while shapes are found


@functools.lru_cache(maxsize=16)
def unet_shapes(config: UNetConfig) -> dict[str, Shape]:
    """The shape of every parameter by its path; nothing is allocated."""
    c = config
    added: dict[str, jax.ShapeDtypeStruct] = {"label": jax.ShapeDtypeStruct((1,), jnp.int32)}
    if c.added_dim is not None:
        numbers = (c.added_dim - 1) // c.added_number_dim
        added["pooled"] = jax.ShapeDtypeStruct((1, c.added_dim - numbers * c.added_number_dim), jnp.float32)
        added["time_ids"] = jax.ShapeDtypeStruct((1, numbers), jnp.float32)
    sample = jax.ShapeDtypeStruct((1, 2 ** len(c.channels), 2 ** len(c.channels), c.in_channels), jnp.float32)
    context = None if c.context_dim is None else jax.ShapeDtypeStruct((1, FEW_TOKENS, c.context_dim), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(UNet(c).init, jax.random.key(0), sample, time, context, added)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}


def unet_parameters(config: UNetConfig) -> int:
    """How many numbers `UNet.init` would make."""
    return sum(math.prod(shape) for shape in unet_shapes(config).values())


def unet_flops(config: UNetConfig, height: int, width: int, tokens: int, *, training: bool = True) -> float:
    """Floating-point operations for one image: two for each multiply-add of convolutions, projections and attention.

    A kernel counts once for each place where it is applied: a pixel of its level, a token for the context's keys and
    values, one image for the embeddings of time. The backward pass takes twice the forward; without ``training`` it is
    the forward pass. What remat computes again and what `convolve_upsampled` saves are not counted.

    Args:
      config: of the network.
      height: of the sample, in pixels or latents.
      width: of the sample.
      tokens: of the context.
      training: count the backward pass too.
    """
    sizes = [(height, width)]
    for _ in config.channels[1:]:
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    pixels = [rows * columns for rows, columns in sizes]
    forward = 0.0
    for path, shape in unet_shapes(config).items():
        if not path.endswith("/kernel"):
            continue
        level = _level(path, len(pixels))
        forward += 2 * math.prod(shape) * _places(path, pixels[level], tokens)
        if path.endswith("attention/query/kernel"):
            seen = tokens if "cross_attention" in path else pixels[level]
            forward += 4 * pixels[level] * seen * shape[1]
    return forward * (3 if training else 1)


def _level(path: str, count: int) -> int:
    """The level whose pixels a kernel is applied to."""
    if path.startswith("middle"):
        return count - 1
    found = re.match(r"(?:down|up)_(\d+)/(downsample|upsample)?", path)
    if not found:
        return 0
    return int(found[1]) + {"downsample": 1, "upsample": -1, None: 0}[found[2]]


def _places(path: str, pixels: int, tokens: int) -> int:
    if re.match(r"(time|added)/", path) or path.endswith("/time/kernel"):
        return 1
    return tokens if re.search(r"cross_attention/(key|value)/", path) else pixels
