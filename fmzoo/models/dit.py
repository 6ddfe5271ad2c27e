"""DiT: a transformer over patches of a latent picture, told a class and a time (arXiv 2212.09748)."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import require
from fmzoo.models.checks import check, check_options, check_positive
from fmzoo.models.image_transformer import (
    FeedForward,
    Modulation,
    SelfAttention,
    modulate,
    patchify,
    sincos_positions,
    unpatchify,
)
from fmzoo.models.projection import Weights, project, read
from fmzoo.models.stacked import init_stack, run_stack
from fmzoo.models.time_embedding import TimeEmbedding, sinusoids
from fmzoo.parallel import constrain_rows

Array = jax.Array
Tree = dict[str, Any]
TIME_FEATURES = 256  # waves that a time is given as


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """DiT-XL/2 by default; S, B and L differ in depth, width and heads, and each in the size of a patch."""

    sample_size: int = 32  # height and width at which two neighbouring patches are 1 apart in position
    patch_size: int = 2
    in_channels: int = 4
    out_channels: int = 8  # the second half is the variance, where that is learned
    num_layers: int = 28
    num_heads: int = 16
    head_dim: int = 72
    num_classes: int = 1000  # the label past the last stands for no class
    epsilon: float = 1e-6  # of the norms before attention and at the end
    mlp_epsilon: float = 1e-6  # of the norm before the feed-forward half; 1e-5 in diffusers' files
    frequency_shift: float = 0.0  # of the time's waves; 1 in diffusers
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    layers: Literal["scan", "unrolled"] = "scan"
    remat: Literal["none", "full", "dots"] = "none"
    attention: Literal["xla", "rows", "cudnn"] = "xla"  # rows holds one head's scores at a time
    transposed_inputs: bool = False  # for the kernels' gradients: quicker training on CPU, but no forward mode (jvp)

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_positive(self, "sample_size", "patch_size", "in_channels", "out_channels", "num_layers")
        check_positive(self, "num_heads", "head_dim", "num_classes", "epsilon", "mlp_epsilon")
        check_options(self, dtype=("float32", "bfloat16", "float16", "float64"))
        check_options(self, layers=("scan", "unrolled"), remat=("none", "full", "dots"))
        check_options(self, attention=("xla", "rows", "cudnn"))
        check(self.width % 4 == 0, f"num_heads times head_dim is {self.width}; a multiple of 4 is needed")
        check(
            self.sample_size % self.patch_size == 0,
            f"sample_size is {self.sample_size}; a multiple of patch_size {self.patch_size} is needed",
        )

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.num_heads * self.head_dim

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The dtype of activations."""
        return jnp.dtype(self.dtype)


class DiTBlock(nn.Module):
    """Attention and feed-forward, each between a shift and scale and a gate that the condition gives (adaLN-Zero)."""

    config: DiTConfig

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        """``x [B, T, D]``, ``condition [B, D]`` to ``[B, T, D]``."""
        c = self.config
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = Modulation(6, c.width, name="modulation")(condition)
        y = modulate(x, shift, scale, c.epsilon)
        attention = SelfAttention(c.num_heads, c.head_dim, False, c.attention, c.transposed_inputs, name="attention")
        x = x + gate * attention(y)
        y = modulate(x, mlp_shift, mlp_scale, c.mlp_epsilon)
        return x + mlp_gate * FeedForward(4 * c.width, c.transposed_inputs, name="mlp")(y)


