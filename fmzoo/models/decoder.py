"""The decoder: embeddings, blocks of attention and feed-forward, a vocabulary head (arXiv 2307.09288, section 2)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import require
from fmzoo.models import cache as caching
from fmzoo.models.activations import ACTIVATIONS
from fmzoo.models.attention import Mask, alibi_bias, attend, attend_cudnn, attend_splash, keys_and_values, write
from fmzoo.models.config import DecoderConfig, Kind, RopeConfig
from fmzoo.models.dropout import dropout, fold
from fmzoo.models.norms import Norm
from fmzoo.models.positions import rope_angles, rotate
from fmzoo.models.projection import Weights, project, project_by_name, read
from fmzoo.parallel import constrain_rows

Array = jax.Array
Tree = dict[str, Any]

REMAT = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class View(NamedTuple):
    """What all layers of a kind share in one call."""

    mask: Mask
    seen: Array | None  # bool[B or 1, T, S], the mask in full; None where a kernel takes it in parts
    bias: Array | None  # [B or 1, N, T, S], ALiBi's
    angles: tuple[Array, Array] | None  # cos and sin [B or 1, T, R / 2]
    slots: Array | None  # int32[B, T], where the cache takes the new keys
    whole: bool  # the cache holds all that is seen once the new keys are in; else it is seen beside them


class Attention(nn.Module):
    """Projections, positions, cache and attention of one layer."""

    config: DecoderConfig
    kind: Kind

    @nn.compact
    def __call__(self, x: Array, view: View, cache: Tree | None, keys: Array | None) -> tuple[Array, Tree | None]:
        """``x [B, T, D]`` to ``[B, T, D]`` and the layer's new cache."""
        c, a = self.config, self.config.attention
        q, k, v = self._heads(x)
        if view.angles is not None:
            interleaved = _rope(c, self.kind).interleaved
            q, k = rotate(q, view.angles, interleaved), rotate(k, view.angles, interleaved)
        if cache is not None:
            old, cache = cache, write(cache, k, v, view.slots)
            beside = zip(keys_and_values(old), (k, v), strict=True)
            k, v = keys_and_values(cache) if view.whole else (jnp.concatenate(pair, axis=1) for pair in beside)
        scale = a.head_dim**-0.5 if a.scale is None else a.scale
        if view.seen is not None:
            y = attend(
                q, k, v, view.seen, scale=scale, bias=view.bias, softcap=a.logit_softcap,
                dropout_keys=fold(keys, 0), dropout_rate=a.dropout,
                in_order=view.mask.in_order, window=view.mask.window,
            )  # fmt: skip
        elif a.implementation == "cudnn":
            y = attend_cudnn(q, k, v, view.mask, scale=scale)
        else:
            y = attend_splash(
                q, k, v, view.mask, scale=scale, softcap=a.logit_softcap, interpret=jax.default_backend() == "cpu"
            )
        y = y.reshape(*x.shape[:2], a.num_heads * a.head_dim)
        return Weights(c.d_model, a.out_bias, 0.5 / c.num_layers, c.transposed_inputs, name="out")(y.shape[-1])(
            y
        ), cache

    def _heads(self, x: Array) -> tuple[Array, Array, Array]:
        """Queries ``[B, T, N, H]``, keys and values ``[B, T, K, H]``."""
        a, norm = self.config.attention, self.config.norm
        heads = {"query": a.num_heads, "key": a.num_kv_heads, "value": a.num_kv_heads}
        features = {name: n * a.head_dim for name, n in heads.items()}
        flat = project_by_name(self, x, features, use_bias=a.qkv_bias, transposing=self.config.transposed_inputs)

        def part(name: str, flat: Array) -> Array:
            if a.qk_norm == "all" and name != "value":
                flat = Norm(norm, name=f"{name}_norm")(flat)
            y = flat.reshape(*x.shape[:2], heads[name], a.head_dim)
            return Norm(norm, name=f"{name}_norm")(y) if a.qk_norm == "head" and name != "value" else y

        q, k, v = map(part, heads, flat)
        return q, k, v


