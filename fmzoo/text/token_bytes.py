"""What each token of a vocabulary spells."""

import re
from typing import Any

from fmzoo.errors import InputError
from fmzoo.text.tokenizers import Tokenizer

BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte without a piece of its own, as SentencePiece writes it
BLANK = "\u2581"  # a blank, as SentencePiece writes it


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every token, in order of ids; of a special token, or an id that is none, there are none.

    Raises:
      InputError: the tokenizer does not say.
    """
    if hasattr(tokenizer, "decode_bytes"):
        return [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)]
    if not hasattr(tokenizer, "piece"):
        raise InputError(f"a {type(tokenizer).__name__} does not say what its tokens spell; another is needed")
    special = set(tokenizer.specials.values())
    return [b"" if i in special else _spell(tokenizer.piece(i)) for i in range(tokenizer.vocab_size)]


def _spell(piece: Any) -> bytes:
    if piece is None:
        return b""
    byte = BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(BLANK, " ").encode()
