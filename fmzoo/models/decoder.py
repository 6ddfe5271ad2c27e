"""The decoder: embeddings, blocks of attention and feed-forward, a vocabulary head (arXiv 2307.09288, section 2)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.errors import require
from fmzoo.models import cache as caching
from fmzoo.models.attention import INSIDE, attend, attend_cudnn, attend_splash, keys_and_values, weigh, write
from fmzoo.models.config import DecoderConfig, Kind
from fmzoo.models.dropout import dropout, fold
from fmzoo.models.experts import Experts
from fmzoo.models.latent_attention import LatentAttention
from fmzoo.models.mlp import Mlp
from fmzoo.models.norms import Norm
from fmzoo.models.positions import rotate, sinusoids
from fmzoo.models.projection import Weights, project, project_by_name, read
from fmzoo.models.transposed import Transposed
from fmzoo.models.view import View, count_positions, look, rope_of
from fmzoo.parallel import constrain_rows

Array = jax.Array
Tree = dict[str, Any]

REMAT = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


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
            interleaved = rope_of(c, self.kind).interleaved
            q, k = rotate(q, view.angles, interleaved), rotate(k, view.angles, interleaved)
        if cache is not None:
            old, cache = cache, write(cache, k, v, view.slots)
            beside = zip(keys_and_values(old), (k, v), strict=True)
            k, v = keys_and_values(cache) if view.whole else (jnp.concatenate(pair, axis=1) for pair in beside)
        scale = a.head_dim**-0.5 if a.scale is None else a.scale
        if self.is_mutable_collection(INSIDE) and not self.is_initializing():
            self.sow(INSIDE, "weights", weigh(q, k, view.seen, scale=scale, bias=view.bias, softcap=a.logit_softcap))
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


class Block(nn.Module):
    """One layer. Parallel blocks add attention and feed-forward of the same input (GPT-J; PaLM, arXiv 2204.02311)."""

    config: DecoderConfig
    kind: Kind
    sparse: bool = False  # it has the config's experts

    @nn.compact
    def __call__(self, x: Array, view: View, cache: Tree | None, keys: Array | None) -> tuple[Array, Tree, Tree | None]:
        """``x [B, T, D]`` to ``([B, T, D], what its router reports, new cache)``."""
        c, place = self.config, self.config.norm.placement

        def norm(name: str, y: Array, *places: str) -> Array:
            return Norm(c.norm, name=name)(y) if place in places else y

        y = norm("attention_norm", x, "pre", "both")
        attention = Attention if c.attention.latent is None else LatentAttention
        attended, cache = attention(c, self.kind, name="attention")(y, view, cache, keys)
        attended = dropout(norm("attention_post_norm", attended, "post", "both"), fold(keys, 1), c.dropout)
        if c.block == "sequential":
            x = norm("attention_norm", x + attended, "residual")
        if c.block != "parallel_shared_norm":
            y = norm("mlp_norm", x, "pre", "both")
        if self.sparse:
            fed, reports = Experts(c, name="experts")(y, view.mask.queried())
        else:
            fed, reports = Mlp(c, name="mlp")(y), {}
        fed = dropout(norm("mlp_post_norm", fed, "post", "both"), fold(keys, 2), c.dropout)
        x = x + fed if c.block == "sequential" else x + attended + fed
        return norm("mlp_norm", x, "residual"), reports, cache


class Decoder(nn.Module):
    """A decoder-only language model.

    Parameters are ``embed``, ``embed_in``, ``embed_norm``, ``position_embed``, ``prefix``, ``period``, ``tail``,
    ``final_norm``, ``embed_out``, ``head`` and ``head_bias``, those that the config has. The period's have a leading
    axis of its repetitions whether the layers run by scan or unrolled; `fmzoo.models.unstack` turns it into a list for
    decoding.
    """

    config: DecoderConfig

    def setup(self) -> None:
        """Declares every parameter, so that any method initialises all of them."""
        c = self.config
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        width = c.embed_dim or c.d_model
        self.embed = read(self, "embed", nn.initializers.normal(0.02), (c.vocab_size, width))
        if c.embed_dim is not None:
            self.embed_in = read(self, "embed_in", fan_in, (width, c.d_model))
            self.embed_out = read(self, "embed_out", fan_in, (c.d_model, width))
        if c.position == "learned":
            table = (c.context_length + c.position_offset, c.d_model)
            self.position_embed = read(self, "position_embed", nn.initializers.normal(0.02), table)
        for group, config, kinds, copies in self.groups():
            if not self.has_variable("params", group):
                self.param(group, init_layers, config, kinds, copies)
        self.embed_norm = Norm(c.norm) if c.embed_norm else None
        self.final_norm = Norm(c.norm) if c.final_norm else None
        if not c.tied_head:
            self.head = read(self, "head", fan_in, (width, c.vocab_size))
        elif self.has_variable("params", "tied_head"):
            self.tied_head = self.get_variable("params", "tied_head")
        if c.head_bias:
            self.head_bias = read(self, "head_bias", nn.initializers.zeros, (c.vocab_size,))

    def groups(self) -> list[tuple[str, DecoderConfig, tuple[Kind, ...], int | None]]:
        """Name, config, kinds and copies of each group of layers; only the prefix has layers without experts."""
        c, rest = self.config, self.config
        if c.dense_layers:
            rest = dataclasses.replace(c, experts=dataclasses.replace(c.experts, dense_layers=0))
        period = ("period", rest, c.pattern, c.num_periods)
        groups = [("prefix", c, c.prefix, None), period, ("tail", rest, c.tail, None)]
        return [group for group in groups if group[2] and group[3] != 0]

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
        x = dropout(self.embed_tokens(tokens, positions), fold(dropout_keys, 0), c.dropout)
        if cache is not None and segment_ids is not None:
            positions, segment_ids = jnp.where(segment_ids > 0, positions, -1), None
        views, table = {}, {}
        for kind in sorted(set(c.kinds)):
            views[kind], table[kind] = look(c, kind, positions, segment_ids, cache, in_order)
        x, aux, layers = self._layers(x, views, cache, dropout_keys)
        hidden = x if self.final_norm is None else self.final_norm(x)
        return hidden, aux, None if cache is None else {**cache, **layers, "position": table}

    def unembed(self, hidden: Array) -> Array:
        """Logits ``[..., V]`` of hidden states ``[..., D]``, in float32 or better."""
        c, wide = self.config, jnp.promote_types(jnp.float32, self.config.compute_dtype)
        if c.embed_dim is not None:
            hidden = project(hidden, self.embed_out)
        logits = project(hidden, self._head(), wide)
        if c.head_bias:
            logits = logits + self.head_bias.astype(wide)
        return logits if c.logit_softcap is None else c.logit_softcap * jnp.tanh(logits / c.logit_softcap)

    def _head(self) -> Any:
        """The weight ``[D, V]``: that of a tied head if it is held in another form, else the embedding."""
        if not self.config.tied_head:
            return self.head
        return self.tied_head if self.has_variable("params", "tied_head") else Transposed(self.embed)

    def embed_tokens(self, tokens: Array, positions: Array) -> Array:
        """What the first layer reads ``[B, T, D]``, in the compute dtype; positions are ``int32[B or 1, T]``."""
        c, dtype = self.config, self.config.compute_dtype
        x = self.embed[tokens].astype(dtype)
        if c.scaled_embedding:
            x = x * jnp.asarray(c.d_model**0.5, dtype)
        if c.embed_dim is not None:
            x = project(x, self.embed_in)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        rows = jnp.maximum(positions, 0) + c.position_offset
        if c.position == "learned":
            x = x + self.position_embed[rows].astype(dtype)
        if c.position == "sinusoidal":
            x = x + sinusoids(rows, c.d_model, dtype)
        return x

    def _layers(self, x: Array, views: dict[Kind, View], cache: Tree | None, keys: Array | None) -> tuple:
        """Runs all blocks: ``(x, {group: {slot: reports}}, {group: {slot: cache}})``."""
        reports, caches, index = {}, {}, 0
        for group, config, kinds, copies in self.groups():
            params = self.get_variable("params", group)
            held = None if cache is None else cache[group]
            together = repeat_blocks if copies else run_blocks
            x, reports[group], caches[group] = together(config, kinds, params, x, views, held, keys, index)
            index += len(kinds) * (copies or 1)
        return x, reports, caches


def init_layers(key: Array, config: DecoderConfig, kinds: tuple[Kind, ...], copies: int | None) -> Tree:
    """Parameters ``{slot: tree}`` of one block of each kind, with a leading axis of ``copies`` unless that is None."""
    x, position = jnp.zeros((1, 1, config.d_model), config.compute_dtype), jnp.zeros((1, 1), jnp.int32)

    def one(i: int, kind: Kind, key: Array) -> Tree:
        view, _ = look(dense_attention(config), kind, position, None, None, True)
        return make_block(dense_attention(config), i, kind).init(key, x, view, None, None)["params"]

    keys = jax.random.split(key, (len(kinds), copies or 1))
    if copies is None:
        return {str(i): one(i, kind, keys[i, 0]) for i, kind in enumerate(kinds)}
    return {str(i): jax.vmap(functools.partial(one, i, kind))(keys[i]) for i, kind in enumerate(kinds)}


def make_block(config: DecoderConfig, slot: int, kind: Kind) -> Block:
    """The module of the layer that stands in a slot of its group."""
    return Block(config, kind, config.experts is not None and slot >= config.dense_layers, parent=None)


def dense_attention(config: DecoderConfig) -> DecoderConfig:
    """The config with attention by XLA, which runs everywhere and at any length."""
    return dataclasses.replace(config, attention=dataclasses.replace(config.attention, implementation="xla"))


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
        block = make_block(config, i, kind)

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
