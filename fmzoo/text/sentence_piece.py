"""SentencePiece `.model` files."""

from collections.abc import Sequence

from etils import epath

from fmzoo.errors import InputError
from fmzoo.text.files import read_bytes, write_bytes
from fmzoo.text.foreign import refusing


class SentencePieceTokenizer:
    """A SentencePiece model: its own normalisation, its own control tokens.

    Attributes:
      model: the content of its `.model` file.
    """

    def __init__(self, model: bytes):
        """Makes the tokenizer from the serialised model.

        Raises:
          InputError: the bytes are no SentencePiece model.
        """
        import sentencepiece

        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError, TypeError):
            raise InputError(f"the file of {len(model)} bytes is no SentencePiece model; a .model is needed") from None
        self.vocab_size = self._processor.vocab_size()
        self.bos_id, self.eos_id, self.pad_id = (
            None if i < 0 else i for i in (self._processor.bos_id(), self._processor.eos_id(), self._processor.pad_id())
        )
        self.specials = {self._processor.id_to_piece(i): i for i in self._control()}

    def _control(self) -> list[int]:
        return [i for i in range(self.vocab_size) if self._processor.is_control(i)]

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        with refusing("the SentencePiece model has rules by which a text cannot be encoded"):
            return self._processor.encode(text)

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the token ids of a text, and the first character of each and the one after its last."""
        with refusing("the SentencePiece model has rules by which a text cannot be encoded"):
            found = self._processor.encode(text, return_type="offset_mapping")
        return found["ids"], found["offsets"]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids."""
        with refusing("the SentencePiece model has rules by which ids cannot be decoded"):
            return self._processor.decode([int(i) for i in ids if 0 <= i < self.vocab_size])

    def piece(self, token: int) -> str:
        """Returns how the vocabulary writes a token."""
        return self._processor.id_to_piece(token)

    def save(self, folder: epath.PathLike) -> None:
        """Writes `tokenizer.model`."""
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "tokenizer.model", self.model)

    @classmethod
    def load(cls, path: epath.PathLike) -> "SentencePieceTokenizer":
        """Reads a `.model` file."""
        model = read_bytes(path)
        try:
            return cls(model)
        except InputError:
            raise InputError(f"{path} ({len(model)} bytes) is no SentencePiece model") from None

    def __reduce__(self):
        return type(self), (self.model,)