class DiT(nn.Module):
    """A denoiser conditioned on a class.

    Parameters are ``patch``, ``time``, ``label_embed``, ``blocks`` (each leaf with a leading axis of layers),
    ``final_modulation`` and ``head``. Positions are fixed and no parameter.
    """

    config: DiTConfig

    def setup(self) -> None:
        """Declares every parameter."""
        c = self.config
        self.patch = Weights(c.width, True)
        self.time = TimeEmbedding(c.width)
        self.label_embed = read(self, "label_embed", nn.initializers.normal(0.02), (c.num_classes + 1, c.width))
        if not self.has_variable("params", "blocks"):
            self.param("blocks", init_blocks, c)
        self.final_modulation = Modulation(2, c.width)
        self.head = Weights(c.patch_size**2 * c.out_channels, True, 0.0)

    def __call__(self, sample: Array, timesteps: Array, labels: Array) -> Array:
        """What the network says of a noisy sample.

        Args:
          sample: ``[B, H, W, C]``, height and width divisible by ``patch_size``.
          timesteps: ``[B]``, whole or not.
          labels: ``int32[B]``, below ``num_classes``, or ``num_classes`` for none.

        Returns:
          ``[B, H, W, out_channels]`` in float32 or better.

        Raises:
          InputError: a shape does not fit.
        """
        c = self.config
        sizes = require("sample", sample, f"B H W {c.in_channels}")
        require("labels", labels, "B", require("timesteps", timesteps, "B", sizes))
        height, width = sizes["H"], sizes["W"]
        x = self.patch(c.patch_size**2 * c.in_channels)(patchify(sample.astype(c.compute_dtype), c.patch_size))
        grid = height // c.patch_size, width // c.patch_size
        positions = sincos_positions(*grid, c.width, c.sample_size // c.patch_size)
        x = x + positions.reshape(-1, c.width).astype(x.dtype)
        condition = self._condition(timesteps, labels)

        def run(params: Tree, x: Array) -> Array:
            return DiTBlock(c, parent=None).apply({"params": params}, constrain_rows(x), condition)

        blocks = self.get_variable("params", "blocks")
        x = run_stack(run, blocks, x, layers=c.layers, remat=c.remat)
        shift, scale = self.final_modulation(condition)
        return unpatchify(project_wide(self.head, modulate(x, shift, scale, c.epsilon)), height, width, c.patch_size)

    def _condition(self, timesteps: Array, labels: Array) -> Array:
        """SiLU of the time and the class together, ``[B, D]``."""
        c = self.config
        waves = sinusoids(widen(timesteps, c.compute_dtype), TIME_FEATURES, frequency_shift=c.frequency_shift)
        return jax.nn.silu(self.time(waves.astype(c.compute_dtype)) + self.label_embed[labels].astype(c.compute_dtype))


def init_blocks(key: Array, config: DiTConfig) -> Tree:
    """Parameters of all blocks, stacked."""
    x = jnp.zeros((1, 1, config.width), config.compute_dtype)
    block = DiTBlock(config, parent=None)
    return init_stack(key, lambda key: block.init(key, x, x[:, 0])["params"], config.num_layers)


def widen(x: Array, dtype: jnp.dtype) -> Array:
    """In float32, or in float64 where the network computes in that."""
    return x.astype(jnp.promote_types(jnp.float32, dtype))


def project_wide(weights: Weights, x: Array) -> Array:
    """A projection whose result is in float32 or better."""
    affine, wide = weights(x.shape[-1]), jnp.promote_types(jnp.float32, x.dtype)
    return project(x, affine.kernel, wide) + affine.bias.astype(wide)


DIT_SIZES = {"S": (12, 6, 64), "B": (12, 12, 64), "L": (24, 16, 64), "XL": (28, 16, 72)}  # arXiv 2212.09748, table 1


def dit(size: str, patch_size: int = 2, **changes: Any) -> DiTConfig:
    """DiT-S, B, L or XL with patches of 2, 4 or 8, as in table 1."""
    check(size in DIT_SIZES, f"size of DiT is {size!r}; one of {', '.join(DIT_SIZES)} is needed")
    num_layers, num_heads, head_dim = DIT_SIZES[size]
    make = functools.partial(DiTConfig, num_layers=num_layers, num_heads=num_heads, head_dim=head_dim)
    return make(patch_size=patch_size, **changes)
