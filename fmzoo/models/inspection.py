"""Inside a decoder: what each layer reads and where each head looks, and the same run with something changed."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmzoo.models.attention import INSIDE
from fmzoo.models.cache import split_layers
from fmzoo.models.config import Kind
from fmzoo.models.decoder import Block, Decoder, dense_attention, make_block
from fmzoo.models.view import count_positions, look

Array = jax.Array
Tree = dict[str, Any]
Edit = Callable[[int, Array], Array]


class Inside(NamedTuple):
    """What a decoder computes on its way.

    Attributes:
      residuals: ``[L + 1, B, T, D]``: what layer l reads, and last what the final norm reads.
      weights: ``[L, B, N, T, T]``: how much of each token each head of a layer takes; rows sum to 1.
      logits: ``[B, T, V]``.
    """

    residuals: Array
    weights: Array
    logits: Array


def look_inside(
    module: Decoder,
    params: Tree,
    tokens: Array,
    positions: Array | None = None,
    segment_ids: Array | None = None,
    edit: Edit | None = None,
) -> Inside:
    """One pass over the tokens, layer after layer, with all that it computes on its way.

    Pure, so that it can be compiled, mapped and differentiated. To change a weight, change ``params``.

    Args:
      module: a decoder.
      params: its parameters, stacked or a list of layers.
      tokens: ``int32[B, T]``.
      positions: as in `Decoder`.
      segment_ids: as in `Decoder`; what stands in ``weights`` for a pad means nothing.
      edit: ``(l, residuals[l]) -> residuals[l]`` for l from 0 to L: what is read there instead.
    """
    edit = edit or (lambda layer, x: x)

    def run(decoder: Decoder, tokens: Array, positions: Array | None, segment_ids: Array | None) -> Inside:
        c, in_order = decoder.config, positions is None
        positions = count_positions(tokens, segment_ids, None) if in_order else positions
        plain = dense_attention(c)
        views = {kind: look(plain, kind, positions, segment_ids, None, in_order)[0] for kind in set(c.kinds)}
        residuals, weights = [edit(0, decoder.embed_tokens(tokens, positions))], []
        for number, (block, layer, kind) in enumerate(_layers(decoder), 1):
            (x, _, _), kept = block.apply({"params": layer}, residuals[-1], views[kind], None, None, mutable=[INSIDE])
            weights.append(kept[INSIDE]["attention"]["weights"][0])
            residuals.append(edit(number, x))
        return Inside(jnp.stack(residuals), jnp.stack(weights), _read_out(decoder, residuals[-1]))

    return module.apply({"params": params}, tokens, positions, segment_ids, method=run)


def logit_lens(module: Decoder, params: Tree, residuals: Array) -> Array:
    """Logits ``[..., V]`` that the final norm and the head make of residuals ``[..., D]`` of any layer.

    A layer's are not what the model says, but what it would say if it ended there (nostalgebraist, "interpreting GPT:
    the logit lens", 2020).
    """
    return module.apply({"params": params}, residuals, method=_read_out)


def _read_out(decoder: Decoder, hidden: Array) -> Array:
    return decoder.unembed(hidden if decoder.final_norm is None else decoder.final_norm(hidden))


def _layers(decoder: Decoder) -> Iterator[tuple[Block, Tree, Kind]]:
    """Every layer in order: its module, its parameters and its kind."""
    for group, config, kinds, copies in decoder.groups():
        params = decoder.get_variable("params", group)
        for layers in split_layers(params) if copies else [params]:
            for slot, kind in enumerate(kinds):
                yield make_block(dense_attention(config), slot, kind), layers[str(slot)], kind
