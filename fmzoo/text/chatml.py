"""A question in ChatML, the format of turns between `<|im_start|>` and `<|im_end|>`."""

import re

from fmzoo.errors import InputError
from fmzoo.text.tokenizers import Tokenizer

START, END = "<|im_start|>", "<|im_end|>"
SYSTEM = re.compile(r"<\|im_start\|>system(?:\n|\\n)(.*?)<\|im_end\|>", re.DOTALL)


def ask(template: str, question: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a conversation that begins with a question, up to where the answer starts.

    Args:
      template: the Jinja source of a chat template; its own system turn, if it has one, goes first.
      question: the user's turn.
      tokenizer: whose special tokens mark the turns.

    Raises:
      InputError: the template or the tokenizer knows no such marks.
    """
    if START not in template or not {START, END} <= tokenizer.specials.keys():
        raise InputError(f"the chat template of this model does not mark turns by {START}; no other is known")
    system = SYSTEM.search(template)
    turns = [("system", system[1])] if system and "{" not in system[1] else []
    tokens = []
    for role, content in [*turns, ("user", question)]:
        tokens += [tokenizer.specials[START], *tokenizer.encode(f"{role}\n{content}"), tokenizer.specials[END]]
        tokens += tokenizer.encode("\n")
    return [*tokens, tokenizer.specials[START], *tokenizer.encode("assistant\n")]
