"""Text as its tokens arrive, although a character may be split over several of them."""

import codecs

from fmzoo.text.tokenizers import Tokenizer


class StreamDecoder:
    """Turns token ids into text one at a time; what it returns, joined, is `tokenizer.decode` of all of them.

    A vocabulary of bytes goes through an incremental UTF-8 decoder. For any other, the last few tokens are decoded
    with and without the new one, and the difference is held back while it ends in U+FFFD, the sign of half a character;
    there, how many U+FFFD stand for a run of bytes that is no UTF-8 may differ from `decode`, and nothing else.

    >>> from fmzoo.text import ByteTokenizer
    >>> decoder = StreamDecoder(ByteTokenizer())
    >>> [decoder.push(i) for i in "né".encode()], decoder.finish()
    (['n', '', 'é'], '')
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decode_bytes = getattr(tokenizer, "decode_bytes", None)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._said: list[int] = []  # tokens already returned that the next ones may lean on
        self._held: list[int] = []  # tokens not yet returned

    def push(self, token: int) -> str:
        """Takes one token id and returns the text that it completes, often its own, sometimes none."""
        if self._decode_bytes is not None:
            return self._utf8.decode(self._decode_bytes([int(token)]))
        self._held.append(int(token))
        text = self._difference()
        if not text or text.endswith("\ufffd"):
            return ""
        self._said, self._held = self._held, []
        return text

    def finish(self) -> str:
        """Returns what was held back, with U+FFFD for a character that never became complete."""
        if self._decode_bytes is not None:
            return self._utf8.decode(b"", final=True)
        text = self._difference()
        self._said, self._held = [], []
        return text

    def _difference(self) -> str:
        before = self._tokenizer.decode(self._said)
        return self._tokenizer.decode(self._said + self._held)[len(before) :]
