"""A mixture of experts: a router sends each token through a few of many feed-forward networks (arXiv 1701.06538).

Two forms compute the same: ``dense`` runs every expert on every token, ``grouped`` sorts the tokens by expert and
multiplies each group by its expert's weights; where few experts are chosen at all, as in decoding, it gathers their
weights instead. No token is dropped, however many choose one expert. The product over groups is one that TPUs and GPUs
have; on CPU XLA computes it from products with every expert, so that ``dense`` is quicker there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.models.activations import ACTIVATIONS
from fmzoo.models.config import DecoderConfig
from fmzoo.models.experts_config import ExpertsConfig
from fmzoo.models.mlp import Mlp
from fmzoo.models.projection import Lora, Node, Weights, as_array, project, read

Array = jax.Array
Tree = dict[str, Any]


class Routing(NamedTuple):
    """Where tokens go.

    Attributes:
      experts: ``int32[..., k]``, distinct for each token.
      weights: ``[..., k]``, what each expert's output is multiplied by.
      probabilities: ``[..., E]`` over all experts, summing to 1: what a loss of balance is made of.
    """

    experts: Array
    weights: Array
    probabilities: Array


def route(config: ExpertsConfig, logits: Array, bias: Array | None = None) -> Routing:
    """Chooses the experts of each token (Mixtral, arXiv 2401.04088, section 2.1; DeepSeek-V3, 2412.19437, eq. 12-16).

    Args:
      config: names the scores, the groups and what becomes of the chosen scores.
      logits: ``[..., E]``, in float32 or better.
      bias: ``[E]``, added to the scores for the choice alone, or None.
    """
    scores = jax.nn.softmax(logits) if config.scores == "softmax" else jax.nn.sigmoid(logits)
    choice = jax.lax.stop_gradient(scores if bias is None else scores + bias.astype(scores.dtype))
    if config.groups > 1:
        choice = _within_best_groups(config, choice)
    chosen = jax.lax.top_k(choice, config.top_k)[1]
    weights = jnp.take_along_axis(scores, chosen, axis=-1)
    if config.renormalised:
        weights = weights / (jnp.sum(weights, axis=-1, keepdims=True) + 1e-20)
    share = scores if config.scores == "softmax" else scores / jnp.sum(scores, axis=-1, keepdims=True)
    return Routing(chosen, weights * config.scale, share)


def _within_best_groups(config: ExpertsConfig, choice: Array) -> Array:
    """Minus infinity for the experts outside of the best groups."""
    grouped = choice.reshape(*choice.shape[:-1], config.groups, -1)
    best = jax.lax.top_k(grouped, 2 if config.group_score == "top2" else 1)[0]
    kept = jax.lax.top_k(jnp.sum(best, axis=-1), config.top_groups)[1]
    inside = jnp.any(jax.nn.one_hot(kept, config.groups, dtype=bool), axis=-2)
    return jnp.where(inside[..., None], grouped, -jnp.inf).reshape(choice.shape)


def mix_dense(x: Array, routing: Routing, kernels: Tree, activation: str) -> Array:
    """Every expert on every token ``[M, D]``, weighted; arguments and result are those of `mix_grouped`."""
    each = jax.vmap(lambda kernels: _feed(x, kernels, activation, project))(kernels)  # [E, M, D]
    places = jax.nn.one_hot(routing.experts, each.shape[0], dtype=x.dtype)
    share = jnp.sum(places * routing.weights[..., None].astype(x.dtype), axis=-2)
    return jnp.einsum("me,emd->md", share, each)


def mix_grouped(x: Array, routing: Routing, kernels: Tree, activation: str) -> Array:
    """Each expert on the tokens that chose it, by a matrix product over groups of rows (`jax.lax.ragged_dot`).

    Args:
      x: ``[M, D]``.
      routing: of its rows.
      kernels: ``up [E, D, F]``, ``down [E, F, D]`` and, if experts are gated, ``gate [E, D, F]``; arrays or nodes.
      activation: by name.

    Returns:
      ``[M, D]``, the experts' outputs times their weights, summed.
    """
    rows, k = routing.experts.shape
    chosen = routing.experts.reshape(-1)
    order = jnp.argsort(chosen, stable=True)
    sizes = jnp.bincount(chosen, length=routing.probabilities.shape[-1])

    def permute(x: Array, by: Array) -> Array:
        return x.at[by].get(unique_indices=True, mode="promise_in_bounds")

    sorted_rows = permute(jnp.repeat(x, k, axis=0), order)
    fed = _feed(sorted_rows, kernels, activation, lambda x, kernel: project_groups(x, kernel, sizes))
    fed = permute(fed, jnp.argsort(order)).reshape(rows, k, -1)
    return jnp.sum(fed * routing.weights[..., None].astype(x.dtype), axis=1)


def mix_gathered(x: Array, routing: Routing, kernels: Tree, activation: str) -> Array:
    """Copies the weights of every chosen expert, so that the others are never read; else as `mix_grouped`."""

    def expert(x: Array, number: Array) -> Array:
        return _feed(x, jax.tree.map(lambda leaf: leaf[number], kernels), activation, project)

    fed = jax.vmap(jax.vmap(expert, (None, 0)))(x, routing.experts)  # [M, k, D]
    return jnp.sum(fed * routing.weights[..., None].astype(x.dtype), axis=1)


def mix(config: ExpertsConfig, x: Array, routing: Routing, kernels: Tree, activation: str) -> Array:
    """The config's form, of which ``grouped`` gathers where at most a quarter of the experts can be chosen."""
    if config.form == "dense":
        return mix_dense(x, routing, kernels, activation)
    few = 4 * routing.experts.size <= config.num_experts
    return (mix_gathered if few else mix_grouped)(x, routing, kernels, activation)


