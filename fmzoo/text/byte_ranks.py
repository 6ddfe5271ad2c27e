"""Rank files as tiktoken has them: one line a token, its bytes in base64 and its rank."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from fmzoo.errors import InputError, nearest
from fmzoo.text.files import read_bytes, read_json, write_bytes, write_json
from fmzoo.text.foreign import refusing

LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]{1,9}\r?\n")
LARGEST_RANK = 2**24

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CL100K = _LLAMA3.replace(r"|\s*[\r\n]+|", r"|\s+$|\s*[\r\n]+|")  # blanks that end the text stay together
_QWEN = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Published(NamedTuple):
    """What a published rank file does not say itself."""

    pattern: str
    specials: Mapping[str, int]
    bos: str | None
    eos: str | None


def _numbered(start: int, names: Iterable[str]) -> dict[str, int]:
    return {name: start + i for i, name in enumerate(names)}


def _llama3_specials() -> dict[str, int]:
    """The 256 special tokens of Llama 3.1, which keep the positions that Llama 3 gave them."""
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]
    names += ["<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"]
    names += ["<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
    return _numbered(128000, names + [f"<|reserved_special_token_{i}|>" for i in range(3, 248)])


_END = "<|endoftext|>"
_FIM = {"<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260, "<|endofprompt|>": 100276}
_QWEN_SPECIALS = [_END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]

# Patterns and special tokens as published with each vocabulary: OpenAI's tiktoken, Meta's llama3, Qwen.
PUBLISHED = {
    "r50k_base.tiktoken": Published(_GPT2, {_END: 50256}, _END, _END),
    "p50k_base.tiktoken": Published(_GPT2, {_END: 50256}, _END, _END),
    "cl100k_base.tiktoken": Published(_CL100K, {_END: 100257, **_FIM}, _END, _END),
    "o200k_base.tiktoken": Published(_O200K, {_END: 199999, "<|endofprompt|>": 200018}, _END, _END),
    "qwen.tiktoken": Published(_QWEN, _numbered(151643, _QWEN_SPECIALS), None, _END),
    "tokenizer.model": Published(_LLAMA3, _llama3_specials(), "<|begin_of_text|>", "<|end_of_text|>"),
}


class ByteRankTokenizer:
    """Byte-level BPE whose merges are ranks, run by the `tiktoken` package.

    Attributes:
      pattern: the regular expression that splits text before merging.
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        pattern: str,
        specials: Mapping[str, int],
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
    ):
        """Makes the tokenizer.

        Args:
          ranks: every token's bytes and its rank, which is its id; the 256 single bytes must be there.
          pattern: the regular expression that splits text before merging.
          specials: special tokens and ids, apart from the ranks.
          bos: the special token that begins a document.
          eos: the special token that ends one.
          pad: the special token that fills rows up.

        Raises:
          InputError: a byte is missing, an id occurs twice, the pattern does not compile, or a role is not special.
        """
        import tiktoken

        _check(ranks, specials)
        self._ranks, self.pattern, self.specials = dict(ranks), pattern, dict(specials)
        self._roles = {"bos": bos, "eos": eos, "pad": pad}
        with refusing(f"pattern {pattern[:80]!r} does not compile, or a special token is no text"):
            self._encoding = tiktoken.Encoding(
                "ranks", pat_str=pattern, mergeable_ranks=self._ranks, special_tokens=self.specials
            )
        self.vocab_size = 1 + max([*self._ranks.values(), *self.specials.values()])
        self._bytes_of = {rank: token for token, rank in self._ranks.items()}
        self.bos_id, self.eos_id, self.pad_id = (self._role(role) for role in ("bos", "eos", "pad"))

    def _role(self, role: str) -> int | None:
        name = self._roles[role]
        if name is not None and name not in self.specials:
            raise InputError(f"{role} token {name[:60]!r} is not a special token; {nearest(name, self.specials)}")
        return None if name is None else self.specials[name]

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        with refusing(f"pattern {self.pattern[:80]!r} splits a text so that it cannot be encoded"):
            return self._encoding.encode_ordinary(text)

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the token ids of a text, and the characters whose bytes each holds."""
        ids = self.encode(text)
        character = [i for i, c in enumerate(text) for _ in c.encode()]
        spans, at = [], 0
        for i in ids:
            size = len(self._bytes_of[i])
            spans.append((character[at], character[at + size - 1] + 1))
            at += size
        return ids, spans

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of token ids, whether or not they are UTF-8."""
        return b"".join(self._bytes_of.get(int(i), b"") for i in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, folder: epath.PathLike) -> None:
        """Writes `tokenizer.tiktoken`, and the pattern and special tokens as `tokenizer.tiktoken.json`."""
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ordered = sorted(self._ranks.items(), key=lambda item: item[1])
        lines = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ordered)
        described = {"pattern": self.pattern, "specials": self.specials, **self._roles}
        write_json(folder / "tokenizer.tiktoken.json", described)
        write_bytes(folder / "tokenizer.tiktoken", lines)

    @classmethod
    def load(cls, path: epath.PathLike) -> "ByteRankTokenizer":
        """Reads a rank file; pattern and special tokens stand beside it (`NAME.json`) or are published by name."""
        path = epath.Path(path)
        ranks = parse_ranks(path.name, read_bytes(path))
        beside = path.parent / f"{path.name}.json"
        if beside.exists():
            return cls(ranks, **_described(beside))
        if path.name not in PUBLISHED:
            raise InputError(
                f"{path} has no pattern: {beside.name} beside it or one of {', '.join(PUBLISHED)} is needed"
            )
        published = PUBLISHED[path.name]
        return cls(ranks, published.pattern, published.specials, published.bos, published.eos)

    def __reduce__(self):
        return type(self), (self._ranks, self.pattern, self.specials, *self._roles.values())


