"""CLIP's tokenizer: byte-level pairs within lower-cased words, of which each ends in ``</w>``."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from fmzoo.errors import InputError
from fmzoo.text.files import read_bytes, read_json, write_bytes, write_json
from fmzoo.text.foreign import refusing
from fmzoo.text.hugging_face import HuggingFaceTokenizer, read_special_tokens

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer(HuggingFaceTokenizer):
    """CLIP's tokenizer, read from `tokenizer.json`, or from `vocab.json` and `merges.txt`.

    What fills a row up differs by system and stands in `tokenizer_config.json`: the end of text in Stable Diffusion 1
    and the first encoder of XL, id 0 in Stable Diffusion 2 and the second one.
    """

    def __init__(self, description: str, config: Mapping[str, Any] | None = None):
        named = {"bos_token": START, "eos_token": END, "pad_token": END}
        given = {name: value for name, value in (config or {}).items() if value is not None}
        super().__init__(description, named | given)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids, in lower case, a space after each word."""
        return super().decode(ids).replace(WORD_END, " ").strip()

    @property
    def decode_bytes(self):
        """There is none (AttributeError): the end of a word is no byte."""
        raise AttributeError("decode_bytes")

    def save(self, folder: epath.PathLike) -> None:
        """Writes `tokenizer.json`, `tokenizer_config.json`, and the `vocab.json` and `merges.txt` of older readers."""
        super().save(folder)
        model = json.loads(self._tokenizer.to_str())["model"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        write_json(epath.Path(folder) / "vocab.json", model["vocab"])
        write_bytes(epath.Path(folder) / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]).encode())

    @classmethod
    def load(cls, path: epath.PathLike) -> "ClipTokenizer":
        """Reads a folder, or the `tokenizer.json` in it.

        Raises:
          InputError: a file is damaged, or there is none.
        """
        path = epath.Path(path)
        if not path.is_dir():
            return super().load(path)
        if (path / "tokenizer.json").exists():
            return super().load(path / "tokenizer.json")
        if not (path / "vocab.json").exists() or not (path / "merges.txt").exists():
            raise InputError(
                f"{path} holds no tokenizer of CLIP; tokenizer.json, or vocab.json and merges.txt is needed"
            )
        return cls(_describe(path), read_special_tokens(path))


def _describe(folder: epath.Path) -> str:
    """The `tokenizer.json` that a vocabulary and its merges stand for."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    vocabulary = read_json(folder / "vocab.json")
    if not all(type(index) is int and 0 <= index < 2**31 for index in vocabulary.values()):
        raise InputError(f"{folder / 'vocab.json'} does not number its tokens; an id of at least 0 each is needed")
    lines = read_bytes(folder / "merges.txt").decode("utf-8", "replace").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    with refusing(f"{folder / 'merges.txt'} does not fit vocab.json"):
        model = models.BPE(
            vocabulary, merges, unk_token=END, end_of_word_suffix=WORD_END, continuing_subword_prefix="", fuse_unk=False
        )
    tokenizer = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token in (START, END) if token in vocabulary])
    return tokenizer.to_str()
