"""The variational bound of a discrete diffusion, for the variance that a network learns (arXiv 2102.09672)."""

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.diffusion import Process, convert, marginal
from fmzoo.diffusion.process import levels

Array = jax.Array
LEVELS = 255  # steps between the values of a picture in [-1, 1]


def variational_bound(
    process: Process, said: Array, share: Array, x0: Array, x_t: Array, t: Array, *, pixels: bool = True
) -> Array:
    """``L_t`` of each row in bits a dimension, for one time: equations 4 to 7 with the variance of equation 15.

    Args:
      process: with a schedule of betas.
      said: what the network predicts ``[B, H, W, C]``, held still by the caller so that only the variance learns.
      share: f in [0, 1], ``[B, H, W, C]``: ``log sigma^2 = f log beta + (1 - f) log beta~``.
      x0: the clean example, in [-1, 1] if ``pixels``.
      x_t: the noised one.
      t: times ``[B]``.
      pixels: at t = 0, score the 256 levels of a picture; otherwise (latents) the density.

    Returns:
      ``[B]``: the divergence of the posterior from the network's step, and at t = 0 the negative log-likelihood.
    """
    places = jnp.round(t).astype(jnp.int32)
    table = {name: jnp.asarray(v, x_t.dtype)[places][:, None, None, None] for name, v in posteriors(process).items()}

    def mean(clean: Array) -> Array:
        return table["of_x0"] * clean + table["of_x_t"] * x_t

    log_variance = share * table["log_beta"] + (1 - share) * table["log_beta_tilde"]
    guess = mean(convert(said, process.prediction, "sample", x_t, *marginal(process, t), process.sigma_data))
    divergence = normal_divergence(mean(x0), table["log_beta_tilde"], guess, log_variance)
    if pixels:
        likelihood = -discretised_log_likelihood(x0, guess, log_variance)
    else:
        likelihood = 0.5 * (jnp.log(2 * jnp.pi) + log_variance + (x0 - guess) ** 2 * jnp.exp(-log_variance))
    nats = jnp.where((places == 0)[:, None, None, None], likelihood, divergence)
    return jnp.mean(nats, axis=(1, 2, 3)) / jnp.log(2.0)


def posteriors(process: Process) -> dict[str, np.ndarray]:
    """Of ``q(x_{t-1} given x_t, x0)`` for every t, float64: coefficients of its mean, log beta~ and log beta.

    At t = 0 the posterior is a point; its variance is taken to be that of t = 1.
    """
    alpha_bar = levels(process) ** 2
    before = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / before
    beta_tilde = (1 - before) / (1 - alpha_bar) * beta
    beta_tilde[0] = beta_tilde[1]
    return {
        "of_x0": np.sqrt(before) * beta / (1 - alpha_bar),
        "of_x_t": np.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar),
        "log_beta": np.log(beta),
        "log_beta_tilde": np.log(beta_tilde),
    }


def normal_divergence(mean1: Array, log_variance1: Array, mean2: Array, log_variance2: Array) -> Array:
    """The divergence of one normal distribution from another in nats, number by number."""
    apart = (mean1 - mean2) ** 2 * jnp.exp(-log_variance2)
    return 0.5 * (log_variance2 - log_variance1 - 1 + jnp.exp(log_variance1 - log_variance2) + apart)


def discretised_log_likelihood(x0: Array, mean: Array, log_variance: Array) -> Array:
    """The log of the normal probability of a level of 256 in [-1, 1], the outer two reaching to infinity."""
    inverse, half = jnp.exp(-0.5 * log_variance), 1 / LEVELS
    upper = jax.scipy.stats.norm.cdf((x0 - mean + half) * inverse)
    lower = jax.scipy.stats.norm.cdf((x0 - mean - half) * inverse)
    inside = jnp.where(x0 < -1 + half / 2, upper, jnp.where(x0 > 1 - half / 2, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(inside, 1e-12))