def parse_ranks(name: str, content: bytes) -> dict[bytes, int]:
    """Returns the tokens and ranks of a rank file.

    Raises:
      InputError: a line is not base64 and a number, or a token or rank occurs twice; says which line.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line:
            continue
        try:
            encoded, rank = line.split(b" ")
            token, value = base64.b64decode(encoded, validate=True), int(rank)
        except (ValueError, binascii.Error):
            raise InputError(f"{name} line {number} is {line[:40]!r}; base64 and a rank are needed") from None
        if token in ranks or not 0 <= value < LARGEST_RANK:
            raise InputError(f"{name} line {number} repeats a token or has rank {value} outside [0, {LARGEST_RANK})")
        ranks[token] = value
    return ranks


def _check(ranks: Mapping[bytes, int], specials: Mapping[str, int]) -> None:
    missing = next((b for b in range(256) if bytes([b]) not in ranks), None)
    if missing is not None:
        raise InputError(f"rank file: byte {missing} has no rank; all 256 single bytes are needed")
    ids = [*ranks.values(), *specials.values()]
    if len(set(ids)) != len(ids):
        raise InputError(f"rank file: {len(ids)} tokens share {len(set(ids))} ids; each id once is needed")


def _described(path: epath.Path) -> dict[str, Any]:
    value = read_json(path)
    if set(value) != {"pattern", "specials", "bos", "eos", "pad"} or not isinstance(value["pattern"], str):
        raise InputError(
            f"{path} has fields {str(sorted(value))[:100]}; pattern, specials, bos, eos and pad are needed"
        )
    specials = value["specials"]
    if not isinstance(specials, dict) or not all(type(i) is int and 0 <= i < LARGEST_RANK for i in specials.values()):
        raise InputError(f"{path}: specials must be an object of tokens and ids in [0, {LARGEST_RANK})")
    if any(not isinstance(value[role], str | None) for role in ("bos", "eos", "pad")):
        raise InputError(f"{path}: bos, eos and pad must each be a special token or null")
    return value
