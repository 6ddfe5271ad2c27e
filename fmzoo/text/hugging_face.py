"""Tokenizers in the `tokenizer.json` format of the `tokenizers` package."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from fmzoo.errors import InputError
from fmzoo.text.files import read_bytes, read_json, write_bytes, write_json
from fmzoo.text.foreign import refusing

ROLES = ("bos", "eos", "pad")
LARGEST_ID = 2**24


class HuggingFaceTokenizer:
    """A tokenizer of the `tokenizers` package, with its special tokens named.

    Attributes:
      config: what stands in `tokenizer_config.json` (chat template included), written back by `save`.
    """

    def __init__(self, description: str, config: Mapping[str, Any] | None = None):
        """Makes the tokenizer.

        Args:
          description: the content of a `tokenizer.json`.
          config: the content of a `tokenizer_config.json`; its `bos_token`, `eos_token` and `pad_token` count.

        Raises:
          InputError: the description is damaged, or names a special token that is not in it.
        """
        import tokenizers

        with refusing("tokenizer.json is not readable"):
            self._tokenizer = tokenizers.Tokenizer.from_str(description)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._tokenizer.encode_special_tokens = True  # as ordinary text
            added = self._tokenizer.get_added_tokens_decoder()
            largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= LARGEST_ID:
            raise InputError(f"tokenizer.json has a token with the id {largest}; ids below {LARGEST_ID} are needed")
        self.config = dict(config or {})
        self.specials = {token.content: i for i, token in added.items() if token.special}
        self.vocab_size = 1 + largest
        self.bos_id, self.eos_id, self.pad_id = (self._role(role) for role in ROLES)

    def _role(self, role: str) -> int | None:
        token = _content(self.config.get(f"{role}_token"))
        if token is None:
            return None
        with refusing(f"{role}_token {token[:40]!r} is no text"):
            index = self._tokenizer.token_to_id(token)
        if index is None:
            raise InputError(f"{role}_token {token[:80]!r} is not in the tokenizer; a token of it is needed")
        return index

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        return self._encode(self._tokenizer, text).ids

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the token ids of a text, and the first character of each and the one after its last."""
        found = self._encode(self._tokenizer, text)
        return found.ids, found.offsets

    @staticmethod
    def _encode(tokenizer: Any, text: str) -> Any:
        with refusing("tokenizer.json has rules by which a text cannot be encoded"):
            return tokenizer.encode(text, add_special_tokens=False)

    def encode_specials(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The same, where the name of a special token stands for it, as `tokenizer.json` says (its blanks included)."""
        found = self._encode(self._taking_specials, text)
        return found.ids, found.offsets

    @functools.cached_property
    def _taking_specials(self) -> Any:
        import tokenizers

        copy = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        copy.encode_special_tokens = False
        return copy

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids."""
        with refusing("tokenizer.json has rules by which ids cannot be decoded"):
            return self._tokenizer.decode([i for i in ids if 0 <= i < self.vocab_size], skip_special_tokens=True)

    def piece(self, token: int) -> str | None:
        """Returns how the vocabulary writes a token, None for an id that is none."""
        return self._tokenizer.id_to_token(token)

    @property
    def description(self) -> str:
        """The content of a `tokenizer.json`."""
        return self._tokenizer.to_str()

    @property
    def decode_bytes(self):
        """A function from token ids to bytes; there is none (AttributeError) unless the vocabulary is of bytes."""
        if type(self._tokenizer.decoder).__name__ != "ByteLevel":
            raise AttributeError("decode_bytes")
        return self._decode_bytes

    def _decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._pieces.get(int(i), b"") for i in ids)

    @functools.cached_property
    def _pieces(self) -> dict[int, bytes]:
        added = self._tokenizer.get_added_tokens_decoder()
        byte_of = {char: byte for byte, char in enumerate(byte_characters())}
        pieces = {i: "" if token.special else token.content for i, token in added.items()}
        pieces = {i: text.encode() for i, text in pieces.items()}
        for piece, i in self._tokenizer.get_vocab(with_added_tokens=False).items():
            pieces.setdefault(i, bytes(byte_of[char] for char in piece if char in byte_of))
        return pieces

    def save(self, folder: epath.PathLike) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`."""
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **self.config})
        write_bytes(folder / "tokenizer.json", self._tokenizer.to_str().encode())

    @classmethod
    def load(cls, path: epath.PathLike) -> "HuggingFaceTokenizer":
        """Reads a `tokenizer.json` and what stands beside it.

        Special tokens come from `tokenizer_config.json`, else `special_tokens_map.json`, else the ids in `config.json`.
        """
        path = epath.Path(path)
        try:
            description = read_bytes(path).decode()
        except UnicodeDecodeError:
            raise InputError(f"{path} is not UTF-8") from None
        tokenizer = cls(description, read_special_tokens(path.parent))
        tokenizer._fill_from_ids(_optional(path.parent / "config.json"))
        return tokenizer

    def _fill_from_ids(self, model_config: Mapping[str, Any]) -> None:
        nested = model_config.get("text_config")
        for role in ROLES:
            value = model_config.get(f"{role}_token_id")
            if value is None and isinstance(nested, dict):
                value = nested.get(f"{role}_token_id")
            value = value[0] if isinstance(value, list) and value else value
            token = self._tokenizer.id_to_token(value) if isinstance(value, int) and 0 <= value < 2**31 else None
            if token is not None and getattr(self, f"{role}_id") is None:
                setattr(self, f"{role}_id", value)
                self.config[f"{role}_token"] = token

    def __reduce__(self):
        return type(self), (self._tokenizer.to_str(), self.config)


def read_special_tokens(folder: epath.Path) -> dict[str, Any]:
    """What `tokenizer_config.json` says, then `special_tokens_map.json`; a chat template's own file goes before."""
    config = _optional(folder / "tokenizer_config.json")
    for name, text in _optional(folder / "special_tokens_map.json").items():
        if config.get(name) is None:
            config[name] = text
    template = folder / "chat_template.jinja"
    if template.exists():
        config["chat_template"] = read_bytes(template).decode("utf-8", "replace")
    return config


def byte_characters() -> list[str]:
    """The printable character that stands for each of the 256 bytes in a byte-level vocabulary (GPT-2's table).

    Bytes that print as themselves in Latin-1 do; the others are numbered from U+0100 in order.
    """
    prints = re.compile(r"[!-~¡-¬®-ÿ]")
    spare = iter(range(256, 512))
    return [chr(b) if prints.match(chr(b)) else chr(next(spare)) for b in range(256)]


def _content(token: Any) -> str | None:
    """A special token is written as its text or as an object with `content`."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _optional(path: epath.Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
