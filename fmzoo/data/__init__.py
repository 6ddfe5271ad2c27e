"""Documents and pictures from anywhere, mixtures, and the iterators of batches that can stop and go on anywhere."""

from fmzoo.data.framing import Framing
from fmzoo.data.image_iterator import ImageIterator
from fmzoo.data.image_sources import image_splits, images
from fmzoo.data.iterator import TextIterator
from fmzoo.data.mixtures import Mixture
from fmzoo.data.pictures import Picture
from fmzoo.data.row_iterator import merge_states
from fmzoo.data.sources import source, splits

__all__ = [
    "Framing",
    "ImageIterator",
    "Mixture",
    "Picture",
    "TextIterator",
    "image_splits",
    "images",
    "merge_states",
    "source",
    "splits",
]
