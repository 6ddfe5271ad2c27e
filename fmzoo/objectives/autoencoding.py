"""Training an autoencoder of pictures: reconstruction, a pull to the normal, and a discriminator (arXiv 2112.10752).

Two states are trained in turn, each seeing the other through ``frozen``::

    step = in_turn(on("autoencoder", update(...)), on("discriminator", update(...)))

The reference weighs the adversarial term in every batch by the ratio of two gradients of the batch. That ratio is a
statistic of the whole batch here, prepared before (`Objective.prepare`), so that any split of it has the same; or
the weight is fixed, which is the default and costs one pass less.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.models.autoencoder import draw
from fmzoo.objectives.contract import Batch, Mean, Objective, Terms, example_keys, weighted_mean

Array = jax.Array
COEFFICIENTS = {"kl": 1e-6, "adversarial": 0.5}  # of 2112.10752's f=8; per number of the picture, as the terms are
BALANCED = ("reconstruction", "adversarial")  # terms whose gradients set the adaptive weight
MOST_WEIGHT = 1e4  # of the adaptive weight


def kl_to_normal(mean: Array, logvar: Array) -> Array:
    """The Kullback-Leibler divergence of each row's Gaussian from the standard normal, in nats ``[B]``.

    ``sum 1/2 (mean^2 + exp(logvar) - 1 - logvar)`` (arXiv 1312.6114, appendix B); arguments are ``[B, h, w, c]``.
    """
    return 0.5 * jnp.sum(mean * mean + jnp.exp(logvar) - 1 - logvar, axis=(1, 2, 3))


def hinge_loss(real: Array, made: Array) -> Array:
    """Half of ``relu(1 - real) + relu(1 + made)``, its mean over patches ``[B, h, w]`` (arXiv 1705.02894); ``[B]``."""
    return 0.5 * jnp.mean(jax.nn.relu(1 - real) + jax.nn.relu(1 + made), axis=(1, 2))


def autoencoding(
    module: nn.Module, discriminator: nn.Module | None = None, *, adaptive: bool = False, squared: float = 0.0
) -> Objective:
    """Reconstruction by absolute differences, divergence of the latent and, with a discriminator, deceiving it.

    Batch fields: ``image [B, H, W, C]`` in [-1, 1], ``weights float32[B]``, ``example_id int32[B]``. Terms are means
    over rows of what is, in each, a mean over the picture's numbers: ``reconstruction``, ``kl`` (nats of the latent for
    each number of the picture) and ``adversarial`` (minus the mean score of patches). Give `COEFFICIENTS` to
    `fmzoo.train.gradients`. There is no perceptual term, which would need the weights of a trained network.

    Args:
      module: an `AutoencoderKL`, whose parameters are trained.
      discriminator: whose parameters are ``frozen["discriminator"]``; None leaves the term away, as in the first half
        of training.
      adaptive: multiply the adversarial term by the norm of the reconstruction's gradient over that of its own, both
        of the decoder's last kernel and over the whole batch.
      squared: how much the squared difference adds to the absolute one.

    Returns:
      An objective with these terms, the metric ``squared_error``, and with ``adaptive`` the statistics it needs.
    """

    def terms(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: dict[str, Array] | None = None
    ) -> tuple[Terms, Terms]:
        image, weights = clean_image(batch), batch["weights"]
        made, mean, logvar = reconstruct(module, params, image, rng, batch["example_id"])
        squares = jnp.mean((made - image) ** 2, axis=(1, 2, 3))
        absolute = jnp.mean(jnp.abs(made - image), axis=(1, 2, 3))
        per_number = kl_to_normal(mean, logvar) / image[0].size
        losses = {"reconstruction": absolute + squared * squares, "kl": per_number}
        if discriminator is not None:
            losses["adversarial"] = deceive(discriminator, frozen, made) * balance(statistics)
        found = {name: weighted_mean(loss, weights) for name, loss in losses.items()}
        return found, {"squared_error": weighted_mean(jax.lax.stop_gradient(squares), weights)}

    def prepare(params: Any, frozen: dict[str, Any], batch: Batch, rng: Array) -> Terms:
        def totals(kernel: Array) -> dict[str, Array]:
            found = terms(replace_last(params, kernel), frozen, batch, rng)[0]
            return {name: found[name].total for name in BALANCED}

        _, pull = jax.vjp(totals, params["decoder"]["out"]["conv"]["kernel"])
        one, weight = jnp.ones((), batch["weights"].dtype), jnp.sum(batch["weights"])
        ways = {name: {other: one * (other == name) for other in BALANCED} for name in BALANCED}
        return {name: Mean(pull(way)[0], weight) for name, way in ways.items()}

    return Objective(terms, prepare if adaptive and discriminator is not None else None)


def discrimination(module: nn.Module, discriminator: nn.Module) -> Objective:
    """Telling pictures from the autoencoder's, whose parameters are ``frozen["autoencoder"]``; fields as above.

    Returns:
      An objective of the discriminator's parameters with the term ``hinge`` and the metrics ``real`` and ``made``, the
      mean scores of both.
    """

    def terms(
        params: Any, frozen: dict[str, Any], batch: Batch, rng: Array, statistics: Any = None
    ) -> tuple[Terms, Terms]:
        del statistics
        image, weights = clean_image(batch), batch["weights"]
        made, _, _ = reconstruct(module, frozen["autoencoder"], image, rng, batch["example_id"])
        made = jax.lax.stop_gradient(made)
        scores = {name: discriminator.apply({"params": params}, x) for name, x in (("real", image), ("made", made))}
        metrics = {name: weighted_mean(jnp.mean(score, axis=(1, 2)), weights) for name, score in scores.items()}
        return {"hinge": weighted_mean(hinge_loss(**scores), weights)}, metrics

    return Objective(terms)


def clean_image(batch: Batch) -> Array:
    """The pictures ``[B, H, W, C]`` with zeros for rows of weight 0, whose NaN would spoil a gradient times 0."""
    return jnp.where(batch["weights"][:, None, None, None] != 0, batch["image"], 0)


def reconstruct(
    module: nn.Module, params: Any, image: Array, rng: Array, example_id: Array
) -> tuple[Array, Array, Array]:
    """A picture decoded from a sample of its latent ``[B, H, W, C]``, and the latent's mean and log-variance."""
    variables = {"params": params}
    mean, logvar = module.apply(variables, image, method="encode")
    keys = example_keys(rng, "latent", example_id)
    return module.apply(variables, draw(mean, logvar, keys), method="decode"), mean, logvar


def deceive(discriminator: nn.Module, frozen: dict[str, Any], made: Array) -> Array:
    """Minus the mean score of each row's patches ``[B]``."""
    return -jnp.mean(discriminator.apply({"params": frozen["discriminator"]}, made), axis=(1, 2))


def balance(statistics: dict[str, Array] | None) -> Array | float:
    """The adaptive weight ``|g_reconstruction| / (|g_adversarial| + 1e-4)``, at most `MOST_WEIGHT`; 1 without them."""
    if not statistics:
        return 1.0
    norms = [jnp.linalg.norm(statistics[name].ravel()) for name in BALANCED]
    return jnp.clip(norms[0] / (norms[1] + 1e-4), 0, MOST_WEIGHT)


def replace_last(params: Any, kernel: Array) -> Any:
    """The autoencoder's parameters with another kernel of the decoder's last convolution."""
    decoder = params["decoder"]
    out = {**decoder["out"], "conv": {**decoder["out"]["conv"], "kernel": kernel}}
    return {**params, "decoder": {**decoder, "out": out}}
