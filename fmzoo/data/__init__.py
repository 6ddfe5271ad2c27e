"""Documents and pictures from anywhere, mixtures, and the iterators of batches that can stop and go on anywhere."""

from fmzoo.data.framing import Framing
from fmzoo.data.image_iterator import ImageIterator
from fmzoo.data.image_sources import image_splits, images
from fmzoo.data.iterator import ChatIterator, TextIterator
from fmzoo.data.mixtures import Mixture
from fmzoo.data.pictures import Picture
from fmzoo.data.record_files import Records, records
from fmzoo.data.record_rows import ChatRows, mismatch, pack_documents, stack_rows
from fmzoo.data.records import Conversation, Judged, Preference, Problem, Ranking
from fmzoo.data.row_iterator import merge_states
from fmzoo.data.sources import source, splits

__all__ = [
    "ChatIterator",
    "ChatRows",
    "Conversation",
    "Framing",
    "ImageIterator",
    "Judged",
    "Mixture",
    "Picture",
    "Preference",
    "Problem",
    "Ranking",
    "Records",
    "TextIterator",
    "image_splits",
    "images",
    "merge_states",
    "mismatch",
    "pack_documents",
    "records",
    "source",
    "splits",
    "stack_rows",
]