class Mlp(nn.Module):
    """The feed-forward half (GLU variants: arXiv 2002.05202)."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [B, T, D]`` to ``[B, T, D]``."""
        c, m = self.config, self.config.mlp
        features = dict.fromkeys(("gate", "up") if m.gated else ("up",), m.d_ff)
        first, *rest = project_by_name(self, x, features, use_bias=m.bias, transposing=c.transposed_inputs)
        hidden = ACTIVATIONS[m.activation](first)
        hidden = hidden * rest[0] if m.gated else hidden
        return Weights(c.d_model, m.bias, 0.5 / c.num_layers, c.transposed_inputs, name="down")(m.d_ff)(hidden)


class Block(nn.Module):
    """One layer. Parallel blocks add attention and feed-forward of the same input (GPT-J; PaLM, arXiv 2204.02311)."""

    config: DecoderConfig
    kind: Kind

    @nn.compact
    def __call__(self, x: Array, view: View, cache: Tree | None, keys: Array | None) -> tuple[Array, Tree, Tree | None]:
        """``x [B, T, D]`` to ``([B, T, D], auxiliary outputs, new cache)``."""
        c, place = self.config, self.config.norm.placement

        def norm(name: str, y: Array, *places: str) -> Array:
            return Norm(c.norm, name=name)(y) if place in places else y

        y = norm("attention_norm", x, "pre", "both")
        attended, cache = Attention(c, self.kind, name="attention")(y, view, cache, keys)
        attended = dropout(norm("attention_post_norm", attended, "post", "both"), fold(keys, 1), c.dropout)
        if c.block == "sequential":
            x = x + attended
        if c.block != "parallel_shared_norm":
            y = norm("mlp_norm", x, "pre", "both")
        fed = Mlp(c, name="mlp")(y)
        fed = dropout(norm("mlp_post_norm", fed, "post", "both"), fold(keys, 2), c.dropout)
        return x + fed if c.block == "sequential" else x + attended + fed, {}, cache


