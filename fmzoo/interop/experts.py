"""Mixtures of experts in the format of transformers: each expert's weights are tensors of their own in the files.

Version 5 holds them stacked in memory and splits them again when it writes, so both versions read what is written.
"""

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import read_depth
from fmzoo.interop.layouts import STACKED
from fmzoo.interop.mapping import Row, torch_linear
from fmzoo.models import DecoderConfig, ExpertsConfig

MOST_EXPERTS = 100_000  # over all layers
NAMES = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def expert_rows(config: DecoderConfig, theirs: str, names: dict[str, str] | None = None) -> tuple[Row, ...]:
    """The rows of a layer's router, experts and shared experts.

    Args:
      config: says how many experts there are.
      theirs: their name of the whole, within a layer.
      names: their names of an expert's three projections.
    """
    ours, theirs = "layers/{i}/experts", f"model.layers.{{i}}.{theirs}"
    numbers = range(config.experts.num_experts)
    return (
        torch_linear(f"{ours}/router", f"{theirs}.gate")[0],
        Row(f"{ours}/router/bias", f"{theirs}.gate.e_score_correction_bias"),
        *(
            Row(f"{ours}/{name}/kernel", tuple(f"{theirs}.experts.{e}.{there}.weight" for e in numbers), STACKED)
            for name, there in (names or NAMES).items()
        ),
        *(
            torch_linear(f"{ours}/shared/{name}", f"{theirs}.shared_experts.{there}")[0]
            for name, there in NAMES.items()
        ),
    )


def ignore_training(a: Attributes) -> None:
    """Takes what only a loss of the router reads, or how a call returns its results."""
    for name in ("router_aux_loss_coef", "router_jitter_noise", "aux_loss_alpha"):
        a.number(name, optional=True)
    for name in ("output_router_logits", "seq_aux"):
        a.take(name, bool, optional=True)


def read_experts(a: Attributes, name: str) -> int:
    """How many experts a layer has; not so many that their names alone would fill the memory."""
    count = a.integer(name)
    if count * read_depth(a) > MOST_EXPERTS:
        raise a.refuse(name, count, f"at most {MOST_EXPERTS} over all layers")
    return count


def read_dense_layers(a: Attributes, name: str, num_layers: int) -> int:
    """How many first layers have no experts."""
    count = a.integer(name, least=0)
    if count > num_layers:
        raise a.refuse(name, count, f"at most the {num_layers} layers that there are")
    return count


def experts_of(c: DecoderConfig) -> ExpertsConfig:
    """The experts of a config that a family with experts shall write.

    Raises:
      InputError: it has none.
    """
    if c.experts is None:
        raise InputError("experts is None; experts are needed in this family")
    return c.experts