def project_groups(x: Array, kernel: Array | Node, sizes: Array) -> Array:
    """``x [M, D]``, the first ``sizes[0]`` rows times ``kernel[0]``, the next ``sizes[1]`` times ``kernel[1]``, ..."""
    if isinstance(kernel, Lora):
        low = project_groups(project_groups(x, kernel.a, sizes), kernel.b, sizes)
        frozen = jax.lax.stop_gradient(kernel.kernel)
        return project_groups(x, frozen, sizes) + low * jnp.asarray(kernel.scale, x.dtype)
    return jax.lax.ragged_dot(x, as_array(kernel).astype(x.dtype), sizes.astype(jnp.int32))


def _feed(x: Array, kernels: Tree, activation: str, multiply: Callable[[Array, Any], Array]) -> Array:
    hidden = ACTIVATIONS[activation](multiply(x, kernels["gate" if "gate" in kernels else "up"]))
    if "gate" in kernels:
        hidden = hidden * multiply(x, kernels["up"])
    return multiply(hidden, kernels["down"])


class Router(nn.Module):
    """The parameters of a router and the logits that they give."""

    config: ExpertsConfig

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array | None]:
        """Logits ``[..., E]`` of ``x [..., D]`` in float32 or better, and the bias of the choice."""
        c, wide = self.config, jnp.promote_types(jnp.float32, x.dtype)
        kernel = read(self, "kernel", nn.initializers.lecun_normal(), (x.shape[-1], c.num_experts))
        logits = project(x.astype(wide), kernel)
        bias = read(self, "bias", nn.initializers.zeros, (c.num_experts,)) if c.selection_bias else None
        return logits, bias


class Kernels(nn.Module):
    """The kernels ``[E, inputs, features]`` of one projection in every expert."""

    features: int
    num_experts: int
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, inputs: int) -> Array | Node:
        """The parameter ``kernel``."""
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal", batch_axis=(0,))
        return read(self, "kernel", init, (self.num_experts, inputs, self.features))


class Experts(nn.Module):
    """The feed-forward half of a block as a mixture of experts, with those that every token shares."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Array, counted: Array) -> tuple[Array, Tree]:
        """``x [B, T, D]`` to ``[B, T, D]`` and what the router reports, pads not ``counted bool[B or 1, T]``.

        The reports are sums over each row's tokens: ``assigned [B, E]``, how many chose each expert; ``probability [B,
        E]``; ``squared_normaliser [B]``, of the router's logits.
        """
        c, m, e = self.config, self.config.mlp, self.config.experts
        logits, bias = Router(e, name="router")(x)
        routing = route(e, logits, bias)
        kernels = {
            name: Kernels(e.d_ff, e.num_experts, name=name)(c.d_model)
            for name in (("gate", "up") if m.gated else ("up",))
        }
        kernels["down"] = Kernels(c.d_model, e.num_experts, 0.5 / c.num_layers, name="down")(e.d_ff)
        flat = Routing(*(part.reshape(-1, part.shape[-1]) for part in routing))
        y = mix(e, x.reshape(-1, c.d_model), flat, kernels, m.activation).reshape(x.shape)
        if e.shared_d_ff:
            shared = Mlp(c, e.shared_d_ff, name="shared")(x)
            if e.shared_gate:
                shared = shared * jax.nn.sigmoid(Weights(1, name="shared_gate")(c.d_model)(x))
            y = y + shared
        return y, report(logits, routing, jnp.broadcast_to(counted, x.shape[:2]))


def report(logits: Array, routing: Routing, counted: Array) -> Tree:
    """The sums over tokens that losses of a router are made of, row by row; see `Experts`."""

    def total(values: Array) -> Array:
        inside = counted.reshape(*counted.shape, *(1,) * (values.ndim - 2))
        return jnp.sum(jnp.where(inside, values, 0), axis=1)

    choices = jnp.sum(jax.nn.one_hot(routing.experts, logits.shape[-1], dtype=logits.dtype), axis=-2)
    return {
        "assigned": total(choices),
        "probability": total(routing.probabilities),
        "squared_normaliser": total(jax.nn.logsumexp(logits, axis=-1) ** 2),
    }
