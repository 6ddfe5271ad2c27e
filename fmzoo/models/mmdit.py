"""MMDiT: text and picture as two streams that attend together (arXiv 2403.03206), Stable Diffusion 3 and 3.5."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import InputError, require
from fmzoo.models.checks import check, check_options, check_positive
from fmzoo.models.dit import TIME_FEATURES, project_wide, widen
from fmzoo.models.image_transformer import (
    FeedForward,
    JointAttention,
    Modulation,
    SelfAttention,
    modulate,
    patchify,
    sincos_positions,
    unpatchify,
)
from fmzoo.models.projection import Weights, read
from fmzoo.models.stacked import init_stack, run_stack
from fmzoo.models.time_embedding import TimeEmbedding, sinusoids
from fmzoo.parallel import constrain_rows

Array = jax.Array
Tree = dict[str, Any]
Streams = tuple[Array, Array]  # image [B, T, D], context [B, S, D]


@dataclasses.dataclass(frozen=True)
class MMDiTConfig:
    """Stable Diffusion 3 medium by default.

    The first ``num_dual_layers`` have a second attention, of the picture alone. The last layer gives no context.
    """

    sample_size: int = 128  # height and width at which two neighbouring patches are 1 apart in position
    patch_size: int = 2
    in_channels: int = 16
    out_channels: int = 16
    num_layers: int = 24
    num_dual_layers: int = 0
    num_heads: int = 24
    head_dim: int = 64
    context_features: int = 4096
    pooled_features: int = 2048
    max_grid: int = 192  # patches that a picture is high and wide at most; the middle of the table of positions is used
    qk_norm: bool = False
    epsilon: float = 1e-6
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    layers: Literal["scan", "unrolled"] = "scan"
    remat: Literal["none", "full", "dots"] = "none"
    attention: Literal["xla", "rows", "cudnn"] = "xla"  # rows holds one head's scores at a time
    transposed_inputs: bool = False  # for the kernels' gradients: quicker training on CPU, but no forward mode (jvp)

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_positive(self, "sample_size", "patch_size", "in_channels", "out_channels", "num_layers", "num_heads")
        check_positive(self, "head_dim", "context_features", "pooled_features", "max_grid", "epsilon")
        check_options(self, dtype=("float32", "bfloat16", "float16", "float64"))
        check_options(self, layers=("scan", "unrolled"), remat=("none", "full", "dots"))
        check_options(self, attention=("xla", "rows", "cudnn"))
        check(self.width % 4 == 0, f"num_heads times head_dim is {self.width}; a multiple of 4 is needed")
        check(
            0 <= self.num_dual_layers < self.num_layers,
            f"num_dual_layers is {self.num_dual_layers}; 0 to num_layers - 1 = {self.num_layers - 1} is needed",
        )
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

    @property
    def stacks(self) -> dict[str, int]:
        """How many layers each stack of equal ones holds, in order; those that hold any."""
        counts = {"dual": self.num_dual_layers, "joint": self.num_layers - 1 - self.num_dual_layers, "last": 1}
        return {name: count for name, count in counts.items() if count}


class MMDiTBlock(nn.Module):
    """A layer of both streams; dual has a second attention of the picture, last gives no context."""

    config: MMDiTConfig
    kind: str

    @nn.compact
    def __call__(self, streams: Streams, condition: Array) -> Streams:
        """The image ``[B, T, D]`` and the context ``[B, S, D]`` after it, given ``condition [B, D]``."""
        c, (image, context), dual, last = self.config, streams, self.kind == "dual", self.kind == "last"
        changes = Modulation(9 if dual else 6, c.width, name="image_modulation")(condition)
        text = Modulation(2 if last else 6, c.width, name="context_modulation")(condition)
        how = (c.attention, c.transposed_inputs)
        attention = JointAttention(c.num_heads, c.head_dim, c.qk_norm, not last, *how, name="attention")
        seen, text_seen = modulate(image, *changes[:2], c.epsilon), modulate(context, *text[:2], c.epsilon)
        attended, text_attended = attention(seen, text_seen)
        if dual:
            alone = SelfAttention(c.num_heads, c.head_dim, c.qk_norm, *how, name="image_attention")
            second = changes[8] * alone(modulate(image, *changes[6:8], c.epsilon))
        image = image + changes[2] * attended
        image = image + second if dual else image
        image = self._feed(image, *changes[3:6], "image_mlp")
        if not last:
            context = self._feed(context + text[2] * text_attended, *text[3:], "context_mlp")
        return image, context

    def _feed(self, x: Array, shift: Array, scale: Array, gate: Array, name: str) -> Array:
        y = modulate(x, shift, scale, self.config.epsilon)
        return x + gate * FeedForward(4 * self.config.width, self.config.transposed_inputs, name=name)(y)


class MMDiT(nn.Module):
    """A denoiser conditioned on text, as a sequence and as one vector.

    Parameters are ``patch``, ``position`` (fixed: no gradient reaches it), ``time``, ``pooled``, ``context``, ``dual``
    and ``joint`` (each leaf with a leading axis of layers), ``last``, ``final_modulation`` and ``head``.
    """

    config: MMDiTConfig

    def setup(self) -> None:
        """Declares every parameter."""
        c = self.config
        self.patch = Weights(c.width, True)
        self.position = Positions(c)
        self.time, self.pooled = TimeEmbedding(c.width), TimeEmbedding(c.width)
        self.context = Weights(c.width, True)
        for kind, copies in c.stacks.items():
            if not self.has_variable("params", kind):
                self.param(kind, init_kind, c, kind, copies)
        self.final_modulation = Modulation(2, c.width)
        self.head = Weights(c.patch_size**2 * c.out_channels, True, 0.0)

    def __call__(self, sample: Array, timesteps: Array, context: Array, pooled: Array) -> Array:
        """What the network says of a noisy sample.

        Args:
          sample: ``[B, H, W, C]``, height and width divisible by ``patch_size`` and at most ``max_grid`` patches.
          timesteps: ``[B]``; Stable Diffusion 3 gives 1000 times the share of noise.
          context: ``[B, S, context_features]``, the text's tokens; none is masked.
          pooled: ``[B, pooled_features]``, the text as a whole.

        Returns:
          ``[B, H, W, out_channels]`` in float32 or better.

        Raises:
          InputError: a shape does not fit.
        """
        c, dtype = self.config, self.config.compute_dtype
        sizes = require("timesteps", timesteps, "B", require("sample", sample, f"B H W {c.in_channels}"))
        require("context", context, f"B S {c.context_features}", sizes)
        require("pooled", pooled, f"B {c.pooled_features}", sizes)
        height, width = sizes["H"], sizes["W"]
        image = self.patch(c.patch_size**2 * c.in_channels)(patchify(sample.astype(dtype), c.patch_size))
        image = image + self.position(height // c.patch_size, width // c.patch_size).astype(dtype)
        waves = sinusoids(widen(timesteps, dtype), TIME_FEATURES).astype(dtype)
        condition = jax.nn.silu(self.time(waves) + self.pooled(pooled.astype(dtype)))
        streams = image, self.context(c.context_features)(context.astype(dtype))
        for kind in c.stacks:
            streams = self._run(kind, streams, condition)
        y = modulate(streams[0], *self.final_modulation(condition), c.epsilon)
        return unpatchify(project_wide(self.head, y), height, width, c.patch_size)

    def _run(self, kind: str, streams: Streams, condition: Array) -> Streams:
        """All layers of a kind."""
        c, block = self.config, MMDiTBlock(self.config, kind, parent=None)

        def run(params: Tree, streams: Streams) -> Streams:
            return block.apply({"params": params}, tuple(map(constrain_rows, streams)), condition)

        params = self.get_variable("params", kind)
        return run_stack(run, params, streams, layers=c.layers, remat=c.remat)


class Positions(nn.Module):
    """A fixed table of positions, of which a picture takes the middle; called a bias, which no weight decay touches."""

    config: MMDiTConfig

    @nn.compact
    def __call__(self, rows: int, columns: int) -> Array:
        """``[rows columns, D]``, no gradient reaching the table."""
        c, grid = self.config, self.config.max_grid
        if max(rows, columns) > grid:
            raise InputError(f"sample is {rows} x {columns} patches; at most max_grid {grid} each way is needed")

        def table(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            del key
            return sincos_positions(grid, grid, shape[-1], c.sample_size // c.patch_size).astype(dtype)

        whole = jax.lax.stop_gradient(read(self, "bias", table, (grid, grid, c.width)))
        top, left = (grid - rows) // 2, (grid - columns) // 2
        return whole[top : top + rows, left : left + columns].reshape(-1, c.width)


def init_kind(key: Array, config: MMDiTConfig, kind: str, copies: int) -> Tree:
    """Parameters of all layers of a kind, stacked."""
    x = jnp.zeros((1, 1, config.width), config.compute_dtype)
    block = MMDiTBlock(config, kind, parent=None)
    return init_stack(key, lambda key: block.init(key, (x, x), x[:, 0])["params"], copies)


SD3_MEDIUM = MMDiTConfig()
SD35_MEDIUM = MMDiTConfig(num_dual_layers=13, qk_norm=True, max_grid=384)
SD35_LARGE = MMDiTConfig(num_layers=38, num_heads=38, qk_norm=True)
