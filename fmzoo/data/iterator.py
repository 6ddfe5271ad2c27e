"""The iterator of packed batches of text."""

import hashlib
from collections.abc import Sequence

from fmzoo.data.row_iterator import RowIterator, check_rows
from fmzoo.data.streams import RowStreams, Settings
from fmzoo.errors import InputError, nearest
from fmzoo.text.packing import PACKERS
from fmzoo.text.tokenizers import Tokenizer, encode_document


class TextIterator(RowIterator):
    """Packed batches of this host's rows, without end.

    A batch is `inputs, targets, positions, segment_ids int32[B, T]`, `weights float32[B, T]` (see `fmzoo.text.packing`)
    and `example_id int32[B]`, the row's number in the global stream (wrapping at 2**31). B is the number of rows owned.
    The batches are the same however many hosts own the rows and however many workers prepare them.
    """

    def __init__(
        self,
        documents: Sequence[str],
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        length: int,
        rows: range | None = None,
        seed: int = 0,
        packing: str = "concatenate_and_split",
        vocab_size: int | None = None,
        workers: int = 0,
    ):
        """Starts at the first batch.

        Args:
          documents: what `source` returns, or any sequence of texts.
          tokenizer: documents are encoded when they are needed.
          batch_size: R, rows of the global batch.
          length: T, tokens a row.
          rows: the rows that this host owns; all by default.
          seed: chooses the order of the documents (`data_seed`).
          packing: `concatenate_and_split` or `first_fit`.
          vocab_size: a token id of this or more is refused; the tokenizer's own by default.
          workers: Grain processes that prepare batches ahead; 0 prepares them here. Each starts a Python of its own, so
            a script needs its `if __name__ == "__main__":`.

        Raises:
          InputError: an argument is out of range, or the documents together are shorter than one row.
        """
        rows = range(batch_size) if rows is None else rows
        _check(batch_size, length, rows, packing, workers)
        _check_tokens(documents, tokenizer, length)
        vocab_size = tokenizer.vocab_size if vocab_size is None else vocab_size
        settings = Settings(batch_size, length, seed, packing, vocab_size)
        streams = RowStreams(documents, tokenizer, rows, settings)
        identity = settings._asdict() | streams.order.description | {"digest": _digest(documents, tokenizer)}
        super().__init__(streams, batch_size, identity, workers)


def _check(batch_size: int, length: int, rows: range, packing: str, workers: int) -> None:
    check_rows(batch_size, rows, workers)
    if length < 1:
        raise InputError(f"length is {length}; at least 1 is needed")
    if packing not in PACKERS:
        raise InputError(f"packing is {packing!r}; {nearest(packing, PACKERS)}")


def _check_tokens(documents: Sequence[str], tokenizer: Tokenizer, length: int) -> None:
    """Reads until there are tokens for one row, so that a corpus without them is refused at once."""
    targets = 0
    for index in range(len(documents)):
        targets += max(len(encode_document(tokenizer, documents[index])) - 1, 0)
        if targets >= length:
            return
    raise InputError(f"data has {targets} tokens to predict in all; at least one sequence of {length} is needed")


def _digest(documents: Sequence[str], tokenizer: Tokenizer) -> str:
    """Recognises documents and tokenizer by how the first and the last document begin."""
    ends = [encode_document(tokenizer, documents[index][:1000]) for index in (0, len(documents) - 1)]
    return hashlib.sha256(repr(ends).encode()).hexdigest()[:16]