class Decoder(nn.Module):
    """A decoder-only language model.

    Parameters are ``embed``, ``prefix``, ``period``, ``tail``, ``final_norm`` and ``head``, those that the config has.
    The period's have a leading axis of its repetitions whether the layers run by scan or unrolled;
    `fmzoo.models.unstack` turns it into a list for decoding.
    """

    config: DecoderConfig

    def setup(self) -> None:
        """Declares every parameter, so that any method initialises all of them."""
        c = self.config
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.embed = read(self, "embed", nn.initializers.normal(0.02), (c.vocab_size, c.d_model))
        if c.position == "learned":
            table = (c.context_length, c.d_model)
            self.position_embed = read(self, "position_embed", nn.initializers.normal(0.02), table)
        for group, kinds, copies in self._groups():
            if not self.has_variable("params", group):
                self.param(group, init_layers, c, kinds, copies)
        self.final_norm = Norm(c.norm)
        if not c.tied_head:
            self.head = read(self, "head", fan_in, (c.d_model, c.vocab_size))

    def _groups(self) -> list[tuple[str, tuple[Kind, ...], int | None]]:
        c = self.config
        groups = [("prefix", c.prefix, None), ("period", c.pattern, c.num_periods), ("tail", c.tail, None)]
        return [group for group in groups if group[1] and group[2] != 0]

    def __call__(
        self,
        tokens: Array,
        positions: Array | None = None,
        segment_ids: Array | None = None,
        cache: Tree | None = None,
        dropout_keys: Array | None = None,
    ) -> Array | tuple[Array, Tree]:
        """Next-token logits.

        Args:
          tokens: ``int32[B, T]``.
          positions: ``int32[B, T]``; None counts from 0 in each segment, or goes on from the cache.
          segment_ids: ``int32[B, T]``: tokens see only their own segment, and 0 is a pad that nothing sees. With a
            cache only pads are told from tokens.
          cache: of `init_cache`, or None.
          dropout_keys: a key for each row, ``[B]``; None is no dropout.

        Returns:
          ``logits`` ``[B, T, V]`` in float32 or better, and with a cache ``(logits, cache)``.
        """
        hidden, _, new_cache = self.features(tokens, positions, segment_ids, cache, dropout_keys)
        logits = self.unembed(hidden)
        return logits if cache is None else (logits, new_cache)

    def features(
        self,
        tokens: Array,
        positions: Array | None = None,
        segment_ids: Array | None = None,
        cache: Tree | None = None,
        dropout_keys: Array | None = None,
    ) -> tuple[Array, Tree, Tree | None]:
        """The last hidden state after the final norm ``[B, T, D]``, what the blocks report, and the cache.

        Arguments are those of `__call__`.
        """
        c, sizes = self.config, require("tokens", tokens, "B T")
        for name, value in (("positions", positions), ("segment_ids", segment_ids)):
            if value is not None:
                require(name, value, "B T", sizes)
        in_order = positions is None and cache is None
        if positions is None:
            positions = count_positions(tokens, segment_ids, cache)
        x = dropout(self._embed(tokens, positions), fold(dropout_keys, 0), c.dropout)
        if cache is not None and segment_ids is not None:
            positions, segment_ids = jnp.where(segment_ids > 0, positions, -1), None
        views, table = {}, {}
        for kind in sorted(set(c.kinds)):
            views[kind], table[kind] = look(c, kind, positions, segment_ids, cache, in_order)
        x, aux, layers = self._layers(x, views, cache, dropout_keys)
        return self.final_norm(x), aux, None if cache is None else {**cache, **layers, "position": table}

    def unembed(self, hidden: Array) -> Array:
        """Logits ``[..., V]`` of hidden states ``[..., D]``, in float32 or better."""
        c, wide = self.config, jnp.promote_types(jnp.float32, self.config.compute_dtype)
        if c.tied_head:
            table = self.embed.astype(hidden.dtype)
            logits = jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=wide)
        else:
            logits = project(hidden, self.head, wide)
        return logits if c.logit_softcap is None else c.logit_softcap * jnp.tanh(logits / c.logit_softcap)

    def _embed(self, tokens: Array, positions: Array) -> Array:
        c, dtype = self.config, self.config.compute_dtype
        x = self.embed[tokens].astype(dtype)
        if c.scaled_embedding:
            x = x * jnp.asarray(c.d_model**0.5, dtype)
        if c.position == "learned":
            x = x + self.position_embed[jnp.maximum(positions, 0)].astype(dtype)
        return x

    def _layers(self, x: Array, views: dict[Kind, View], cache: Tree | None, keys: Array | None) -> tuple:
        """Runs all blocks: ``(x, {group: {slot: reports}}, {group: {slot: cache}})``."""
        reports, caches, index = {}, {}, 0
        for group, kinds, copies in self._groups():
            params = self.get_variable("params", group)
            held = None if cache is None else cache[group]
            together = repeat_blocks if copies else run_blocks
            x, reports[group], caches[group] = together(self.config, kinds, params, x, views, held, keys, index)
            index += len(kinds) * (copies or 1)
        return x, reports, caches


def init_layers(key: Array, config: DecoderConfig, kinds: tuple[Kind, ...], copies: int | None) -> Tree:
    """Parameters ``{slot: tree}`` of one block of each kind, with a leading axis of ``copies`` unless that is None."""
    x, position = jnp.zeros((1, 1, config.d_model), config.compute_dtype), jnp.zeros((1, 1), jnp.int32)

    def one(kind: Kind, key: Array) -> Tree:
        view, _ = look(dense_attention(config), kind, position, None, None, True)
        return Block(dense_attention(config), kind, parent=None).init(key, x, view, None, None)["params"]

    keys = jax.random.split(key, (len(kinds), copies or 1))
    if copies is None:
        return {str(i): one(kind, keys[i, 0]) for i, kind in enumerate(kinds)}
    return {str(i): jax.vmap(lambda key, kind=kind: one(kind, key))(keys[i]) for i, kind in enumerate(kinds)}


def dense_attention(config: DecoderConfig) -> DecoderConfig:
    """The config with attention by XLA, which runs everywhere and at any length."""
    return dataclasses.replace(config, attention=dataclasses.replace(config.attention, implementation="xla"))


