"""Tokenizers as the metadata of GGUF files: what `gguf_tokenizers` reads, written."""

import json
import re
from typing import Any

import numpy as np

from fmzoo.errors import InputError
from fmzoo.interop.gguf_tokenizers import (
    BYTE,
    CONTROL,
    GPT2,
    NORMAL,
    ROLES,
    SPLITS,
    START,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from fmzoo.text import ByteTokenizer, Tokenizer
from fmzoo.text.hugging_face import HuggingFaceTokenizer, byte_characters
from fmzoo.text.sentence_piece import SentencePieceTokenizer

BYTES = re.compile(r"<0x[0-9A-F]{2}>$")


def write_tokenizer(tokenizer: Tokenizer | None, size: int) -> dict[str, Any]:
    """The metadata that describes a tokenizer, whose vocabulary is filled up to ``size``.

    Raises:
      InputError: GGUF cannot hold it.
    """
    if tokenizer is None:
        return {f"{START}model": "none"}
    if tokenizer.vocab_size > size:
        raise InputError(f"the tokenizer has {tokenizer.vocab_size} tokens and the model {size}; at most as many fit")
    if isinstance(tokenizer, ByteTokenizer):
        found = _write_bytes(tokenizer)
    elif isinstance(tokenizer, HuggingFaceTokenizer):
        description = json.loads(tokenizer.description)
        found = (_write_pieces if description["model"].get("byte_fallback") else _write_bpe)(description)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        found = _write_sentence_piece(tokenizer.model)
    else:
        raise InputError(f"GGUF cannot hold a {type(tokenizer).__name__}; byte-level BPE or SentencePiece is needed")
    missing = size - len(found["tokens"])
    found["tokens"] += [f"[PAD{len(found['tokens']) + i}]" for i in range(missing)]
    found["token_type"] = np.array(found["token_type"] + [UNUSED] * missing, np.int32)
    if "scores" in found:
        found["scores"] = np.array(found["scores"] + [-1e4] * missing, np.float32)
    for role, name in ROLES.items():
        if getattr(tokenizer, f"{role}_id") is not None:
            found[f"{name}_token_id"] = getattr(tokenizer, f"{role}_id")
    return {START + name: value for name, value in (found | {"add_bos_token": tokenizer.bos_id is not None}).items()}


def _write_bytes(tokenizer: ByteTokenizer) -> dict[str, Any]:
    tokens = [*byte_characters(), *tokenizer.specials]
    types = [NORMAL] * 256 + [CONTROL] * len(tokenizer.specials)
    return {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": types, "merges": []}


def _write_bpe(description: dict[str, Any]) -> dict[str, Any]:
    """From the content of a `tokenizer.json`."""
    model, splits = description["model"], _patterns(description.get("pre_tokenizer"))
    pre = next((name for name, patterns in SPLITS.items() if [*patterns] == splits), None)
    if model["type"] != "BPE" or pre is None or description.get("normalizer"):
        raise InputError(
            f"GGUF cannot hold this tokenizer ({model['type']}, splits {str(splits)[:60]}); byte-level BPE of a known "
            "pattern is needed"
        )
    tokens, types = _list_tokens(description)
    merges = [" ".join(pair) for pair in _pairs(model)]
    return {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": merges}


def _write_pieces(description: dict[str, Any]) -> dict[str, Any]:
    """From a `tokenizer.json` that does what a SentencePiece model does: merges become scores, the first the highest.

    Who merges by scores takes any two neighbours that make a token, so a token's first merge is what counts.
    """
    steps = [description.get("normalizer"), description.get("pre_tokenizer")]
    steps = [step for whole in steps if whole for step in whole.get("normalizers", whole.get("pretokenizers", [whole]))]
    odd = {step["type"] for step in steps} - {"Prepend", "Replace", "Metaspace", "Split"}
    if odd or description["model"].get("ignore_merges"):
        raise InputError(
            f"GGUF cannot hold this tokenizer, which prepares text by {', '.join(sorted(odd)) or 'merges'}"
        )
    tokens, types = _list_tokens(description)
    rank = {}
    for i, pair in enumerate(_pairs(description["model"])):
        rank.setdefault("".join(pair), i)
    unknown = description["model"].get("unk_token")
    special = {
        token: UNKNOWN if token == unknown else BYTE for token in tokens if token == unknown or BYTES.match(token)
    }
    return {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": [-float(rank.get(token, len(rank))) for token in tokens],
        "token_type": [special.get(token, kind) for token, kind in zip(tokens, types, strict=True)],
        "add_space_prefix": any(
            step["type"] == "Prepend" or step.get("prepend_scheme", "never") != "never" for step in steps
        ),
    }


def _list_tokens(description: dict[str, Any]) -> tuple[list[str], list[int]]:
    """The tokens of a `tokenizer.json` by their ids, and their types."""
    added = {token["id"]: token for token in description["added_tokens"]}
    vocabulary = {i: token for token, i in description["model"]["vocab"].items()}
    vocabulary |= {i: token["content"] for i, token in added.items()}
    ids = range(max(vocabulary) + 1)
    types = [(CONTROL if added[i]["special"] else USER_DEFINED) if i in added else NORMAL for i in ids]
    return [vocabulary.get(i, f"[PAD{i}]") for i in ids], types


def _pairs(model: dict[str, Any]) -> list[list[str]]:
    """The merges of a `tokenizer.json`, in either spelling."""
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]


def _patterns(pre_tokenizer: dict[str, Any] | None) -> list[str]:
    """The patterns by which a `tokenizer.json` splits text before its bytes are mapped."""
    parts = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else [])
    found = []
    for part in parts:
        if part["type"] == "Split" and part["behavior"] == "Isolated":
            found.append(part["pattern"].get("Regex", ""))
        elif part["type"] == "Digits" and part["individual_digits"]:
            found.append(r"\p{N}")
        elif part["type"] == "ByteLevel" and not part["add_prefix_space"]:
            found += [GPT2] if part["use_regex"] else []
        else:
            found.append(part["type"])
    return found


def _write_sentence_piece(content: bytes) -> dict[str, Any]:
    """From the content of a `.model` file."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto.FromString(content)
    spec = model.trainer_spec
    if spec.model_type != spec.BPE:
        raise InputError("GGUF cannot hold this SentencePiece model, which is no BPE; Unigram is not written")
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [piece.piece for piece in model.pieces],
        "scores": [piece.score for piece in model.pieces],
        "token_type": [piece.type for piece in model.pieces],
        "add_space_prefix": model.normalizer_spec.add_dummy_prefix,
    }
