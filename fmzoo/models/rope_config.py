"""The config of rotary positions."""

import dataclasses
from typing import Literal

from fmzoo.models.checks import check, check_options, check_positive


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary positions (RoFormer, arXiv 2104.09864): theta, which dimensions turn, and how they are stretched."""

    theta: float = 10_000.0
    fraction: float = 1.0  # of head_dim that is rotated (GPT-NeoX, Phi)
    interleaved: bool = False  # pairs (2i, 2i+1) as Meta stores them; else halves (i, i + H/2) as Hugging Face does
    scaling: Literal["none", "linear", "llama3", "yarn", "longrope"] = "none"
    factor: float = 1.0
    original_context: int = 8192  # llama3, yarn, longrope: the context length that the model was pretrained at
    low_frequency_factor: float = 1.0  # llama3
    high_frequency_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    # yarn, longrope: multiplies cos and sin; None is 0.1 ln(factor) + 1, or sqrt(1 + ln(factor) / ln(original_context))
    attention_factor: float | None = None
    short_factors: tuple[float, ...] = ()  # longrope: what divides each frequency; () is 1 for all
    long_factors: tuple[float, ...] = ()  # longrope: the same, for a model that reads beyond original_context
    stretched: bool = True  # longrope: turn by long_factors, whatever the length of a sequence

    def __post_init__(self) -> None:
        """Refuses values out of range and numbers by which nothing can be stretched."""
        check_options(self, scaling=("none", "linear", "llama3", "yarn", "longrope"))
        check_positive(self, "theta", "fraction", "factor", "original_context", "attention_factor")
        check_positive(self, "short_factors", "long_factors", "beta_fast", "beta_slow")
        check(self.fraction <= 1, f"rope fraction is {self.fraction}; at most 1 is needed")
        check(
            self.scaling != "longrope" or self.original_context > 1,
            f"rope original_context is {self.original_context}; at least 2 is needed for longrope",
        )
        check(self.scaling != "yarn" or self.theta > 1, f"rope theta is {self.theta}; above 1 is needed for yarn")
        low, high = self.low_frequency_factor, self.high_frequency_factor
        check(
            self.scaling != "llama3" or low < high,
            f"rope high_frequency_factor is {high}; a number above low_frequency_factor {low} is needed for llama3",
        )
