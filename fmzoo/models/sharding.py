"""How the decoder is split: FSDP over the model width, tensor parallelism over heads, d_ff and vocabulary, experts."""

from fmzoo.errors import InputError
from fmzoo.models.config import DecoderConfig
from fmzoo.parallel import Rules

_NAMES = {
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "d_ff": "tensor",
    "vocab": "tensor",
    "experts": "expert",
    "layers": None,
    "latent": None,
    "norm": None,
    "rank": None,
}
_BLOCK = (
    ("attention/query/kernel", ("embed", "heads")),
    ("attention/(key|value)/kernel", ("embed", "kv_heads")),
    ("attention/out/kernel", ("heads", "embed")),
    ("attention/(query|key_value)_down/kernel", ("embed", "latent")),
    ("attention/(query|key_value)_up/kernel", ("latent", "heads")),
    ("(mlp|experts/shared)/(gate|up)/kernel", ("embed", "d_ff")),
    ("(mlp|experts/shared)/down/kernel", ("d_ff", "embed")),
    ("experts/router/kernel", ("embed", "norm")),
    ("experts/shared_gate/kernel", ("embed", "norm")),
    ("experts/(gate|up)/kernel", ("experts", "embed", "d_ff")),
    ("experts/down/kernel", ("experts", "d_ff", "embed")),
    ("attention/query/bias", ("heads",)),
    ("attention/(key|value)/bias", ("kv_heads",)),
    ("mlp/(gate|up)/bias", ("d_ff",)),
    ("(attention/out|mlp/down|experts/router|attention/(query|key_value)_down)/bias", ("norm",)),
    ("(attention/)?[a-z_]*norm/(scale|bias)", ("norm",)),
)


def low_rank_rows(rows: tuple) -> list:
    """Each kernel's row, then the rows of the nodes in its place.

    Of a LoRA pair A keeps the input axis and B the output axis; of a quantised kernel the scales of blocks of inputs
    keep the output axis.
    """
    out = []
    for pattern, axes in rows:
        out.append((pattern, axes))
        if pattern.endswith("kernel"):
            stem = pattern.removesuffix("kernel")
            out += [
                (f"{pattern}/kernel", axes),
                (f"{stem}kernel/a", (*axes[:-1], "rank")),
                (f"{stem}kernel/b", (*axes[:-2], "rank", axes[-1])),
                *_quantized_rows(f"{pattern}(/kernel)?", axes),
            ]
    return out


def _quantized_rows(pattern: str, axes: tuple) -> list:
    return [
        (f"{pattern}/(values|packed)", axes),
        (f"{pattern}/(scales|minimums)", (*axes[:-2], None, axes[-1])),
    ]


def _table() -> tuple:
    rows = [("embed", ("vocab", "embed")), ("position_embed", (None, "embed")), ("head", ("embed", "vocab"))]
    rows += [("embed_in", (None, "embed")), ("embed_out", ("embed", None)), ("head_bias", ("vocab",))]
    rows += [("(embed|final)_norm/(scale|bias)", ("norm",)), *_quantized_rows("(tied_)?head", ("embed", "vocab"))]
    for pattern, axes in low_rank_rows(_BLOCK):
        rows.append((rf"((prefix|tail)/\d+|period/\d+/\d+)/{pattern}", axes))
        rows.append((rf"period/\d+/{pattern}", ("layers", *axes)))
    return tuple(rows)


DECODER_RULES = Rules(_table(), _NAMES)


def stacked_rules(*own: tuple[str, tuple[str | None, ...]]) -> Rules:
    """Rules of an encoder: blocks of the decoder's kind stacked under ``layers``, embeddings, and rows of its own."""
    rows = [("embed", ("vocab", "embed")), ("position_embed", (None, "embed")), ("final_norm/(scale|bias)", ("norm",))]
    rows += [(f"layers/{pattern}", ("layers", *axes)) for pattern, axes in low_rank_rows(_BLOCK)]
    return Rules((*rows, *low_rank_rows(own)), _NAMES)


def check_mesh(config: DecoderConfig, tensor: int, expert: int = 1) -> None:
    """Refuses a size of the tensor axis that would split a head, and one of the expert axis that does not fit.

    Raises:
      InputError: it does not divide ``num_heads``, ``num_kv_heads``, ``d_ff`` or ``vocab_size``, or the number of
        experts.
    """
    sizes = {
        "num_heads": config.attention.num_heads,
        "num_kv_heads": config.attention.num_kv_heads,
        "d_ff": config.mlp.d_ff,
        "vocab_size": config.vocab_size,
    }
    if config.experts is not None:
        sizes |= {"experts d_ff": config.experts.d_ff, "shared_d_ff": config.experts.shared_d_ff}
    for name, size in sizes.items():
        if size % tensor:
            raise InputError(f"mesh axis tensor={tensor} does not divide {name}={size}; a divisor is needed")
    experts = 1 if config.experts is None else config.experts.num_experts
    if experts % expert:
        raise InputError(f"mesh axis expert={expert} does not divide num_experts={experts}; a divisor is needed")
