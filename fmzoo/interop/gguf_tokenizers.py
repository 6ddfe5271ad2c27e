"""Tokenizers in the metadata of GGUF files: byte-level BPE for `tokenizers`, and SentencePiece for its own package."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmzoo.errors import InputError
from fmzoo.text import Tokenizer
from fmzoo.text.byte_ranks import PUBLISHED
from fmzoo.text.foreign import refusing
from fmzoo.text.hugging_face import HuggingFaceTokenizer
from fmzoo.text.sentence_piece import SentencePieceTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token_type, as in SentencePiece
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = PUBLISHED["tokenizer.model"].pattern
QWEN2 = PUBLISHED["qwen.tiktoken"].pattern
GPT4O = PUBLISHED["o200k_base.tiktoken"].pattern
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", GPT2.removesuffix(r"|\s+"), "[0-9][0-9][0-9]")
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")
TEKKEN = GPT4O.replace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
SPLITS: dict[str, tuple[str, ...]] = {  # the patterns of llama.cpp's `src/llama-vocab.cpp`, applied one after another
    "gpt-2": (GPT2,), "phi-2": (GPT2,), "mpt": (GPT2,), "olmo": (GPT2,), "jais": (GPT2,), "exaone4": (GPT2,),
    "smollm": (r"\p{N}", GPT2), "starcoder": (r"\p{N}", GPT2), "refact": (r"\p{N}", GPT2),
    "command-r": (r"\p{N}", GPT2), "codeshell": (r"\p{N}", GPT2), "exaone": (r"\p{N}", GPT2),
    "llama-bpe": (LLAMA3,), "llama3": (LLAMA3,), "llama-v3": (LLAMA3,), "falcon3": (LLAMA3,), "pixtral": (LLAMA3,),
    "dbrx": (LLAMA3,), "smaug-bpe": (LLAMA3,), "lfm2": (LLAMA3,),
    "qwen2": (QWEN2,), "stablelm2": (QWEN2,), "deepseek-r1-qwen": (QWEN2,), "megrez": (QWEN2,),
    "qwen35": (QWEN35,), "falcon": FALCON, "deepseek-coder": DEEPSEEK_CODER,
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
    kind = _take(found, "model", str, "none", source)
    if kind in ("none", "no_vocab"):
        return None
    readers = {"gpt2": _read_bpe, "llama": _read_sentence_piece}
    if kind not in readers:
        raise InputError(f"{source} has a tokenizer of the kind {kind[:60]!r}; gpt2 or llama is needed")
    tokens = _take(found, "tokens", list, [], source)
    types = _take(found, "token_type", np.ndarray, np.full(len(tokens), NORMAL), source).copy()
    if not tokens or types.shape != (len(tokens),):
        raise InputError(f"{source} has {types.size} token types for {len(tokens)} tokens; one for each is needed")
    try:
        return readers[kind](found, tokens, types, source)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source} has a tokenizer that cannot be built ({str(error)[:100]})") from None


def _take(found: Mapping[str, Any], name: str, kind: type, default: Any, source: str) -> Any:
    """The value of a key, or the default.

    Raises:
      InputError: it is of another type.
    """
    value = found.get(name, default)
    if not isinstance(value, kind):
        raise InputError(f"{source} has {START}{name} {str(value)[:40]!r}; a {kind.__name__} is needed")
    return value


def read_stops(metadata: Mapping[str, Any], size: int) -> tuple[int, ...]:
    """The ids that end an answer."""
    found = [metadata.get(START + name) for name in STOPS]
    return tuple(sorted({i for i in found if type(i) is int and 0 <= i < size}))


def _ids(found: Mapping[str, Any], tokens: Sequence[str], begins: bool) -> dict[str, int | None]:
    """The id of each role; a bos counts only where documents begin with one."""
    ids = {role: found.get(f"{name}_token_id") for role, name in ROLES.items()}
    if found.get("add_bos_token", begins) is not True:
        ids["bos"] = None
    return {role: i if type(i) is int and 0 <= i < len(tokens) else None for role, i in ids.items()}


def _read_bpe(found: Mapping[str, Any], tokens: list[str], types: np.ndarray, source: str) -> Tokenizer:
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Built

    pre = _take(found, "pre", str, "gpt-2", source)
    if pre not in SPLITS:
        raise InputError(f"{source} splits text as {pre[:60]!r} before merging, which is not known here")
    merges = [tuple(merge.split(" ")) for merge in _take(found, "merges", list, [], source)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or any(len(pair) != 2 for pair in merges):
        raise InputError(f"{source} has a token twice, or a merge that is no pair; each token once is needed")
    with refusing(f"{source} has merges that do not fit its tokens"):
        built = Built(models.BPE(vocabulary, merges, ignore_merges=pre in WHOLE_WORDS))
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

    scores = _take(found, "scores", np.ndarray, np.zeros(0), source)
    if scores.shape != (len(tokens),) or not np.isin(types, range(1, 7)).all():
        raise InputError(f"{source} has {scores.size} scores for {len(tokens)} tokens; one for each is needed")
    model, unknown = ModelProto(), np.flatnonzero(types == UNKNOWN)
    types[unknown[1:]] = UNUSED  # there can be one
    for token, score, kind in zip(tokens, scores.tolist(), types.tolist(), strict=True):
        piece = token.replace(" ", "\u2581") if kind == USER_DEFINED else token
        model.pieces.add(piece=piece, score=score, type=kind)
    ids, trainer = _ids(found, tokens, True), model.trainer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = (
        trainer.BPE,
        len(tokens),
        bool((types == BYTE).any()),
    )
    trainer.unk_id = int(unknown[0]) if unknown.size else 0
    trainer.bos_id, trainer.eos_id, trainer.pad_id = (-1 if ids[r] is None else ids[r] for r in ("bos", "eos", "pad"))
    for role in ("bos", "eos", "pad", "unk"):
        if (i := getattr(trainer, f"{role}_id")) >= 0:
            setattr(trainer, f"{role}_piece", tokens[i])
    normalizer = model.normalizer_spec
    normalizer.name, normalizer.remove_extra_whitespaces = "identity", False
    normalizer.add_dummy_prefix = _take(found, "add_space_prefix", bool, True, source)
    return SentencePieceTokenizer(model.SerializeToString())
