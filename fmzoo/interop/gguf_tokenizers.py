"""Tokenizers in the metadata of GGUF files: byte-level BPE for `tokenizers`, and SentencePiece for its own package."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmzoo.errors import InputError
from fmzoo.text import ByteTokenizer, Tokenizer
from fmzoo.text.byte_ranks import PUBLISHED
from fmzoo.text.hugging_face import HuggingFaceTokenizer, byte_characters
from fmzoo.text.sentence_piece import SentencePieceTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # token_type, as in SentencePiece
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = PUBLISHED["tokenizer.model"].pattern
QWEN2 = PUBLISHED["qwen.tiktoken"].pattern
GPT4O = PUBLISHED["o200k_base.tiktoken"].pattern
TEKKEN = GPT4O.replace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
SPLITS: dict[str, tuple[str, ...]] = {  # the patterns of llama.cpp's `src/llama-vocab.cpp`, applied one after another
    "gpt-2": (GPT2,), "phi-2": (GPT2,), "mpt": (GPT2,), "olmo": (GPT2,), "jais": (GPT2,), "exaone4": (GPT2,),
    "smollm": (r"\p{N}", GPT2), "starcoder": (r"\p{N}", GPT2), "refact": (r"\p{N}", GPT2),
    "command-r": (r"\p{N}", GPT2), "codeshell": (r"\p{N}", GPT2), "exaone": (r"\p{N}", GPT2),
    "llama-bpe": (LLAMA3,), "llama3": (LLAMA3,), "llama-v3": (LLAMA3,), "falcon3": (LLAMA3,), "pixtral": (LLAMA3,),
    "dbrx": (LLAMA3,), "smaug-bpe": (LLAMA3,), "lfm2": (LLAMA3,),
    "qwen2": (QWEN2,), "stablelm2": (QWEN2,), "deepseek-r1-qwen": (QWEN2,), "megrez": (QWEN2,),
    "tekken": (TEKKEN,), "gpt-4o": (GPT4O,), "llama4": (GPT4O,),
}  # fmt: skip
WHOLE_WORDS = {
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "pixtral",
    "lfm2",
    "tekken",
}  # a word that is a token stays
BEGINS = {"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "tekken"}  # documents begin with bos
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding"}
STOPS = ("eos_token_id", "eot_token_id", "eom_token_id")
START = "tokenizer.ggml."


def read_tokenizer(metadata: Mapping[str, Any], source: str) -> Tokenizer | None:
    """The tokenizer that a file's metadata describes, None if there is none.

    Raises:
      InputError: it is of a kind that is not known, or its lists do not fit each other.
    """
    found = {key.removeprefix(START): value for key, value in metadata.items() if key.startswith(START)}
    kind = found.get("model", "none")
    if kind in ("none", "no_vocab"):
        return None
    readers = {"gpt2": _read_bpe, "llama": _read_sentence_piece}
    if kind not in readers:
        raise InputError(f"{source} has a tokenizer of the kind {str(kind)[:60]!r}; gpt2 or llama is needed")
    tokens = found.get("tokens")
    types = np.asarray(found.get("token_type", np.full(len(tokens or ()), NORMAL)))
    if not isinstance(tokens, list) or not tokens or types.shape != (len(tokens),):
        raise InputError(f"{source} has {types.size} token types for its tokens; a list of tokens and types is needed")
    try:
        return readers[kind](found, tokens, types, source)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source} has a tokenizer that cannot be built ({str(error)[:100]})") from None


def read_stops(metadata: Mapping[str, Any], size: int) -> tuple[int, ...]:
    """The ids that end an answer."""
    found = {metadata.get(START + name) for name in STOPS}
    return tuple(sorted(i for i in found if type(i) is int and 0 <= i < size))


def _ids(found: Mapping[str, Any], tokens: Sequence[str], begins: bool) -> dict[str, int | None]:
    """The id of each role; a bos counts only where documents begin with one."""
    ids = {role: found.get(f"{name}_token_id") for role, name in ROLES.items()}
    if not found.get("add_bos_token", begins):
        ids["bos"] = None
    return {role: i if type(i) is int and 0 <= i < len(tokens) else None for role, i in ids.items()}


def _read_bpe(found: Mapping[str, Any], tokens: list[str], types: np.ndarray, source: str) -> Tokenizer:
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Built

    pre = found.get("pre", "gpt-2")
    if pre not in SPLITS:
        raise InputError(f"{source} splits text as {str(pre)[:60]!r} before merging, which is not known here")
    merges = [tuple(merge.split(" ")) for merge in found.get("merges", [])]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or any(len(pair) != 2 for pair in merges):
        raise InputError(f"{source} has a token twice, or a merge that is no pair; each token once is needed")
    try:
        built = Built(models.BPE(vocabulary, merges, ignore_merges=pre in WHOLE_WORDS))
    except Exception as error:  # noqa: BLE001 - the package raises bare Exception
        raise InputError(f"{source} has merges that do not fit its tokens ({str(error)[:100]})") from None
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS[pre]]
    built.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(False, use_regex=False)])
    built.decoder = decoders.ByteLevel()
    for kind, add in ((CONTROL, built.add_special_tokens), (USER_DEFINED, built.add_tokens)):
        add([AddedToken(tokens[i], normalized=False) for i in np.flatnonzero(types == kind)])
    ids = _ids(found, tokens, pre in BEGINS)
    return HuggingFaceTokenizer(
        built.to_str(), {f"{role}_token": None if i is None else tokens[i] for role, i in ids.items()}
    )


def _read_sentence_piece(found: Mapping[str, Any], tokens: list[str], types: np.ndarray, source: str) -> Tokenizer:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    scores = np.asarray(found.get("scores", np.zeros(0)), np.float32)
    if scores.shape != (len(tokens),) or not np.isin(types, range(1, 7)).all():
        raise InputError(f"{source} has {scores.size} scores for {len(tokens)} tokens; one for each is needed")
    model = ModelProto()
    for token, score, kind in zip(tokens, scores.tolist(), types.tolist(), strict=True):
        piece = token.replace(" ", "\u2581") if kind == USER_DEFINED else token
        model.pieces.add(piece=piece, score=score, type=kind)
    ids, trainer = _ids(found, tokens, True), model.trainer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = (
        trainer.BPE,
        len(tokens),
        bool((types == BYTE).any()),
    )
    trainer.unk_id = int(np.flatnonzero(types == UNKNOWN)[0]) if (types == UNKNOWN).any() else 0
    trainer.bos_id, trainer.eos_id, trainer.pad_id = (-1 if ids[r] is None else ids[r] for r in ("bos", "eos", "pad"))
    for role in ("bos", "eos", "pad", "unk"):
        if (i := getattr(trainer, f"{role}_id")) >= 0:
            setattr(trainer, f"{role}_piece", tokens[i])
    normalizer = model.normalizer_spec
    normalizer.name, normalizer.remove_extra_whitespaces = "identity", False
    normalizer.add_dummy_prefix = bool(found.get("add_space_prefix", True))
    return SentencePieceTokenizer(model.SerializeToString())


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
        found = _write_bpe(json.loads(tokenizer.description))
    elif isinstance(tokenizer, SentencePieceTokenizer):
        found = _write_sentence_piece(tokenizer.model)
    else:
        raise InputError(f"GGUF cannot hold a {type(tokenizer).__name__}; byte-level BPE or SentencePiece is needed")
    missing = size - len(found["tokens"])
    found["tokens"] += [f"[PAD{len(found['tokens']) + i}]" for i in range(missing)]
    found["token_type"] = np.array(found["token_type"] + [5] * missing, np.int32)  # unused
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
    added = {token["id"]: token for token in description["added_tokens"]}
    vocabulary = {i: token for token, i in model["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    ids = range(max(vocabulary) + 1)
    types = [(CONTROL if added[i]["special"] else USER_DEFINED) if i in added else NORMAL for i in ids]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    tokens = [vocabulary.get(i, f"[PAD{i}]") for i in ids]
    return {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": merges}


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
