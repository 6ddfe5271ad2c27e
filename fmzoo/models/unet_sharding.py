"""How a U-Net is split: FSDP over channels, tensor parallelism over heads and hidden widths."""

from fmzoo.models.sharding import low_rank_rows
from fmzoo.parallel import Rules

_NAMES = {
    "channels": "fsdp",
    "hidden": "tensor",
    "heads": "tensor",
    "time": None,
    "image": None,
    "norm": None,
    "rank": None,
}
_DENSE = (
    (r"(time|added)/input/kernel", ("channels", "hidden")),
    (r"(time|added)/output/kernel", ("hidden", "channels")),
    (r"{block}/time/kernel", ("channels", "hidden")),
    (r"{block}/shortcut/kernel", ("channels", None)),
    (r"{block}/(input|output)/kernel", ("channels", None)),
    (r"{layer}_attention/(query|key|value)/kernel", ("channels", "heads")),
    (r"{layer}_attention/out/kernel", ("heads", "channels")),
    (r"{layer}mlp/up/kernel", ("channels", "hidden")),
    (r"{layer}mlp/down/kernel", ("hidden", "channels")),
)
_REST = (
    (r"input/kernel", (None, None, "image", "channels")),
    (r"output/kernel", (None, None, "channels", "image")),
    (r"{block}/conv1/kernel", (None, None, "channels", "hidden")),
    (r"{block}/conv2/kernel", (None, None, "hidden", "channels")),
    (r"(down|up)_\d+/(down|up)sample/kernel", (None, None, "channels", None)),
    (r"label", (None, "channels")),
    (r"(time|added)/input/bias", ("hidden",)),
    (r"{block}/(time|conv1)/bias", ("hidden",)),
    (r"{block}/norm2/(scale|bias)", ("hidden",)),
    (r"{layer}mlp/up/bias", ("hidden",)),
    (r"(time|added)/output/bias", ("norm",)),
    (r"(input|output)/bias", ("norm",)),
    (r"output_norm/(scale|bias)", ("norm",)),
    (r"(down|up)_\d+/(down|up)sample/bias", ("norm",)),
    (r"{block}/(norm1|norm)/(scale|bias)", ("norm",)),
    (r"{block}/(conv2|shortcut|input|output)/bias", ("norm",)),
    (r"{layer}_attention/out/bias", ("norm",)),
    (r"{layer}mlp/down/bias", ("norm",)),
    (r"{layer}(self|cross|mlp)_norm/(scale|bias)", ("norm",)),
)


def _table() -> tuple:
    block = r"((down|up)_\d+|middle)/(resnet|transformer)_\d+"
    parts = {"{block}": block, "{layer}_attention": rf"{block}/layer_\d+/(self|cross)_attention"}
    parts |= {"{layer}": rf"{block}/layer_\d+/"}
    rows = []
    for pattern, axes in (*low_rank_rows(_DENSE), *_REST):
        for part, full in parts.items():
            pattern = pattern.replace(part, full)
        rows.append((pattern, axes))
    return tuple(rows)


UNET_RULES = Rules(_table(), _NAMES)
