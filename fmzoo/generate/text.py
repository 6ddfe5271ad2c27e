"""Text from text: prompts of any lengths in one batch, stop strings, and pieces of text as they come."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.errors import InputError
from fmzoo.generate.answers import Answer, Completion
from fmzoo.generate.decoding import Decoded, Rules, advance, begin, check_room, for_decoding, make_rules
from fmzoo.generate.sampling import SamplingConfig
from fmzoo.models import Pretrained

Prompt = str | Sequence[int]
CHUNK = 8  # tokens between two looks at the text


def text(
    pretrained: Pretrained,
    prompts: Prompt | Sequence[Prompt],
    key: jax.Array,
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: str | Sequence[str] = (),
    example_ids: Sequence[int] | None = None,
    sharding: jax.sharding.Sharding | None = None,
    on_text: Callable[[int, str], None] | None = None,
) -> list[Completion]:
    """Continues prompts.

    A row's answer depends on its prompt, its example id and the key, not on the rows beside it. Prompt lengths and
    ``max_new_tokens`` are rounded up to a few shapes, so that other prompts seldom compile anew.

    Args:
      pretrained: a decoder, with a tokenizer if prompts or stops are text; for many calls, its parameters best of
        `for_decoding`.
      prompts: one or several; a text gets the tokenizer's bos in front if there is one, token ids stay as they are.
      key: of all randomness.
      max_new_tokens: the longest answer.
      temperature: 0 is greedy; this and the next four are the fields of `SamplingConfig`.
      top_k: None is all tokens.
      top_p: None is all tokens.
      min_p: None is all tokens.
      repetition_penalty: 1 is none.
      stop: texts that end an answer and are cut off, however they fall into tokens; a special token's name ends it by
        its id. The tokenizer's eos and the model's `stop_ids` always do.
      example_ids: a number for each prompt that its key is folded with; None is its place in the list.
      sharding: of rows over devices, such as ``NamedSharding(mesh, P("data"))``; the parameters' own is kept.
      on_text: called with a prompt's place and a piece of its answer as soon as that is certain.

    Returns:
      A `Completion` for each prompt.

    Raises:
      InputError: no prompt, an empty prompt, a token out of range, no tokenizer for text, prompt and answer longer than
        the context, or a sampling number out of range.
    """
    sampling = SamplingConfig(temperature, top_k, top_p, min_p, repetition_penalty)
    task = _plan(pretrained, prompts, key, max_new_tokens, sampling, stop, example_ids, sharding)
    if on_text is not None:
        _require_tokenizer(pretrained, "on_text")
    for row, piece in task.run(CHUNK if on_text is not None or task.stops else max_new_tokens):
        if on_text is not None:
            on_text(row, piece)
    out = task.output
    rows = zip(task.answers, out.tokens, out.log_probs, out.model_log_probs, strict=True)
    return [answer.completion(*arrays) for answer, *arrays in rows]


def stream(
    pretrained: Pretrained, prompt: Prompt, key: jax.Array, *, max_new_tokens: int = 128, chunk: int = CHUNK,
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, min_p: float | None = None,
    repetition_penalty: float = 1.0, stop: str | Sequence[str] = (), example_id: int = 0,
) -> Iterator[str]:  # fmt: skip
    """Continues one prompt and gives its answer in pieces; joined, they are the text of `text`.

    A piece is of whole characters, and nothing of a stop string ever shows. Arguments and errors are those of `text`;
    bad ones are refused before the first piece is asked for.

    Args:
      pretrained: a decoder with a tokenizer.
      prompt: a text or token ids.
      key: of all randomness.
      max_new_tokens: the longest answer.
      chunk: how many tokens are drawn for each piece; 1 is soonest, more is faster.
      temperature: as in `text`.
      top_k: as in `text`.
      top_p: as in `text`.
      min_p: as in `text`.
      repetition_penalty: as in `text`.
      stop: as in `text`.
      example_id: a number that the key is folded with.
    """
    sampling = SamplingConfig(temperature, top_k, top_p, min_p, repetition_penalty)
    _require_tokenizer(pretrained, "stream")
    if chunk < 1:
        raise InputError(f"chunk is {chunk}; at least 1 is needed")
    task = _plan(pretrained, [prompt], key, max_new_tokens, sampling, stop, [example_id], None)
    return (piece for _, piece in task.run(chunk))


@dataclasses.dataclass
class _Task:
    """All that is known before the first token is drawn; `run` fills in ``output``."""

    pretrained: Pretrained
    rules: Rules
    tokens: jax.Array
    segment_ids: jax.Array
    max_new_tokens: int
    stops: list[str]
    answers: list[Answer]
    output: Decoded | None = None

    def run(self, chunk: int) -> Iterator[tuple[int, str]]:
        """Draws tokens, ``chunk`` at a time, and yields places of prompts with pieces of answers."""
        module, params = self.pretrained.module, for_decoding(self.pretrained.params)
        capacity = bucket(self.max_new_tokens)
        slots = min(self.tokens.shape[1] + capacity, module.config.context_length)
        state = begin(module, params, self.rules, self.tokens, self.segment_ids, capacity=capacity, slots=slots)
        until = 1
        while True:
            self.output = jax.tree.map(np.array, state.output)
            yield from self._listen()
            ended = np.array([answer.ended_by is not None for answer in self.answers])
            if until == self.max_new_tokens or ended.all():
                break
            if (ended & ~self.output.ended).any():
                state = state.replace(output=state.output.replace(ended=state.output.ended | ended))
            until = min(until + chunk, self.max_new_tokens)
            state = advance(module, params, self.rules, state, jnp.int32(until))
        for row, answer in enumerate(self.answers):
            if piece := answer.finish("length"):
                yield row, piece

    def _listen(self) -> Iterator[tuple[int, str]]:
        """Gives each answer its new tokens."""
        for row, answer in enumerate(self.answers):
            new = self.output.tokens[row, answer.length : self.output.length[row]]
            if answer.ended_by is None and (piece := answer.push(new.tolist())):
                yield row, piece


def _plan(
    pretrained: Pretrained,
    prompts: Prompt | Sequence[Prompt],
    key: jax.Array,
    max_new_tokens: int,
    sampling: SamplingConfig,
    stop: str | Sequence[str],
    example_ids: Sequence[int] | None,
    sharding: jax.sharding.Sharding | None,
) -> _Task:
    rows = encode_rows(pretrained, prompts)
    check_room(pretrained.config.context_length, max(map(len, rows)), max_new_tokens)
    stop_ids, stops = _split_stops(pretrained, stop)
    keys = row_keys(key, len(rows), example_ids)
    tokens, segment_ids = pad_rows(rows, min(bucket(max(map(len, rows))), pretrained.config.context_length))
    if sharding is not None:
        tokens, segment_ids, keys = jax.device_put((tokens, segment_ids, keys), sharding)
    answers = [Answer(pretrained.tokenizer, row, stop_ids, stops) for row in rows]
    rules = make_rules(keys, sampling, stop_ids, 0)
    return _Task(pretrained, rules, tokens, segment_ids, max_new_tokens, stops, answers)


def encode_rows(pretrained: Pretrained, prompts: Prompt | Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each prompt, checked."""
    if isinstance(prompts, str) or (len(prompts) and isinstance(prompts[0], int | np.integer)):
        prompts = [prompts]
    if not len(prompts):
        raise InputError("prompts is an empty list; at least one prompt is needed")
    rows, vocab_size = [], pretrained.config.vocab_size
    for place, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            tokenizer = _require_tokenizer(pretrained, f"prompt {place}")
            rows.append([*([] if tokenizer.bos_id is None else [tokenizer.bos_id]), *tokenizer.encode(prompt)])
        else:
            rows.append([int(token) for token in prompt])
        if not rows[-1]:
            raise InputError(f"prompt {place} is empty; at least one token is needed, or a tokenizer with a bos")
        wrong = [token for token in rows[-1] if not 0 <= token < vocab_size]
        if wrong:
            raise InputError(f"prompt {place} holds token {wrong[0]}; tokens from 0 to {vocab_size - 1} are accepted")
    return rows


