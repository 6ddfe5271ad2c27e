"""How the autoencoder and its discriminator are split: FSDP over the channels that a convolution gives."""

from fmzoo.models.sharding import low_rank_rows
from fmzoo.parallel import Rules

_NAMES = {"channels": "fsdp", "image": None, "norm": None, "rank": None}
_BLOCK = r"(encoder|decoder)/(level_\d+|middle)[_/]block_\d+"
_ROWS = (
    (rf"{_BLOCK}/conv[12]/kernel", (None, None, None, "channels")),
    (rf"{_BLOCK}/norm[12]/(scale|bias)", ("norm",)),
    (rf"{_BLOCK}/(conv[12]|shortcut)/bias", ("norm",)),
    (r"(encoder|decoder)/(conv_in|level_\d+_(down|up))/kernel", (None, None, None, "channels")),
    (r"(encoder|decoder)/(conv_in|level_\d+_(down|up))/bias", ("norm",)),
    (r"(encoder|decoder)/middle/attention/norm/(scale|bias)", ("norm",)),
    (r"(encoder|decoder)/middle/attention/(query|key|value|out)/bias", ("norm",)),
    (r"(encoder|decoder)/out/norm/(scale|bias)", ("norm",)),
    (r"(encoder|decoder)/out/conv/kernel", (None, None, None, "image")),
    (r"(encoder|decoder)/out/conv/bias", ("image",)),
    (r"(post_)?quant_conv/kernel", (None, None, None, "image")),
    (r"(post_)?quant_conv/bias", ("image",)),
    (r"layer_\d+/kernel", (None, None, None, "channels")),
    (r"layer_\d+/bias", ("norm",)),
    (r"norm_\d+/(scale|bias)", ("norm",)),
    (r"score/kernel", (None, None, None, "image")),
    (r"score/bias", ("image",)),
)
_DENSE = (
    (rf"{_BLOCK}/shortcut/kernel", ("image", "channels")),
    (r"(encoder|decoder)/middle/attention/(query|key|value|out)/kernel", ("image", "channels")),
)

AUTOENCODER_RULES = Rules((*_ROWS, *low_rank_rows(_DENSE)), _NAMES)
