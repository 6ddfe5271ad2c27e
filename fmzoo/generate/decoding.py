"""Decoding on arrays: one pass over the prompts fills the cache, then a loop draws a token a row at a time."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from fmzoo.errors import InputError, require
from fmzoo.generate.sampling import SamplingConfig, draw
from fmzoo.models import init_cache, join_projections, transpose_kernels, unstack

Array = jax.Array
GREEDY = SamplingConfig(temperature=0.0)


class Decoded(struct.PyTreeNode):
    """Answers; what stands after a row's end is a pad with log-prob 0.

    Attributes:
      tokens: ``int32[B, N]``; the stop id that ended a row is its last token.
      length: ``int32[B]``, how many tokens were drawn.
      log_probs: ``[B, N]``, of each token under the distribution that it was drawn from: after penalty, temperature and
        limits (0 where greedy). The behaviour policy's, for importance ratios of what the sampler did.
      model_log_probs: ``[B, N]``, of each token under the model itself, at temperature 1 and without limits: what a
        forward pass over prompt and answer gives. Equal to ``log_probs`` if nothing but temperature 1 was asked for.
      ended: ``bool[B]``, whether a stop id was drawn.
    """

    tokens: Array
    length: Array
    log_probs: Array
    model_log_probs: Array
    ended: Array


class State(struct.PyTreeNode):
    """Between two tokens: the last token is drawn but has not been read yet."""

    output: Decoded
    step: Array  # int32[], tokens drawn so far
    token: Array  # int32[B], the last one
    position: Array  # int32[B], where it stands
    seen: Array | None  # bool[B, V], tokens of prompt and answer, held for the repetition penalty
    cache: Any


class Rules(struct.PyTreeNode):
    """What stays the same all along."""

    keys: Array  # [B]
    active: dict[str, Array]  # of SamplingConfig.active
    stop_ids: Array  # int32[any]
    pad_id: Array  # int32[]


def decode(
    module: nn.Module,
    params: Any,
    tokens: Array,
    segment_ids: Array | None,
    keys: Array,
    *,
    max_new_tokens: int,
    sampling: SamplingConfig = GREEDY,
    stop_ids: Sequence[int] = (),
    pad_id: int = 0,
) -> Decoded:
    """Continues prompts, a row each, with a key each, until a stop id or the limit.

    A row's answer depends on its own prompt and key alone: token n is drawn with ``fold_in(key, n)``. Inputs may be
    sharded over a mesh; the loop then runs there. Callable inside another jitted function.

    Args:
      module: a decoder.
      params: its parameters; of `for_decoding` nothing is copied.
      tokens: ``int32[B, T]``, prompts with pads before, after or between.
      segment_ids: ``int32[B, T]``, 0 for a pad and 1 for a token; None is no pads.
      keys: ``[B]``.
      max_new_tokens: N.
      sampling: how a token is drawn.
      stop_ids: end a row.
      pad_id: fills up rows that ended.

    Raises:
      InputError: shapes do not fit, or T + N is more than the context length.
    """
    sizes = require("tokens", tokens, "B T")
    require("keys", keys, "B", sizes)
    segment_ids = jnp.ones_like(tokens) if segment_ids is None else segment_ids
    require("segment_ids", segment_ids, "B T", sizes)
    check_room(module.config.context_length, sizes["T"], max_new_tokens)
    rules = make_rules(keys, sampling, stop_ids, pad_id)
    slots = sizes["T"] + max_new_tokens
    params = for_decoding(params)
    return _decode(module, params, rules, tokens, segment_ids, capacity=max_new_tokens, slots=slots)


def check_room(context_length: int, prompt: int, new: int) -> None:
    """Raises InputError unless prompt and answer fit the context."""
    if new < 1:
        raise InputError(f"max_new_tokens is {new}; at least 1 is needed")
    if prompt + new > context_length:
        raise InputError(
            f"a prompt of {prompt} tokens and max_new_tokens={new} make {prompt + new}; "
            f"at most context_length={context_length} is accepted"
        )


def make_rules(keys: Array, sampling: SamplingConfig, stop_ids: Sequence[int], pad_id: int) -> Rules:
    """Rules of arrays, so that other numbers in them compile nothing anew."""
    return Rules(keys, sampling.active(), jnp.asarray(list(stop_ids), jnp.int32), jnp.int32(pad_id))


def for_decoding(params: Any) -> Any:
    """A copy of a decoder's parameters that is quicker to decode with; one that has been made already is given back.

    Layers are a list (`fmzoo.models.unstack`). On one device projections of one input are joined
    (`fmzoo.models.join_projections`), and on a CPU kernels lie transposed (`fmzoo.models.transpose_kernels`).
    `decode` and `fmzoo.generate.text` make it at each call for parameters as they are trained or loaded; whoever calls
    them often makes it once and passes that.
    """
    if all(isinstance(layers, list) for layers in (params.get("period") or {}).values()):
        return params
    return _lay_out(params, whole=all(map(_is_whole, jax.tree.leaves(params))), cpu=jax.default_backend() == "cpu")


def _is_whole(leaf: Any) -> bool:
    """Whether an array is known to be on one device."""
    return not isinstance(leaf, jax.core.Tracer) and (isinstance(leaf, np.ndarray) or len(leaf.devices()) == 1)


@functools.partial(jax.jit, static_argnames=("whole", "cpu"))
def _lay_out(params: Any, whole: bool, cpu: bool) -> Any:
    params = unstack(params)
    if not whole:
        return params
    params = join_projections(params)
    return transpose_kernels(params) if cpu else params


@functools.partial(jax.jit, static_argnames=("module", "capacity", "slots"))
def begin(
    module: nn.Module, params: Any, rules: Rules, tokens: Array, segment_ids: Array, *, capacity: int, slots: int
) -> State:
    """Reads the prompts and draws the first token of each row.

    Args:
      module: a decoder.
      params: of `for_decoding`.
      rules: of `make_rules`.
      tokens: ``int32[B, T]``.
      segment_ids: ``int32[B, T]``, 0 for a pad.
      capacity: N, for how many new tokens there is room.
      slots: S, for how many tokens of a row, old and new, the cache has room.
    """
    batch, real = tokens.shape[0], segment_ids > 0
    logits, cache = read_prompts(module, params, tokens, segment_ids, slots)
    seen = None
    if "repetition_penalty" in rules.active:
        seen = jnp.zeros(logits.shape, bool).at[jnp.arange(batch)[:, None], tokens].max(real)
    none = jnp.zeros((batch, capacity), logits.dtype)
    ended = jnp.zeros(batch, bool)
    pads = jnp.full((batch, capacity), rules.pad_id, jnp.int32)
    output = Decoded(pads, jnp.zeros(batch, jnp.int32), none, none, ended)
    position = jnp.sum(real, axis=1, dtype=jnp.int32) - 1
    state = State(output, jnp.int32(0), jnp.zeros(batch, jnp.int32), position, seen, cache)
    return _draw(rules, state, logits)


def read_prompts(module: nn.Module, params: Any, tokens: Array, segment_ids: Array, slots: int) -> tuple[Array, Any]:
    """Logits ``[B, V]`` after the last token of each prompt, and the cache; arguments as in `begin`."""
    batch, length = tokens.shape
    cache = init_cache(module.config, batch, slots, stacked=False)
    hidden, _, cache = module.apply({"params": params}, tokens, None, segment_ids, cache, method="features")
    last = jnp.max(jnp.where(segment_ids > 0, jnp.arange(length), 0), axis=1)
    return module.apply({"params": params}, hidden[jnp.arange(batch), last], method="unembed"), cache


@functools.partial(jax.jit, static_argnames="module", donate_argnames="state")
def advance(module: nn.Module, params: Any, rules: Rules, state: State, until: Array) -> State:
    """Draws on until ``until`` tokens a row are drawn in all, or every row has ended; the state is used up."""

    def unfinished(state: State) -> Array:
        return (state.step < until) & ~jnp.all(state.output.ended)

    def body(state: State) -> State:
        hidden, _, cache = module.apply(
            {"params": params}, state.token[:, None], state.position[:, None], None, state.cache, method="features"
        )
        logits = module.apply({"params": params}, hidden[:, 0], method="unembed")
        return _draw(rules, state.replace(cache=cache), logits)

    return jax.lax.while_loop(unfinished, body, state)


@functools.partial(jax.jit, static_argnames=("module", "capacity", "slots"))
def _decode(module: nn.Module, params: Any, rules: Rules, tokens: Array, segment_ids: Array, **room: int) -> Decoded:
    state = begin(module, params, rules, tokens, segment_ids, **room)
    return advance(module, params, rules, state, jnp.int32(room["capacity"])).output


def _draw(rules: Rules, state: State, logits: Array) -> State:
    """Draws a token for each row that has not ended, and writes it down."""
    out, rows = state.output, jnp.arange(logits.shape[0])
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(rules.keys, state.step)
    token, *log_probs = draw(logits, keys, state.seen, rules.active)
    token = jnp.where(out.ended, rules.pad_id, token)
    log_probs = [jnp.where(out.ended, 0, value) for value in log_probs]

    def put(table: Array, column: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(table, column[:, None], state.step, axis=1)

    output = Decoded(
        tokens=put(out.tokens, token),
        length=out.length + ~out.ended,
        log_probs=put(out.log_probs, log_probs[0]),
        model_log_probs=put(out.model_log_probs, log_probs[1]),
        ended=out.ended | jnp.any(token[:, None] == rules.stop_ids, axis=1),
    )
    seen = None if state.seen is None else state.seen.at[rows, token].max(~out.ended)
    return State(output, state.step + 1, token, state.position + 1, seen, state.cache)
