"""How DiT and MMDiT are split: FSDP over the width of a token, tensor parallelism over heads and hidden widths.

What the condition passes through (time, pooled text, modulations) is not split over ``tensor``: on a mesh of data, fsdp
and tensor together the XLA of jax 0.10.2 would then give the condition a wrong gradient, which
`tests/stages/test_image_meshes.py` sees.
"""

from fmzoo.models.sharding import low_rank_rows
from fmzoo.parallel import Rules

_NAMES = {
    "embed": "fsdp",
    "heads": "tensor",
    "hidden": "tensor",
    "input": None,
    "layers": None,
    "norm": None,
    "rank": None,
}
_BLOCK = (
    (r"(\w+_)?modulation/projection/kernel", ("embed", "norm")),
    (r"{attention}(query|key|value)/kernel", ("embed", "heads")),
    (r"(\w+_)?attention/(\w+_)?out/kernel", ("heads", "embed")),
    (r"(\w+_)?mlp/up/kernel", ("embed", "hidden")),
    (r"(\w+_)?mlp/down/kernel", ("hidden", "embed")),
    (r"(\w+_)?modulation/projection/bias", ("norm",)),
    (r"{attention}(query|key|value)/bias", ("heads",)),
    (r"{attention}(query|key)_norm/scale", ("norm",)),
    (r"(\w+_)?mlp/up/bias", ("hidden",)),
    (r"((\w+_)?attention/(\w+_)?out|(\w+_)?mlp/down)/bias", ("norm",)),
)
_OWN = (
    (r"patch/kernel", ("input", "embed")),
    (r"context/kernel", ("input", "embed")),
    (r"time/input/kernel", ("input", "embed")),
    (r"pooled/input/kernel", ("input", "embed")),
    (r"(time|pooled)/output/kernel", ("embed", "norm")),
    (r"final_modulation/projection/kernel", ("embed", "norm")),
    (r"head/kernel", ("embed", "input")),
    (r"label_embed", (None, "embed")),
    (r"position/bias", (None, None, "embed")),
    (r"(patch|context|(time|pooled)/(input|output)|final_modulation/projection|head)/bias", ("norm",)),
)


def _table() -> tuple:
    rows = low_rank_rows(_OWN)
    for pattern, axes in low_rank_rows(_BLOCK):
        pattern = pattern.replace("{attention}", r"(\w+_)?attention/((image|context)/)?")
        rows.append((rf"(blocks|dual|joint|last)/{pattern}", ("layers", *axes)))
    return tuple(rows)


DIT_RULES = Rules(_table(), _NAMES)
