"""Learning a byte-level BPE vocabulary from text."""

from collections.abc import Iterable

from fmzoo.errors import InputError
from fmzoo.text.hugging_face import HuggingFaceTokenizer

END_OF_TEXT = "<|endoftext|>"
SMALLEST = 257  # 256 bytes and the end of text


def train_bpe(texts: Iterable[str], vocab_size: int, *, pad: bool = False) -> HuggingFaceTokenizer:
    """Learns byte-level BPE merges (Sennrich et al. 2016, over bytes as in GPT-2).

    Any text survives encoding and decoding, since every byte is a token. The same texts in the same order give the
    same vocabulary, however many threads count pairs.

    Args:
      texts: documents; merges never cross words as GPT-2's pattern splits them.
      vocab_size: tokens in all, `<|endoftext|>` (both eos and bos, id 0) and the 256 bytes included. A small corpus may
        have fewer merges to offer; then the tokenizer's `vocab_size` is smaller.
      pad: `<|endoftext|>` is the pad too, as CLIP has it.

    Raises:
      InputError: `vocab_size` is under 257, or there is no text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST:
        raise InputError(f"vocab_size {vocab_size} is too small for 256 bytes and {END_OF_TEXT}; at least {SMALLEST}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_not_empty(texts), trainer)
    roles = ("bos_token", "eos_token", "pad_token") if pad else ("bos_token", "eos_token")
    return HuggingFaceTokenizer(tokenizer.to_str(), dict.fromkeys(roles, END_OF_TEXT))


def _not_empty(texts: Iterable[str]) -> Iterable[str]:
    empty = True
    for text in texts:
        empty = empty and not text
        yield text
    if empty:
        raise InputError("texts are empty; a tokenizer is learned from at least one character")
