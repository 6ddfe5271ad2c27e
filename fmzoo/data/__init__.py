"""Documents from anywhere, mixtures of them, and the iterator of packed batches that can stop and go on anywhere."""

from fmzoo.data.iterator import TextIterator, merge_states
from fmzoo.data.mixtures import Mixture
from fmzoo.data.sources import source, splits

__all__ = ["Mixture", "TextIterator", "merge_states", "source", "splits"]
