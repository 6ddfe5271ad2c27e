"""The iterators of packed batches: of text, and of conversations with weights on what is answered."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from fmzoo.data.record_rows import ChatRows
from fmzoo.data.records import Conversation
from fmzoo.data.row_iterator import RowIterator, check_rows
from fmzoo.data.streams import Encode, Encoded, RowStreams, Settings
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
        _check_length(length)
        encode = TextEncoder(tokenizer)
        _check_tokens(documents, encode, length)
        vocab_size = tokenizer.vocab_size if vocab_size is None else vocab_size
        settings = Settings(batch_size, length, seed, packing, vocab_size)
        super().__init__(*_streams(documents, encode, settings, rows, workers))


class ChatIterator(RowIterator):
    """Packed batches of this host's rows of conversations, without end; fields and promises as `TextIterator`.

    A conversation that is longer than a row is cut there, as its rest would stand without its question; one in which
    then nothing weighs is passed over.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        chat: ChatRows,
        *,
        batch_size: int,
        rows: range | None = None,
        seed: int = 0,
        train_on: Literal["assistant", "last", "all"] = "assistant",
        packing: str = "first_fit",
        vocab_size: int | None = None,
        workers: int = 0,
    ):
        """Starts at the first batch.

        Args:
          conversations: rendered when they are needed.
          chat: the template, the tokenizer and T.
          batch_size: R, rows of the global batch.
          rows: the rows that this host owns; all by default.
          seed: chooses the order.
          train_on: what weighs: every answer, the last one, or everything.
          packing: `first_fit` keeps conversations whole; `concatenate_and_split` cuts them where a row ends.
          vocab_size: a token id of this or more is refused; the tokenizer's own by default.
          workers: as `TextIterator`.

        Raises:
          InputError: an argument is out of range, or the first conversations have nothing to learn from in a row.
        """
        encode = ChatEncoder(chat, train_on)
        _check_answers(conversations, encode, chat.length)
        vocab_size = chat.tokenizer.vocab_size if vocab_size is None else vocab_size
        settings = Settings(batch_size, chat.length, seed, packing, vocab_size)
        super().__init__(*_streams(conversations, encode, settings, rows, workers))


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """A text as its tokens, each of which counts."""

    tokenizer: Tokenizer

    def __call__(self, document: str) -> Encoded:
        """Its tokens, bos and eos included."""
        return Encoded(encode_document(self.tokenizer, document))


@dataclasses.dataclass(frozen=True)
class ChatEncoder:
    """A conversation as what of it fits into a row, with the weights of its answers; nothing if none of them does."""

    chat: ChatRows
    train_on: Literal["assistant", "last", "all"]

    def __call__(self, document: Conversation) -> Encoded:
        """Its tokens and weights, cut to a row."""
        found, end = self.chat.document(document, self.train_on), self.chat.length + 1
        return Encoded(found.tokens[:end], found.weights[:end]) if any(found.weights[1:end]) else Encoded([], [])


def _streams(
    documents: Sequence[Any], encode: Encode, settings: Settings, rows: range | None, workers: int
) -> tuple[RowStreams, int, dict[str, Any], int]:
    """What a `RowIterator` is made of."""
    rows = range(settings.batch_size) if rows is None else rows
    check_rows(settings.batch_size, rows, workers)
    if settings.packing not in PACKERS:
        raise InputError(f"packing is {settings.packing!r}; {nearest(settings.packing, PACKERS)}")
    streams = RowStreams(documents, encode, rows, settings)
    identity = settings._asdict() | streams.order.description | {"digest": _digest(documents, encode)}
    return streams, settings.batch_size, identity, workers


def _check_length(length: int) -> None:
    if length < 1:
        raise InputError(f"length is {length}; at least 1 is needed")


def _check_tokens(documents: Sequence[str], encode: Encode, length: int) -> None:
    """Reads until there are tokens for one row, so that a corpus without them is refused at once."""
    targets = 0
    for index in range(len(documents)):
        targets += max(len(encode(documents[index]).tokens) - 1, 0)
        if targets >= length:
            return
    raise InputError(f"data has {targets} tokens to predict in all; at least one sequence of {length} is needed")


def _check_answers(conversations: Sequence[Conversation], encode: Encode, length: int) -> None:
    """Reads until there is something to learn from, so that records without it are refused at once."""
    if not any(encode(conversations[index]).tokens for index in range(len(conversations))):
        raise InputError(
            f"none of {len(conversations)} conversations has an answer within {length} tokens; a longer row is needed"
        )


def _digest(documents: Sequence[Any], encode: Encode) -> str:
    """Recognises documents and how they are encoded by how the first and the last begin."""
    ends = [documents[index] for index in (0, len(documents) - 1)]
    ends = [encode(end[:1000] if isinstance(end, str) else end) for end in ends]
    found = [list(end.tokens) if end.weights is None else tuple(end) for end in ends]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]
