"""Learning a byte-level BPE vocabulary from text."""

from collections.abc import Iterable

from fmzoo.errors import InputError
from fmzoo.text.hugging_face import HuggingFaceTokenizer

END_OF_TEXT, START_OF_TEXT = "<|endoftext|>", "<|startoftext|>"
SMALLEST = 257  # 256 bytes and the end of text


def train_bpe(texts: Iterable[str], vocab_size: int, *, pad: bool = False) -> HuggingFaceTokenizer:
    """Learns byte-level BPE merges (Sennrich et al. 2016, over bytes as in GPT-2).

    Any text survives encoding and decoding, since every byte is a token. The same texts in the same order give the
    same vocabulary, however many threads count pairs.

    Args:
      texts: documents; merges never cross words as GPT-2's pattern splits them.
      vocab_size: tokens in all, `<|endoftext|>` (both eos and bos, id 0) and the 256 bytes included. A small corpus may
        have fewer merges to offer; then the tokenizer's `vocab_size` is smaller.
      pad: `<|endoftext|>` is the pad too, and a `<|startoftext|>` with id 1 the bos, as CLIP has them: rows that are
        filled up still tell where a text ends.

    Raises:
      InputError: `vocab_size` is under 257, or there is no text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST + pad:
        names = f"{END_OF_TEXT} and {START_OF_TEXT}" if pad else END_OF_TEXT
        raise InputError(f"vocab_size {vocab_size} is too small for 256 bytes and {names}; at least {SMALLEST + pad}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, START_OF_TEXT] if pad else [END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_not_empty(texts), trainer)
    roles = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    if pad:
        roles |= {"bos_token": START_OF_TEXT, "pad_token": END_OF_TEXT}
    return HuggingFaceTokenizer(tokenizer.to_str(), roles)


def _not_empty(texts: Iterable[str]) -> Iterable[str]:
    empty = True
    for text in texts:
        empty = empty and not text
        yield text
    if empty:
        raise InputError("texts are empty; a tokenizer is learned from at least one character")
