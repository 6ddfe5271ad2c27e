"""What an answer may be: a JSON schema, a regular expression or a grammar, by the token masks of `llguidance`.

A grammar alone lets a model run out of tokens inside a string. Here every token that is drawn leaves room for an ending
that is known, so the answer is complete whatever the model does.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmzoo.errors import InputError
from fmzoo.text import Tokenizer, token_bytes

LONGEST_ENDING = 2048  # tokens; what needs more is not accepted
WIDEST_SEARCH = 500  # beginnings tried for an ending
OUTSIDE = (False, False)
CLOSERS = (b'"', b"}", b"]", b",", b":", b"0", b"1", b"e", b"a", b" ")


class Constraint:
    """A grammar over the tokens of one tokenizer.

    Attributes:
      grammar: as `llguidance` takes it.
    """

    def __init__(self, tokenizer: Tokenizer, grammar: str, stop_ids: Sequence[int] = ()):
        """Compiles a grammar.

        Args:
          tokenizer: of the model.
          grammar: of `json_schema`, `regex` or `lark`.
          stop_ids: that end an answer besides the tokenizer's eos.

        Raises:
          InputError: the grammar is not one, or there is no token that ends an answer.
        """
        import llguidance

        self.grammar = grammar
        self._words = _words(tokenizer, tuple(stop_ids))
        self._single = {word: i for i, word in reversed(list(enumerate(self._words.tokens))) if len(word) == 1}
        matcher = llguidance.LLMatcher(_compiled(tokenizer, tuple(stop_ids)), grammar, log_level=0)
        if matcher.is_error():
            raise InputError(f"the constraint is none: {' '.join(matcher.get_error().split())[:200]}")
        self._start = matcher

    def begin(self) -> "Progress":
        """Where an answer starts."""
        return Progress(self, self._start.deep_copy())

    @property
    def eos_id(self) -> int:
        """The id that ends an answer."""
        return self._words.eos_token_id


class Progress:
    """An answer so far.

    Attributes:
      tokens: that were taken.
    """

    def __init__(
        self, constraint: Constraint, matcher: Any, tokens: Sequence[int] = (), place: tuple[bool, bool] = OUTSIDE
    ):
        self._constraint, self._matcher, self._place = constraint, matcher, place
        self.tokens = list(tokens)

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.is_accepting()

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher.is_stopped()

    def mask(self) -> np.ndarray:
        """``bool[V]``, which tokens may follow; eos where the answer is complete."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: len(self._constraint._words.tokens)].astype(bool)

    def take(self, token: int) -> None:
        """Adds a token that the mask has."""
        if not self._matcher.consume_token(token):
            raise InputError(f"token {token} cannot follow: {self._matcher.get_error()[:120]}")
        self.tokens.append(token)
        self._place = _scan(self._place, self._constraint._words.tokens[token])

    def after(self, token: int) -> "Progress":
        """A copy with one more token."""
        copy = Progress(self._constraint, self._matcher.deep_copy(), self.tokens, self._place)
        copy.take(token)
        return copy

    def ending(self, most: int = LONGEST_ENDING) -> list[int] | None:
        """A short way to a complete answer, empty if it is one; None if none of ``most`` tokens was found.

        It takes what is forced, else closes what is open: the character that closes a text or a bracket first. In JSON
        every text and list can be closed, so that is a way. Where it is none, as in grammars that nest, the shortest
        one is searched among a few candidates for each next token.
        """
        found = self._close(most)
        return self._search(most) if found is None else found

    def _close(self, most: int) -> list[int] | None:
        matcher, found, place = self._matcher.deep_copy(), [], self._place
        words = self._constraint._words.tokens
        while not matcher.is_accepting():
            step = matcher.compute_ff_tokens() or self._candidates(matcher, place)[:1]
            if not step or len(found) + len(step) > most or not matcher.consume_tokens(step):
                return None
            found += step
            place = _scan(place, b"".join(words[i] for i in step))
        return found

    def _search(self, most: int) -> list[int] | None:
        """Breadth first, which finds the shortest of what the candidates make."""
        level = [(self._matcher, self._place, [])]
        for _ in range(WIDEST_SEARCH):
            if not level:
                return None
            matcher, place, found = level.pop(0)
            if matcher.is_accepting():
                return found
            forced = matcher.compute_ff_tokens()
            steps = [forced] if forced else [[i] for i in self._candidates(matcher, place)]
            for step in steps:
                copy = matcher.deep_copy()
                if len(found) + len(step) <= most and copy.consume_tokens(step):
                    written = b"".join(self._constraint._words.tokens[i] for i in step)
                    level.append((copy, _scan(place, written), found + step))
        return None

    def _candidates(self, matcher: Any, place: tuple[bool, bool]) -> list[int]:
        """Tokens that may follow and that may help to end: those that close, then the first and the last of all."""
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little")[: len(self._constraint._words.tokens)])
        may, single = set(allowed.tolist()), self._constraint._single
        order = CLOSERS if place[0] else (*CLOSERS[1:3], CLOSERS[0], *CLOSERS[3:])
        closing = [single[character] for character in order if single.get(character) in may]
        return list(dict.fromkeys([*closing, *map(int, allowed[:1]), *map(int, allowed[-1:])]))


def json_schema(schema: Mapping[str, Any] | bool) -> str:
    """The grammar of JSON that a schema allows, with no blanks but one after a comma and a colon.

    Raises:
      InputError: it is no schema, or has what `llguidance` does not know.
    """
    import llguidance

    try:
        return llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        )
    except ValueError as error:
        raise InputError(f"the JSON schema is not usable: {' '.join(str(error).split())[:200]}") from None


def regex(pattern: str) -> str:
    """The grammar of what a regular expression matches as a whole (the syntax of Rust's `regex`)."""
    import llguidance

    return llguidance.LLMatcher.grammar_from_regex(pattern)


def lark(grammar: str) -> str:
    """A grammar in the syntax of Lark, with a rule ``start``."""
    import llguidance

    return llguidance.LLMatcher.grammar_from_lark(grammar)


def _scan(place: tuple[bool, bool], written: bytes) -> tuple[bool, bool]:
    """Whether JSON is inside a text, and just behind a backslash there, after some more bytes."""
    inside, escaped = place
    for byte in written:
        if escaped:
            escaped = False
        elif byte == 0x5C and inside:
            escaped = True
        elif byte == 0x22:
            inside = not inside
    return inside, escaped


class _Words:
    """A tokenizer as `llguidance` takes it."""

    def __init__(self, tokenizer: Tokenizer, eos_id: int):
        self.eos_token_id, self.bos_token_id = eos_id, tokenizer.bos_id
        self.special_token_ids = sorted({*tokenizer.specials.values(), eos_id})
        names = {i: name.encode() for name, i in tokenizer.specials.items()}
        spelled = token_bytes(tokenizer)
        self.tokens = [names.get(i, word) or b"<[%d]>" % i for i, word in enumerate(spelled)]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


@functools.lru_cache(maxsize=4)
def _words(tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> _Words:
    ends = [i for i in (tokenizer.eos_id, *stop_ids) if i is not None]
    if not ends:
        raise InputError("the tokenizer has no eos; one is needed to end an answer that a grammar allows")
    return _Words(tokenizer, ends[0])


@functools.lru_cache(maxsize=4)
def _compiled(tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> Any:
    import llguidance

    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_words(tokenizer, stop_ids)))
