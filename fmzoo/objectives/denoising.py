"""Denoising: the training objective of every diffusion and flow model, in pixels or in an autoencoder's latents."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fmzoo import diffusion
from fmzoo.diffusion import Process
from fmzoo.objectives.contract import Batch, ObjectiveFn, Terms, example_keys, weighted_mean
from fmzoo.objectives.variational import variational_bound

Array = jax.Array
Conditions = dict[str, Array]
# (parts, x [B, H, W, C], t [B], conditions, keys [B]) -> output; the keys are for dropout
Denoise = Callable[[Any, Array, Array, Conditions, Array], Array]
Condition = Callable[[Any, Batch], Conditions]  # (parts, batch) -> what the denoiser is told beside x and t
ToLatents = Callable[[Any, Batch, Array], Array]  # (parts, batch, keys [B]) -> latents
CONDITIONS = ("context", "pooled", "label", "time_ids")
WEIGHTS = ("weights", "prior_weights")


def denoising(
    denoise: Denoise,
    process: Process,
    *,
    condition: Condition | None = None,
    to_latents: ToLatents | None = None,
    empty: Mapping[str, Any] | None = None,
    dropout: float = 0.0,
    density: str = "uniform",
    weighting: str = "none",
    offset_noise: float = 0.0,
    variational: float = 1e-3,
) -> ObjectiveFn:
    """The squared error of what the denoiser says of a noised example, averaged over its numbers.

    The trained parts and the frozen ones are handed to the callables as one dict ``{component: params}``: what is
    trained is decided by which tree holds it. Noise, time, offset and dropout are drawn by example.

    Batch fields: ``image float[B, H, W, C]`` in [-1, 1], or in its place ``latents`` or what ``to_latents`` reads;
    whatever the conditions read; ``weights float[B]``; ``example_id int32[B]``. With ``prior_weights float[B]`` the
    rows where it is not 0 are pictures of the class at large, and have a term ``prior`` with a denominator of its own
    (DreamBooth, arXiv 2208.12242, eq. 2; its lambda is the coefficient of that term).

    Args:
      denoise: the network.
      process: noise levels and what the network predicts; with learned variance (arXiv 2102.09672) the output has 2C
        channels and a term ``variational`` teaches the second half.
      condition: the batch (after dropout) to conditions, such as tokens through a text encoder; None takes the fields
        ``context``, ``pooled``, ``label`` and ``time_ids`` as they are.
      to_latents: gives a batch its latents, each row by its own key: encodes its images on the fly, or draws from what
        an autoencoder said of them before; None denoises ``latents`` or the image itself.
      empty: the value of each field that stands for no condition, without the batch's axis: tokens of the empty
        caption, a cached context ``[S, D]``, the label past the last class.
      dropout: the share of examples whose fields are replaced by ``empty``, all of them together (arXiv 2207.12598).
      density: of the times, as `fmzoo.diffusion.sample_times` names it.
      weighting: of the squared error by time, as `fmzoo.diffusion.loss_weight` names it.
      offset_noise: the standard deviation of a shift that a whole channel shares.
      variational: lambda of the bound: in all, ``lambda * num_train_timesteps`` times bits a dimension.

    Returns:
      An objective with the term ``loss``, and ``variational`` or ``prior`` where there is one; the metric ``mse`` is
      the error before weighting.
    """
    told = condition or take_conditions

    def objective(
        params: dict[str, Any], frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del statistics
        parts, weights = {**frozen, **params}, weights_of(batch)
        batch = clean(batch, weights)

        def keys(purpose: str) -> Array:
            return example_keys(rng, purpose, batch["example_id"])

        if dropout and empty:
            batch = drop(batch, jax.vmap(jax.random.bernoulli, (0, None))(keys("condition"), dropout), empty)
        x0 = clean_example(parts, batch, to_latents, keys("posterior"))
        wide = jnp.promote_types(jnp.float32, x0.dtype)
        t = diffusion.sample_times(process, keys("time"), density).astype(wide)
        noise = draw_noise(keys("noise"), x0.astype(wide), offset_noise)
        x_t = diffusion.add_noise(process, x0, noise, t)
        scaled, time = diffusion.network_input(process, x_t, t)
        output = denoise(parts, scaled, time, told(parts, batch), keys("dropout")).astype(wide)
        said, share = diffusion.split_variance(process, output)
        errors = jnp.mean((said - diffusion.target(process, x0, noise, t)) ** 2, axis=(1, 2, 3))
        weighted = errors * diffusion.loss_weight(process, t, weighting)
        terms = {"loss": weighted_mean(weighted, weights["weights"])}
        if share is not None and variational:
            scale, pixels = variational * process.num_train_timesteps, to_latents is None and "latents" not in batch
            bound = variational_bound(process, jax.lax.stop_gradient(said), share, x0, x_t, t, pixels=pixels)
            terms["variational"] = weighted_mean(scale * bound, weights["weights"])
        if "prior_weights" in weights:
            terms["prior"] = weighted_mean(weighted, weights["prior_weights"])
        return terms, {"mse": weighted_mean(jax.lax.stop_gradient(errors), weights["weights"])}

    return objective


def clean_example(parts: Any, batch: Batch, to_latents: ToLatents | None, keys: Array) -> Array:
    """What is noised ``[B, H, W, C]``: the batch's latents, or those that ``to_latents`` gives, or the image itself."""
    if "latents" in batch:
        return batch["latents"]
    return batch["image"] if to_latents is None else jax.lax.stop_gradient(to_latents(parts, batch, keys))


def weights_of(batch: Batch) -> dict[str, Array]:
    """The fields of weights that a batch has."""
    return {name: batch[name] for name in WEIGHTS if name in batch}


def clean(batch: Batch, weights: Mapping[str, Array]) -> Batch:
    """The batch with 0 in place of every number of a row that does not count: 0 * NaN is NaN in a gradient."""
    counted = sum((weight != 0).astype(jnp.int32) for weight in weights.values()) > 0

    def one(value: Array) -> Array:
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return value
        return jnp.where(rows(counted, value), value, jnp.zeros_like(value))

    return {name: value if name in weights else one(value) for name, value in batch.items()}


def drop(batch: Batch, dropped: Array, empty: Mapping[str, Any]) -> Batch:
    """The batch with ``empty``'s values in the rows where ``dropped bool[B]`` holds."""
    replaced = {
        name: jnp.where(rows(dropped, batch[name]), jnp.asarray(value, batch[name].dtype), batch[name])
        for name, value in empty.items()
        if name in batch
    }
    return {**batch, **replaced}


def draw_noise(keys: Array, like: Array, offset: float = 0.0) -> Array:
    """Normal noise of the shape of ``like [B, H, W, C]``, a key a row, each channel shifted by ``offset`` times one."""

    def one(key: Array) -> Array:
        noise = jax.random.normal(key, like.shape[1:], like.dtype)
        if not offset:
            return noise
        return noise + offset * jax.random.normal(jax.random.fold_in(key, 1), (1, 1, like.shape[-1]), like.dtype)

    return jax.vmap(one)(keys)


def take_conditions(parts: Any, batch: Batch) -> Conditions:
    """The conditions that the batch holds as they are."""
    del parts
    return {name: batch[name] for name in CONDITIONS if name in batch}


def rows(values: Array, like: Array) -> Array:
    """``[B]`` with as many axes of 1 behind it as ``like`` has."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
