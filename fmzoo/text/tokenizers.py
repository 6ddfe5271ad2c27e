"""What a tokenizer is, the simplest one, and the search for one in a folder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from etils import epath

from fmzoo.errors import InputError
from fmzoo.text.files import read_bytes, read_json, write_json


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back.

    Encoding adds no bos or eos and never takes text for a special token, so that a document which happens to contain
    `</s>` cannot end itself; who wants a special token looks its id up in `specials`. Decoding leaves special tokens
    and ids that are no token out.

    Attributes:
      vocab_size: one more than the largest id.
      bos_id: the id that begins a document, None if there is none.
      eos_id: the id that ends a document, None if there is none.
      pad_id: the id that fills a row up, None if there is none.
      specials: every special token and its id.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    specials: Mapping[str, int]

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the token ids of a text, and the first character of each and the one after its last."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids; bytes that are not UTF-8 become U+FFFD."""

    def save(self, folder: epath.PathLike) -> None:
        """Writes the tokenizer into a folder, from which `load_tokenizer` gets it back."""


class ByteTokenizer:
    """The 256 bytes of UTF-8, a bos and an eos: no vocabulary to learn, and any text survives.

    >>> ByteTokenizer().encode("né")
    [110, 195, 169]
    """

    FILE = "byte_tokenizer.json"

    vocab_size = 258
    bos_id: int | None = 256
    eos_id: int | None = 257
    pad_id: int | None = None
    specials: Mapping[str, int] = {"<bos>": 256, "<eos>": 257}

    def encode(self, text: str) -> list[int]:
        """Returns the UTF-8 bytes of a text."""
        return list(text.encode())

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the bytes of a text and the character that each belongs to."""
        spans = [(i, i + 1) for i, character in enumerate(text) for _ in character.encode()]
        return self.encode(text), spans

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of token ids, whether or not they are UTF-8."""
        return bytes(i for i in ids if 0 <= i < 256)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, folder: epath.PathLike) -> None:
        """Writes a one-line marker, since there is nothing to remember."""
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / self.FILE, {"tokenizer": "bytes", "bos_id": self.bos_id, "eos_id": self.eos_id})

    @classmethod
    def load(cls, path: epath.PathLike) -> "ByteTokenizer":
        """Reads the marker, which has one content only."""
        if read_json(path) != {"tokenizer": "bytes", "bos_id": cls.bos_id, "eos_id": cls.eos_id}:
            raise InputError(f"{path} describes another byte tokenizer than 256 bytes with bos 256 and eos 257")
        return cls()


def encode_document(tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns `[bos] + tokens + [eos]`, as far as the tokenizer has them: what a model learns a document from."""
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    return bos + tokenizer.encode(text) + eos


def load_tokenizer(path: epath.PathLike) -> Tokenizer | None:
    """Finds a tokenizer in a folder, or reads one from a file.

    In a folder the first of `byte_tokenizer.json`, `tokenizer.json` (Hugging Face), `tokenizer.model` (SentencePiece,
    or tiktoken ranks as in Llama 3), `claude.json` (as Anthropic published it), the only other `*.model`, and the only
    `*.tiktoken` counts.

    Args:
      path: a folder or a file, which may be remote (`gs://...`).

    Returns:
      The tokenizer, or None if the folder holds none.

    Raises:
      InputError: the path does not exist, or a file is damaged or ambiguous.
    """
    path = epath.Path(path)
    if path.is_dir():
        path = _find(path)
    elif not path.exists():
        raise InputError(f"tokenizer {path} does not exist; a folder or a file is needed")
    return None if path is None else _reader(path)(path)


def _find(folder: epath.Path) -> epath.Path | None:
    for name in (ByteTokenizer.FILE, "tokenizer.json", "tokenizer.model", "claude.json"):
        if (folder / name).exists():
            return folder / name
    for pattern in ("*.model", "*.tiktoken"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise InputError(
                f"{folder} holds {len(found)} tokenizers ({found[0].name}, {found[1].name}); name the file"
            )
        if found:
            return found[0]
    return None


def _reader(path: epath.Path) -> Callable[[epath.Path], Tokenizer]:
    if path.name == ByteTokenizer.FILE:
        return ByteTokenizer.load
    if path.name == "claude.json":
        from fmzoo.text.claude import load_claude

        return load_claude
    if path.suffix == ".json":
        from fmzoo.text.hugging_face import HuggingFaceTokenizer

        return HuggingFaceTokenizer.load
    if path.suffix == ".tiktoken" or (path.suffix == ".model" and _is_rank_file(path)):
        from fmzoo.text.byte_ranks import ByteRankTokenizer

        return ByteRankTokenizer.load
    if path.suffix == ".model":
        from fmzoo.text.sentence_piece import SentencePieceTokenizer

        return SentencePieceTokenizer.load
    raise InputError(f"{path} is no tokenizer; tokenizer.json, a .model or a .tiktoken file is needed")


def _is_rank_file(path: epath.Path) -> bool:
    from fmzoo.text.byte_ranks import LINE

    return LINE.match(read_bytes(path)[:1024]) is not None
