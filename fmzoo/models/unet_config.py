"""The configuration of U-Nets, and those of Stable Diffusion 1, 2 and XL."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from fmzoo.models.checks import check, check_options, check_positive


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """A conditional U-Net in pixels or latents (arXiv 2112.10752).

    Levels are listed from the finest to the coarsest, each with half the rows and columns of the one before.
    """

    in_channels: int = 4
    out_channels: int = 4
    sample_size: int = 64  # rows and columns that it was trained at; others work
    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # of each level
    layers: tuple[int, ...] = (2, 2, 2, 2)  # residual blocks of each level going down; one more going up
    transformer_layers: tuple[int, ...] = (1, 1, 1, 0)  # after each residual block of the level; 0 is no attention
    up_transformer_layers: tuple[int, ...] | None = None  # the same going up, finest first; None is as going down
    mid: Literal["attention", "plain", "none"] = "attention"  # two residual blocks with attention between; one; none
    mid_transformer_layers: int = 1
    num_heads: tuple[int, ...] = (8, 8, 8, 8)  # of each level; the last one's also in the middle
    context_dim: int | None = 768  # of the tokens attended to; None is no cross-attention
    groups: int = 32  # of GroupNorm
    epsilon: float = 1e-5  # of GroupNorm, but 1e-6 before a transformer
    activation: Literal["silu", "gelu", "relu"] = "silu"
    scale_shift: bool = False  # the time's embedding scales and shifts; else it is added
    time_dim: int | None = None  # of the time's embedding; None is 4 times the first level's channels
    sines_first: bool = False
    frequency_shift: float = 0.0
    num_classes: int | None = None  # of labels that are embedded and added to the time
    added_dim: int | None = None  # of the pooled text embedding and the embedded sizes together (SDXL)
    added_number_dim: int = 256  # of each size's sinusoids
    linear_projection: bool = (
        False  # files hold a transformer's outer projections as dense kernels, not 1x1 convolutions
    )
    upcast_attention: bool = False  # queries and keys in float32
    dropout: float = 0.0  # in the residual blocks
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"  # of the computation
    remat: Literal["none", "full"] = "none"  # of each residual block and each transformer
    attention: Literal["xla", "rows", "cudnn"] = "xla"  # rows: one head of a row at a time, not split by `compile`
    transposed_inputs: bool = False  # for the kernels' gradients: quicker training on CPU, but no forward mode (jvp)

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_positive(self, "in_channels", "out_channels", "sample_size", "channels", "layers", "num_heads")
        check_positive(self, "context_dim", "groups", "epsilon", "time_dim", "num_classes", "added_dim")
        check_positive(self, "added_number_dim")
        check(bool(self.channels), "channels is empty; at least one level is needed")
        for field in ("layers", "transformer_layers", "up_transformer_layers", "num_heads"):
            value = getattr(self, field)
            fits = value is None or len(value) == len(self.channels)
            check(fits, f"{field} is {value}; one number for each of the {len(self.channels)} levels is needed")
        depths = (*self.transformer_layers, *self.up, self.mid_transformer_layers)
        check(min(depths) >= 0, f"transformer_layers is {self.transformer_layers}; no number below 0 is needed")
        check(
            self.mid != "attention" or self.mid_transformer_layers > 0,
            f"mid_transformer_layers is {self.mid_transformer_layers} with mid 'attention'; a number above 0 is needed",
        )
        for channels, heads, depth in zip(self.channels, self.num_heads, self._depths(), strict=True):
            fits = channels % self.groups == 0
            check(fits, f"groups {self.groups} does not divide channels {channels}; a divisor is needed")
            fits = not depth or channels % heads == 0
            check(fits, f"num_heads {heads} does not divide channels {channels}; a divisor is needed")
        check(0 <= self.dropout < 1, f"dropout is {self.dropout}; at least 0 and below 1 is needed")
        check_options(
            self,
            mid=("attention", "plain", "none"),
            activation=("silu", "gelu", "relu"),
            dtype=("float32", "bfloat16", "float16", "float64"),
            remat=("none", "full"),
            attention=("xla", "rows", "cudnn"),
        )

    def _depths(self) -> tuple[int, ...]:
        """For each level a number above 0 if there is attention."""
        middle = (0,) * (len(self.channels) - 1) + (int(self.mid == "attention"),)
        return tuple(max(depths) for depths in zip(self.transformer_layers, self.up, middle, strict=True))

    @property
    def up(self) -> tuple[int, ...]:
        """Transformer layers of each level going up, finest first."""
        return self.transformer_layers if self.up_transformer_layers is None else self.up_transformer_layers

    @property
    def attends(self) -> bool:
        """Whether there is any attention."""
        return any(self._depths())

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The dtype of activations."""
        return jnp.dtype(self.dtype)


STABLE_DIFFUSION_1 = UNetConfig()
STABLE_DIFFUSION_1_INPAINTING = UNetConfig(in_channels=9)
STABLE_DIFFUSION_2 = UNetConfig(num_heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True)
STABLE_DIFFUSION_XL = UNetConfig(
    sample_size=128,
    channels=(320, 640, 1280),
    layers=(2, 2, 2),
    transformer_layers=(0, 2, 10),
    mid_transformer_layers=10,
    num_heads=(5, 10, 20),
    context_dim=2048,
    added_dim=1280 + 6 * 256,
    linear_projection=True,
)
STABLE_DIFFUSION_XL_REFINER = UNetConfig(
    sample_size=128,
    channels=(384, 768, 1536, 1536),
    transformer_layers=(0, 4, 4, 0),
    mid_transformer_layers=4,
    num_heads=(6, 12, 24, 24),
    context_dim=1280,
    added_dim=1280 + 5 * 256,
    linear_projection=True,
)
