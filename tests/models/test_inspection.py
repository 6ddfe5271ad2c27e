import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import models
from fmzoo.models import AttentionConfig, DecoderConfig, ExpertsConfig, LatentConfig, MlpConfig

PLAIN = DecoderConfig(
    vocab_size=31, d_model=16, num_layers=3, context_length=32, position="none", mlp=MlpConfig(d_ff=16),
    attention=AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=6, window=4), pattern=("global", "local"),
)  # fmt: skip
LATENT = DecoderConfig(
    vocab_size=31, d_model=16, num_layers=2, context_length=32, prefix=("global",), mlp=MlpConfig(d_ff=16),
    attention=AttentionConfig(2, 2, 10, latent=LatentConfig(kv_rank=6, rope_dim=4, value_dim=5), logit_softcap=3.0),
    experts=ExpertsConfig(num_experts=3, d_ff=8, dense_layers=1),
)  # fmt: skip
TOKENS = jax.random.randint(jax.random.key(1), (2, 9), 0, 31)


@functools.cache
def built(config):
    params = jax.jit(models.Decoder(config).init)(jax.random.key(0), TOKENS)["params"]
    return models.Decoder(config), jax.tree.map(lambda leaf: leaf * 3, params)


@functools.cache
def inside(config):
    module, params = built(config)
    return jax.jit(functools.partial(models.look_inside, module))(params, TOKENS)


@pytest.mark.parametrize("config", [PLAIN, LATENT], ids=["grouped and local", "latent and experts"])
def test_it_ends_where_the_decoder_does(config):
    (module, params), found = built(config), inside(config)
    logits = jax.jit(module.apply)({"params": params}, TOKENS)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-4)
    read = models.logit_lens(module, params, found.residuals)
    np.testing.assert_allclose(read[-1], found.logits, rtol=1e-4, atol=1e-4)
    assert np.abs(read[-2] - read[-1]).max() > 0.1
    assert found.residuals.shape == (config.num_layers + 1, 2, 9, 16)
    assert found.weights.shape == (config.num_layers, 2, config.attention.num_heads, 9, 9)
    np.testing.assert_allclose(found.weights.sum(-1), 1, rtol=1e-5)
    assert not np.any(np.triu(found.weights, 1))


def test_weights_are_those_of_the_scores():
    found, (_, params) = inside(PLAIN), built(PLAIN)
    layer = jax.tree.map(lambda leaf: np.asarray(leaf[0]), params["period"])
    for number, window in ((0, 9), (1, 4)):
        part = layer[str(number)]
        x = np.asarray(found.residuals[number])
        x = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-5) * part["attention_norm"]["scale"]
        q = (x @ part["attention"]["query"]["kernel"]).reshape(2, 9, 4, 6)
        k = np.repeat((x @ part["attention"]["key"]["kernel"]).reshape(2, 9, 2, 6), 2, axis=2)
        distance = np.arange(9)[:, None] - np.arange(9)
        seen = (distance >= 0) & (distance < window)
        scores = np.where(seen, np.einsum("btnh,bsnh->bnts", q, k) / 6**0.5, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        needed = weights / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(found.weights[number], needed, atol=1e-3)
        assert np.ptp(needed[..., -1, -4:]) > 0.2


def test_a_residual_put_in_is_what_goes_on():
    (module, params), found = built(PLAIN), inside(PLAIN)
    turned = TOKENS[::-1]

    @jax.jit
    def patched(position):
        """The other row's residual from one position on, at layer 1."""
        where = (jnp.arange(9) >= position)[:, None]
        edit = lambda layer, x: jnp.where(where, found.residuals[1], x) if layer == 1 else x  # noqa: E731
        return models.look_inside(module, params, turned, edit=edit)

    np.testing.assert_allclose(patched(0).logits, found.logits, atol=1e-3)
    np.testing.assert_allclose(patched(9).logits, found.logits[::-1], atol=1e-3)
    part = patched(5)
    np.testing.assert_allclose(part.logits[:, :5], found.logits[::-1, :5], atol=1e-3)  # nothing goes back in time
    assert np.all(np.abs(part.logits[:, 5:] - found.logits[:, 5:]).max(-1) > 0.1)
    np.testing.assert_array_equal(part.residuals[1, :, 5:], found.residuals[1, :, 5:])
