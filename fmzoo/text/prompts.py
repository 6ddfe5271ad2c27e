"""Prompts as rows of token ids of one length, as the encoders of a diffusion system take them."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from fmzoo.errors import InputError
from fmzoo.text.tokenizers import Tokenizer


class PromptCut(UserWarning):
    """A prompt was longer than its encoder takes, and what did not fit was cut off."""


class PromptTokenizer:
    """The tokenizers of a system's encoders, each with the length of its rows.

    Attributes:
      tokenizers: by the encoder's name.
      lengths: by the encoder's name.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer], lengths: Mapping[str, int]):
        if tokenizers.keys() != lengths.keys():
            raise InputError(
                f"tokenizers are for {sorted(tokenizers)} and lengths for {sorted(lengths)}; the same names"
            )
        self.tokenizers, self.lengths = dict(tokenizers), dict(lengths)

    def encode(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """The rows ``int32[B, T]`` of prompts for each encoder; see `prompt_rows`."""
        names = self.tokenizers
        return {name: prompt_rows(self.tokenizers[name], prompts, self.lengths[name], name) for name in names}


def prompt_rows(tokenizer: Tokenizer, prompts: Sequence[str], length: int, name: str = "the encoder") -> np.ndarray:
    """Each prompt as ``[bos] + tokens + [eos] + pads``, as far as the tokenizer has them; a long one is cut.

    Args:
      tokenizer: with a pad, since every row is filled up.
      prompts: the texts.
      length: T.
      name: of the encoder, for the warning.

    Returns:
      ``int32[B, T]``.

    Raises:
      InputError: a prompt is no text, there is no pad, or the length has no room.

    Warns:
      PromptCut: tokens of a prompt did not fit between bos and eos; the text that was cut off is named.
    """
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    room = length - len(bos) - len(eos)
    if room < 1 or tokenizer.pad_id is None:
        raise InputError(
            f"rows of {length} tokens with the pad {tokenizer.pad_id} hold no prompt; more and a pad are needed"
        )
    rows = np.full((len(prompts), length), tokenizer.pad_id, np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        if not isinstance(prompt, str):
            raise InputError(f"prompt {str(prompt)[:60]!r} is of type {type(prompt).__name__}; a text is needed")
        ids = tokenizer.encode(prompt)
        if len(ids) > room:
            lost = tokenizer.decode(ids[room:])
            sentence = f"prompt of {len(ids)} tokens is over the {room} that {name} takes; cut off: {lost[:200]!r}"
            warnings.warn(sentence, PromptCut, stacklevel=2)
        ids = [*bos, *ids[:room], *eos]
        row[: len(ids)] = ids
    return rows
