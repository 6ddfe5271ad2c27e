"""In-batch contrast: its value, its weights, and that nothing splits it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmzoo import parallel, train
from fmzoo.errors import InputError
from fmzoo.models.feature_networks import ImageEncoderConfig, ImageText, ImageTextConfig
from fmzoo.objectives import adapted
from fmzoo.objectives.contrastive import contrastive, contrastive_losses
from fmzoo.text.hashed_words import hash_words

RNG = np.random.default_rng(0)
MODULE = ImageText(ImageTextConfig(ImageEncoderConfig(4, 4, 1, (4,), 8), words=32, hidden=8))
BATCH = {
    "image": RNG.normal(size=(8, 4, 4, 1)).astype(np.float32),
    "caption": RNG.integers(1, 32, (8, 3), dtype=np.int32),
    "weights": np.array([1, 1, 2, 0, 1, 1, 0, 1], np.float32),
    "example_id": np.arange(8, dtype=np.int32),
}


@pytest.fixture(scope="module")
def params():
    return MODULE.init(jax.random.key(0), BATCH["image"], BATCH["caption"])["params"]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_losses_pair_by_pair():
    x, y, scale = unit(RNG.normal(size=(5, 3))), unit(RNG.normal(size=(5, 3))), 7.0
    weights = np.array([1, 0, 1, 1, 0.5])
    there = [i for i in range(5) if weights[i]]
    expected = [
        (np.log(sum(np.exp(scale * x[i] @ y[j]) for j in there)) - scale * x[i] @ y[i]
         + np.log(sum(np.exp(scale * y[i] @ x[j]) for j in there)) - scale * x[i] @ y[i]) / 2
        for i in there
    ]  # fmt: skip
    found = contrastive_losses(jnp.array(x), jnp.array(y), jnp.array(scale), jnp.array(weights))
    np.testing.assert_allclose(found[np.array(there)], expected, rtol=1e-5)


def test_weight_0_is_as_if_it_were_not_there(params):
    objective, rng = contrastive(MODULE), jax.random.key(1)
    kept = {name: value[BATCH["weights"] > 0] for name, value in BATCH.items()}
    whole, part = objective(params, {}, BATCH, rng), objective(params, {}, kept, rng)
    for (terms, metrics), (fewer, other) in [(whole, part)]:
        np.testing.assert_allclose(terms["loss"].total, fewer["loss"].total, rtol=1e-5)
        assert terms["loss"].weight == fewer["loss"].weight == 7
        assert metrics["retrieved"] == other["retrieved"]


@pytest.mark.parametrize("objective", [contrastive(MODULE), adapted(contrastive(MODULE))])
def test_microbatches_are_refused(objective):
    with pytest.raises(InputError, match="batch is split over 2 microbatches, and the objective couples its rows"):
        train.gradients(objective, microbatches=2)


@pytest.mark.parametrize("way", [parallel.shard, parallel.pmap])
def test_devices_that_do_not_see_each_other_are_refused(params, way):
    optimizer = optax.sgd(0.1)
    step = way(train.update(train.gradients(contrastive(MODULE)), optimizer))
    state = train.init_state(params, optimizer, jax.random.key(0))
    with pytest.raises(InputError, match="batch is split over 8 devices of shard or pmap"):
        step(state, {}, BATCH)


def test_words_are_hashed_alike_everywhere():
    tokens = hash_words("Old man: medium-dark skin tone")
    assert tokens.tolist()[:5] == hash_words("old MAN medium-dark skin tone").tolist()[:5]
    assert (tokens[:5] > 0).all()
    assert (tokens[5:] == 0).all()
    assert hash_words("a b c", length=2).shape == (2,)
    assert hash_words("medium-dark")[0] not in (hash_words("medium")[0], hash_words("dark")[0])
