"""One objective of each kind that the contract must carry, with a batch of eight rows for it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmzoo import models, objectives
from fmzoo.diffusion import Process
from fmzoo.objectives import Objective, example_keys, weighted_mean

ROWS, LENGTH, VOCAB = 8, 12, 32
SMALLEST = {"num_layers": 1, "layers": "unrolled", "position": "none", "mlp__gated": False}


class Probe(NamedTuple):
    objective: Any
    params: Any
    frozen: dict
    batch: dict
    coefficients: dict | None = None


def decoder(**changes) -> models.Decoder:
    config = models.DecoderConfig(
        vocab_size=VOCAB,
        d_model=16,
        num_layers=2,
        context_length=LENGTH,
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8),
        mlp=models.MlpConfig(d_ff=24),
        dropout=0.2,
        dtype="float64" if jax.config.jax_enable_x64 else "float32",
    )
    return models.Decoder(models.replace(config, **changes))


def params_of(module, seed=0):
    dtype = module.config.compute_dtype
    tree = jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, 2), jnp.int32))["params"]
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def text_batch(seed=1, rows=ROWS):
    """Tokens with weights that differ wildly from row to row, in value and in how many count."""
    k1, k2, k3 = jax.random.split(jax.random.key(seed), 3)
    tokens = jax.random.randint(k1, (rows, LENGTH + 1), 0, VOCAB)
    counted = jnp.arange(LENGTH)[None] < jax.random.randint(k2, (rows, 1), 1, LENGTH)
    weights = counted * jax.random.uniform(k3, (rows, 1), minval=0.1, maxval=3.0)
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": weights,
        "example_id": jnp.arange(100, 100 + rows, dtype=jnp.int32),
    }


def next_token() -> Probe:
    module = decoder()
    return Probe(objectives.next_token(module, z_loss=1e-2, label_smoothing=0.1), params_of(module), {}, text_batch())


def denoiser() -> Probe:
    """Noise, time, offset and dropout by example; a learned variance, a weighting by time, a second set of pictures."""
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    process = Process(num_train_timesteps=20, beta_end=0.3, prediction="v_prediction", learned_variance=True)

    def denoise(parts, sample, timesteps, conditions, keys):
        told = parts["label_embed"][conditions["label"]] + jnp.outer(timesteps / 20, parts["time"])
        hidden = jnp.tanh(sample.reshape(len(sample), -1) @ parts["in"] + told)
        return (hidden @ parts["out"]).reshape(*sample.shape[:3], -1)

    objective = objectives.denoising(
        denoise, process, empty={"label": 3}, dropout=0.4, weighting="min_snr", offset_noise=0.1
    )
    shapes = {"in": (48, 8), "out": (8, 96), "label_embed": (4, 8), "time": (8,)}
    keys = dict(zip(shapes, jax.random.split(jax.random.key(3), 4), strict=True))
    params = {name: 0.3 * jax.random.normal(keys[name], shape, dtype) for name, shape in shapes.items()}
    batch = {
        "image": jax.random.uniform(jax.random.key(4), (ROWS, 4, 4, 3), dtype, -1, 1),
        "label": jnp.arange(ROWS, dtype=jnp.int32) % 3,
        "weights": jnp.linspace(0.1, 2, ROWS),
        "prior_weights": jnp.linspace(1.5, 0.2, ROWS),
        "example_id": jnp.arange(ROWS, dtype=jnp.int32),
    }
    return Probe(objective, params, {}, batch, {"prior": 0.7})


def two_terms() -> Probe:
    """A token term and a row term: two denominators, two coefficients."""
    module = decoder()
    tokens = objectives.next_token(module)

    def objective(params, frozen, batch, rng, statistics=None):
        terms, metrics = tokens(params, frozen, batch, rng)
        hidden, _, _ = module.apply({"params": params}, batch["inputs"], method="features")
        size = jnp.mean(hidden[:, -1] ** 2, axis=-1)
        return terms | {"size": weighted_mean(size * size, batch["row_weights"])}, metrics

    batch = text_batch() | {"row_weights": jnp.asarray([0.0, 1, 0, 0, 2.5, 0, 0, 1])}
    return Probe(objective, params_of(module), {}, batch, {"size": 0.3})


def preference() -> Probe:
    """Chosen against rejected, against a frozen reference that starts as the very tree of the policy."""
    module = decoder(dropout=0.0)

    def log_probs(params, batch, side):
        logits = module.apply({"params": params}, batch[f"{side}_inputs"])
        losses = objectives.cross_entropy(logits, batch[f"{side}_targets"])
        return -jnp.sum(losses * batch[f"{side}_weights"], axis=1)

    def objective(params, frozen, batch, rng, statistics=None):
        del rng, statistics
        margin = 0.0
        for side, sign in (("chosen", 1), ("rejected", -1)):
            reference = jax.lax.stop_gradient(log_probs(frozen["reference"], batch, side))
            margin += sign * (log_probs(params, batch, side) - reference)
        return {"loss": weighted_mean(-jax.nn.log_sigmoid(0.5 * margin), batch["weights"])}, {}

    params = params_of(module)
    batch = {"example_id": jnp.arange(ROWS, dtype=jnp.int32), "weights": jnp.linspace(0, 3, ROWS)}
    for seed, side in ((5, "chosen"), (6, "rejected")):
        batch |= {f"{side}_{k}": v for k, v in text_batch(seed).items() if k != "example_id"}
    return Probe(objective, params, {"reference": params}, batch)


def prepared() -> Probe:
    """Each row's loss against the mean loss of the whole batch: coupled, but by a statistic without gradient."""
    module = decoder()
    tokens = objectives.next_token(module)

    def row_losses(params, batch, rng):
        keys = example_keys(rng, "dropout", batch["example_id"])
        logits = module.apply({"params": params}, batch["inputs"], dropout_keys=keys)
        losses = objectives.cross_entropy(logits, batch["targets"]) * batch["weights"]
        return jnp.sum(losses, axis=1)

    def counted(batch):
        return jnp.any(batch["weights"] != 0, axis=1)

    def prepare(params, frozen, batch, rng):
        losses = row_losses(params, batch, rng)
        return {"centre": weighted_mean(losses, counted(batch))}

    def terms(params, frozen, batch, rng, statistics=None):
        losses = row_losses(params, batch, rng)
        lifted = jax.nn.softplus(losses - statistics["centre"])
        return {"loss": weighted_mean(lifted, counted(batch))}, tokens(params, frozen, batch, rng)[0]

    return Probe(Objective(terms, prepare), params_of(module), {}, text_batch())


def low_rank() -> Probe:
    module = decoder()
    base = params_of(module)
    adapters = models.init_lora(jax.random.key(4), base, 2, r"attention/(query|value)|mlp/")
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
    objective = objectives.adapted(objectives.next_token(module), scale=0.5)
    return Probe(objective, adapters, {"base": base}, text_batch())


def experts() -> Probe:
    """A mixture whose balance loss multiplies two means over the whole batch; some rows count in no router."""
    module = decoder(experts=models.ExpertsConfig(4, 2, 8), dropout=0.0)
    objective = objectives.next_token(module, balance=2.0, router_z=0.1)
    batch = text_batch()
    segments = (jnp.arange(LENGTH)[None] < jnp.arange(5, 5 + ROWS)[:, None]).astype(jnp.int32)
    batch |= {"segment_ids": segments, "weights": batch["weights"] * segments * (jnp.arange(ROWS) != 3)[:, None]}
    return Probe(objective, params_of(module), {}, batch, {"router_z": 0.5})


PROBES = {f.__name__: f for f in (next_token, denoiser, two_terms, preference, prepared, low_rank, experts)}
