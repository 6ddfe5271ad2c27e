"""Words as numbers without a vocabulary: each is hashed into a table."""

import hashlib
import re

import numpy as np

WORD = re.compile(r"\w+(?:['-]\w+)*")


def hash_words(caption: str, *, length: int = 16, rows: int = 8192) -> np.ndarray:
    """The words of a caption as rows of a table, ``int32[length]``, 0 behind the last.

    Args:
      caption: its words are taken in lower case; `medium-dark` is one.
      length: words beyond it are left out.
      rows: of the table; row 0 stands for no word. By SHA-256, so that a word's row is the same everywhere.
    """
    tokens = np.zeros(length, np.int32)
    for i, word in enumerate(WORD.findall(caption.lower())[:length]):
        digest = hashlib.sha256(word.encode()).digest()
        tokens[i] = 1 + int.from_bytes(digest[:8], "little") % (rows - 1)
    return tokens
