"""Small sound tokenizers of every kind that fmzoo reads, and what a sound file is."""

import base64
import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import file_trees as trees

from fmzoo import text
from fmzoo.text.byte_ranks import PUBLISHED, ByteRankTokenizer
from fmzoo.text.hugging_face import HuggingFaceTokenizer
from fmzoo.text.sentence_piece import SentencePieceTokenizer

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and then the dog sleeps",
    "naïve café, 東京 and ☃; the end",
] * 20
SAMPLE = "The quick  brown fox, naïve 東京 🦊 <s> " + 30 * "a" + "!\n\tthe end"


class Sound(NamedTuple):
    """A file that is read.

    Attributes:
      build: writes it, and what belongs to it, into an empty folder.
      file: its name there.
      format: as which it is changed as a tree; None is bytes only.
      use: reads it.
    """

    build: Callable[[Path], None]
    file: str
    format: trees.Format | None
    use: Callable[[Path], None]


def use_tokenizer(folder: Path) -> None:
    """Reads the tokenizer in a folder, encodes, decodes, and saves it inside."""
    tokenizer = text.load_tokenizer(folder)
    ids, _ = tokenizer.encode_with_spans(SAMPLE)
    tokenizer.decode(ids[:100])
    tokenizer.save(folder / "saved")


@functools.cache
def byte_level() -> HuggingFaceTokenizer:
    """Byte-level BPE of few merges."""
    return text.train_bpe(CORPUS, 300)


@functools.cache
def sentence_piece(kind: str = "bpe", rule: str = "identity") -> SentencePieceTokenizer:
    """A SentencePiece model of 300 pieces, with a table of normalisation if the rule has one."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_writer=model, vocab_size=300, model_type=kind, byte_fallback=True,
        normalization_rule_name=rule, minloglevel=2, num_threads=1, hard_vocab_limit=False,
    )  # fmt: skip
    return SentencePieceTokenizer(model.getvalue())


def _save_pieces(folder: Path, kind: str, rule: str) -> None:
    sentence_piece(kind, rule).save(folder)


def _save_ranks(folder: Path, claude: bool = False) -> None:
    ranks = {bytes([b]): b for b in range(256)} | {b"th": 256, b"the": 257, b" the": 258}
    pattern = PUBLISHED["r50k_base.tiktoken"].pattern
    if not claude:
        ByteRankTokenizer(ranks, pattern, {"<|end|>": 300}, eos="<|end|>").save(folder)
        return
    tokens = " ".join(base64.b64encode(token).decode() for token in ranks)
    values = {"explicit_n_vocab": 260, "pat_str": pattern, "special_tokens": {"<EOT>": 0}, "bpe_ranks": f"! 1 {tokens}"}
    (folder / "claude.json").write_text(json.dumps(values))


def _save_json(folder: Path, kind: str) -> None:
    """A `tokenizer.json` of another kind than byte-level BPE, with as many parts as there are."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers import models as kinds

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "t", "h", "e", "th", "the", "▁the"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    built = Tokenizer(
        {
            "llama": lambda: kinds.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True),
            "unigram": lambda: kinds.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 0, True),
            "words": lambda: kinds.WordPiece(vocabulary, unk_token="<unk>"),
        }[kind]()
    )
    built.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"), normalizers.Lowercase()]
    )
    built.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.Metaspace()])
    built.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    built.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    built.add_special_tokens([AddedToken(piece, normalized=False) for piece in pieces[:3]])
    built.enable_truncation(16)
    built.enable_padding(length=16)
    HuggingFaceTokenizer(built.to_str(), {"bos_token": "<s>", "eos_token": {"content": "</s>"}}).save(folder)
    (folder / "tokenizer.json").write_text(built.to_str())


HERE = functools.partial
TOKENIZERS = (
    *(
        Sound(save, "tokenizer.json", trees.JSON, use_tokenizer)
        for save in (
            lambda folder: byte_level().save(folder),
            *(HERE(_save_json, kind=kind) for kind in ("llama", "unigram", "words")),
        )
    ),
    *(
        Sound(HERE(_save_pieces, kind=kind, rule=rule), "tokenizer.model", trees.SENTENCE_PIECE, use_tokenizer)
        for kind, rule in (("bpe", "identity"), ("unigram", "nmt_nfkc"))
    ),
    Sound(HERE(_save_json, kind="llama"), "tokenizer_config.json", trees.JSON, use_tokenizer),
    Sound(_save_ranks, "tokenizer.tiktoken", None, use_tokenizer),
    Sound(_save_ranks, "tokenizer.tiktoken.json", trees.JSON, use_tokenizer),
    Sound(HERE(_save_ranks, claude=True), "claude.json", trees.JSON, use_tokenizer),
)