def _require_tokenizer(pretrained: Pretrained, what: str) -> object:
    if pretrained.tokenizer is None:
        raise InputError(f"{what} is text and the model has no tokenizer; token ids and no text options are accepted")
    return pretrained.tokenizer


def _split_stops(pretrained: Pretrained, stop: str | Sequence[str]) -> tuple[list[int], list[str]]:
    """Ids and texts that end an answer."""
    stops = [stop] if isinstance(stop, str) else list(stop)
    if "" in stops:
        raise InputError("stop holds an empty text; texts of at least one character are needed")
    if stops:
        _require_tokenizer(pretrained, "stop")
    tokenizer = pretrained.tokenizer
    eos = getattr(tokenizer, "eos_id", None)
    specials = getattr(tokenizer, "specials", {})
    ids = {specials[s] for s in stops if s in specials} | {*pretrained.stop_ids} | ({eos} if eos is not None else set())
    return sorted(ids), [s for s in stops if s not in specials]


def row_keys(key: jax.Array, count: int, example_ids: Sequence[int] | None) -> jax.Array:
    """A key for each row, ``[count]``, by its example id; None is its place."""
    ids = jnp.arange(count) if example_ids is None else jnp.asarray(example_ids)
    if ids.shape != (count,):
        raise InputError(f"example_ids has {ids.size} numbers for {count} prompts; one for each is needed")
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)


def bucket(size: int) -> int:
    """The next of 16, 32, 64, 128 and then every 128, so that few shapes are ever compiled."""
    return -(-size // 128) * 128 if size > 128 else max(16, 1 << (size - 1).bit_length())


def pad_rows(rows: list[list[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """``tokens`` and ``segment_ids``, ``int32[B, length]``, pads behind."""
    tokens, segment_ids = np.zeros((2, len(rows), length), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], segment_ids[i, : len(row)] = row, 1
    return tokens, segment_ids
