"""A mixture of Gaussians, for which the perfect network is a formula."""

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.diffusion.predictions import combined
from fmzoo.diffusion.process import marginal

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[1.0, 0.4], [-0.9, 0.7], [0.1, -1.1]])
DEVIATIONS = np.array([0.35, 0.5, 0.25])


def draw(rng, count, alpha, sigma):
    """Noisy samples ``[count, 2]``."""
    kind = rng.choice(len(WEIGHTS), count, p=WEIGHTS)
    clean = MEANS[kind] + DEVIATIONS[kind, None] * rng.standard_normal((count, 2))
    return alpha * clean + sigma * rng.standard_normal((count, 2))


def moments(alpha, sigma):
    """The mean and the covariance of noisy samples."""
    mean = WEIGHTS @ MEANS
    second = sum(w * (np.outer(m, m) + s**2 * np.eye(2)) for w, m, s in zip(WEIGHTS, MEANS, DEVIATIONS, strict=True))
    return alpha * mean, alpha**2 * (second - np.outer(mean, mean)) + sigma**2 * np.eye(2)


def posterior_mean(x, alpha, sigma):
    """The mean of the clean sample given the noisy one ``[B, 2]``, at one level."""
    variance = alpha**2 * DEVIATIONS**2 + sigma**2
    offset = x[:, None] - alpha * MEANS
    logits = np.log(WEIGHTS) - jnp.log(variance) - (offset**2).sum(-1) / (2 * variance)
    means = MEANS + (alpha * DEVIATIONS**2 / variance)[:, None] * offset
    return (jax.nn.softmax(logits, axis=-1)[..., None] * means).sum(1)


def network(process):
    """The perfect network of a process: ``(input, time) -> output``."""

    def denoise(x, t):
        alpha, sigma = (level[0] for level in marginal(process, t))
        if process.schedule == "edm":
            x = x * jnp.sqrt(sigma**2 + process.sigma_data**2)
        x0 = posterior_mean(x, alpha, sigma)
        return combined(x0, (x - alpha * x0) / sigma, process.prediction, alpha, sigma, process.sigma_data)

    return denoise
