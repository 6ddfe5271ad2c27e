"""A sound decoder passes the audit; one with a fault fails the check that is for it."""

import jax
import jax.numpy as jnp
import pytest

from fmzoo import evals, models
from fmzoo.errors import InputError

CONFIG = models.DecoderConfig(
    vocab_size=64, d_model=16, num_layers=2, context_length=60, pattern=("local", "global"), layers="unrolled",
    attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8, window=5), mlp=models.MlpConfig(d_ff=16),
)  # fmt: skip
PACKED, UNSEEN, PADDED, GRADIENTS, CACHED, DECODED = evals.CHECKS


@pytest.fixture(scope="module")
def params():
    found = jax.jit(models.Decoder(CONFIG).init)(jax.random.key(0), jnp.zeros((1, 1), int))["params"]
    return jax.tree.map(lambda leaf: leaf * 3, found)  # scores and logits of some size


class Merging(models.Decoder):
    """Takes all that is no pad for one document."""

    def __call__(self, tokens, positions=None, segment_ids=None, cache=None, dropout_keys=None):
        merged = None if segment_ids is None else (segment_ids > 0).astype(jnp.int32)
        return super().__call__(tokens, positions, merged, cache, dropout_keys)


class SeeingPads(models.Decoder):
    """Takes pads for a document of their own, and counts positions from the beginning of the row."""

    def __call__(self, tokens, positions=None, segment_ids=None, cache=None, dropout_keys=None):
        if segment_ids is not None:
            segment_ids = jnp.where(segment_ids == 0, jnp.max(segment_ids, axis=1, keepdims=True), segment_ids)
        return super().__call__(tokens, positions, segment_ids, cache, dropout_keys)


class LateCache(models.Decoder):
    """Puts what it reads with a cache one position too far once something is in it."""

    def features(self, tokens, positions=None, segment_ids=None, cache=None, dropout_keys=None):
        if cache is not None and tokens.shape[1] == 1:
            table = next(iter(cache["position"].values()))
            last = jnp.max(table, axis=1, keepdims=True)
            positions = last + 1 + (last < 14) if positions is None else positions + (positions < 14)
        return super().features(tokens, positions, segment_ids, cache, dropout_keys)


class Leaking(models.Decoder):
    """Gives the right logits, of which each has a gradient from the whole row."""

    def __call__(self, tokens, positions=None, segment_ids=None, cache=None, dropout_keys=None):
        logits = super().__call__(tokens, positions, segment_ids, cache, dropout_keys)
        if segment_ids is None:
            return logits
        row = jnp.mean(logits, axis=1, keepdims=True)
        return logits + (row - jax.lax.stop_gradient(row))


class LouderInLists(models.Decoder):
    """Is surer of itself where its layers are a list, as only decoding has them."""

    def unembed(self, hidden):
        listed = isinstance(self.get_variable("params", "period")["0"], list)
        return super().unembed(hidden) * (1.1 if listed else 1.0)


def test_a_sound_decoder_passes(params):
    found = evals.audit(models.Decoder(CONFIG), params)
    assert [check.name for check in found] == list(evals.CHECKS)
    assert all(check.passed for check in found), found
    assert max(check.error for check in found) > 0


@pytest.mark.parametrize(
    ("kind", "checks"),
    [(Merging, [PACKED, UNSEEN, GRADIENTS]), (SeeingPads, [PADDED]), (LateCache, [CACHED, DECODED])],
    ids=["merging", "seeing pads", "late cache"],
)
def test_a_fault_fails_the_check_that_is_for_it(params, kind, checks):
    found = evals.audit(kind(CONFIG), params, checks=checks)
    assert not any(check.passed for check in found), found
    assert all(check.error > 1e-3 for check in found)


@pytest.mark.parametrize(("kind", "kept", "broken"), [(Leaking, UNSEEN, GRADIENTS), (LouderInLists, CACHED, DECODED)])
def test_a_fault_that_only_one_check_sees(params, kind, kept, broken):
    kept, broken = evals.audit(kind(CONFIG), params, checks=[kept, broken])
    assert kept.passed
    assert broken.error > 1e-2


def test_a_module_that_cannot_is_told(params):
    class NoSegments(models.Decoder):
        def __call__(self, tokens, positions=None, segment_ids=None, cache=None, dropout_keys=None):
            if segment_ids is not None:
                raise ValueError("segments are not known")
            return super().__call__(tokens, positions, None, cache, dropout_keys)

    (check,) = evals.audit(NoSegments(CONFIG), params, checks=[PADDED])
    assert not check.passed
    assert "segments are not known" in check.detail


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"checks": ["packed"]}, "there is no check 'packed'"),
        ({"tokens": jnp.zeros((1, 9), int)}, "tokens are of length 9"),
        ({"tokens": jnp.zeros((1, 42), int)}, "an even number from 8 to 40"),
    ],
)
def test_bad_arguments(params, options, says):
    with pytest.raises(InputError, match=says):
        evals.audit(models.Decoder(CONFIG), params, **options)
