"""The configs of parts that only some decoders have: a mixture of experts, and latent attention."""

import dataclasses
from typing import Literal

from fmzoo.models.checks import check, check_options, check_positive


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
    """A mixture of experts in the place of the feed-forward half: each token goes to ``top_k`` of ``num_experts``.

    Experts are gated and activated as `MlpConfig` says, whose ``d_ff`` is that of the layers without experts. No token
    is ever dropped.
    """

    num_experts: int = 8
    top_k: int = 2
    d_ff: int = 2048  # of each expert
    dense_layers: int = 0  # so many first layers have a plain feed-forward instead; they are part of the prefix
    scores: Literal["softmax", "sigmoid"] = "softmax"  # of the router's logits, before the choice
    renormalised: bool = True  # divides the chosen scores by their sum
    scale: float = 1.0  # multiplies them then
    groups: int = 1  # into how many the experts are cut; the choice is among the experts of the best groups
    top_groups: int = 1
    group_score: Literal["max", "top2"] = "max"  # the largest score in the group, or the sum of the two largest
    selection_bias: bool = False  # a number for each expert, added to its score for the choice alone (arXiv 2408.15664)
    shared_d_ff: int = 0  # of a feed-forward beside the experts that every token goes through; 0 is none
    shared_gate: bool = False  # multiplies its output by a sigmoid of the token (Qwen 2 MoE)
    form: Literal["grouped", "dense"] = "grouped"  # tokens sorted by expert, or every expert on every token

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_positive(self, "num_experts", "top_k", "d_ff", "scale", "groups", "top_groups")
        check_options(self, scores=("softmax", "sigmoid"), group_score=("max", "top2"), form=("grouped", "dense"))
        for field in ("dense_layers", "shared_d_ff"):
            check(getattr(self, field) >= 0, f"experts {field} is {getattr(self, field)}; at least 0 is needed")
        check(
            self.num_experts % self.groups == 0,
            f"num_experts {self.num_experts} is not divisible by groups {self.groups}; a divisor is needed",
        )
        size = self.num_experts // self.groups
        check(
            self.top_groups <= self.groups and self.top_k <= size * self.top_groups,
            f"top_k is {self.top_k} of {self.top_groups} of {self.groups} groups of {size} experts; no more experts "
            "than those groups hold can be chosen",
        )
        check(
            self.groups == 1 or self.group_score == "max" or size > 1,
            f"group_score top2 needs groups of 2 experts or more, not of {size}",
        )
        check(self.shared_d_ff > 0 or not self.shared_gate, "shared_gate needs shared_d_ff above 0")


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values from a narrow latent.

    `AttentionConfig.head_dim` is the width of a query: its last ``rope_dim`` dimensions turn, and the key's, which are
    shared by all heads. The cache holds ``kv_rank + rope_dim`` numbers a token.
    """

    kv_rank: int = 512
    q_rank: int | None = None  # of the latent that queries come from; None takes them from the token itself
    rope_dim: int = 64
    value_dim: int = 128  # of a head's values
    norm_epsilon: float = 1e-6  # of the RMSNorms over the latents

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_positive(self, "kv_rank", "q_rank", "rope_dim", "value_dim", "norm_epsilon")
        check(self.rope_dim % 2 == 0, f"rope_dim is {self.rope_dim}; an even number is needed")