def count_positions(tokens: Array, segment_ids: Array | None, cache: Tree | None) -> Array:
    """Positions from 0 in each segment ``int32[B or 1, T]``, or on from what the cache holds, pads not counted."""
    batch, length = tokens.shape
    index = jnp.arange(length, dtype=jnp.int32)[None]
    if cache is not None:
        start = jnp.max(jnp.concatenate(list(cache["position"].values()), axis=1), axis=1, keepdims=True) + 1
        filled = jnp.ones((batch, length), jnp.int32) if segment_ids is None else (segment_ids > 0).astype(jnp.int32)
        return start + jnp.cumsum(filled, axis=1, dtype=jnp.int32) - 1
    if segment_ids is None:
        return index
    starts = jnp.concatenate([jnp.ones((batch, 1), bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1)
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def look(
    config: DecoderConfig, kind: Kind, positions: Array, segments: Array | None, cache: Tree | None, in_order: bool
) -> tuple[View, Array | None]:
    """What layers of a kind share in this call, and the positions that their cache then holds."""
    attention, window = config.attention, config.attention.window if kind == "local" else None
    table = slots = None
    seen_positions, whole = positions, True
    if cache is not None:
        old = cache["position"][kind]
        slots = caching.choose_slots(positions, old.shape[1], ring=window is not None)
        table = caching.write_positions(old, positions, slots)
        whole = window is None or positions.shape[1] == 1
        seen_positions = table if whole else jnp.concatenate([old, positions], axis=1)
    mask = Mask(positions, seen_positions, segments, segments, window, in_order)
    plain = cache is not None or attention.implementation == "xla"
    bias = alibi_bias(mask, attention.num_heads, config.compute_dtype) if config.position == "alibi" else None
    angles = None
    if config.position == "rope":
        angles = rope_angles(_rope(config, kind), attention.head_dim, positions, config.compute_dtype)
    return View(mask, mask.dense() if plain else None, bias, angles, slots, whole), table


def _rope(config: DecoderConfig, kind: Kind) -> RopeConfig:
    return config.local_rope if kind == "local" and config.local_rope is not None else config.rope


def run_blocks(
    config: DecoderConfig,
    kinds: tuple[Kind, ...],
    params: Tree,
    x: Array,
    views: dict[Kind, View],
    cache: Tree | None,
    keys: Array | None,
    index: Array | int,
) -> tuple[Array, Tree, Tree]:
    """Runs one block after another; ``index`` is the first one's place in the network, which keys its dropout."""
    reports, caches = {}, {}
    for i, kind in enumerate(kinds):
        block = Block(config, kind, parent=None)

        def run(
            params: Tree, x: Array, view: View, held: Tree | None, key: Array | None, block: Block = block
        ) -> tuple:
            return block.apply({"params": params}, x, view, held, key)

        if config.remat != "none":
            run = jax.checkpoint(run, policy=REMAT[config.remat], prevent_cse=config.layers == "unrolled")
        held = None if cache is None else cache[str(i)]
        key = fold(keys, index + i + 1)
        x, reports[str(i)], caches[str(i)] = run(params[str(i)], constrain_rows(x), views[kind], held, key)
    return x, reports, caches


def repeat_blocks(
    config: DecoderConfig,
    kinds: tuple[Kind, ...],
    params: Tree,
    x: Array,
    views: dict[Kind, View],
    cache: Tree | None,
    keys: Array | None,
    index: int,
) -> tuple[Array, Tree, Tree]:
    """Runs the period as often as it is stacked, by `lax.scan` or unrolled; a list of layers is always unrolled."""

    def body(carry: tuple[Array, Array | int], layer: tuple[Tree, Tree | None]) -> tuple:
        x, index = carry
        x, reports, caches = run_blocks(config, kinds, layer[0], x, views, layer[1], keys, index)
        return (x, index + len(kinds)), (reports, caches)

    listed = isinstance(params["0"], list)
    if config.layers == "scan" and not listed:
        (x, _), (reports, caches) = jax.lax.scan(body, (x, jnp.int32(index)), (params, cache))
        return x, reports, caches
    carry, outputs = (x, index), []
    held = caching.split_layers(cache) if cache is not None else None
    for i, layer in enumerate(caching.split_layers(params)):
        carry, output = body(carry, (layer, None if held is None else held[i]))
        outputs.append(output)
    reports = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(r for r, _ in outputs))
    caches = [c for _, c in outputs]
    if cache is not None and isinstance(cache["0"], list):
        return carry[0], reports, {slot: [c[slot] for c in caches] for slot in cache}
    return carry[0], reports, jax.tree.map(lambda *leaves: jnp.stack(leaves), *caches)
