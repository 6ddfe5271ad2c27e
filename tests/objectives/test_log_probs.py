"""Log-probabilities of completions do not depend on pads, on packing, or on how many logits are held."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import models
from fmzoo.errors import InputError
from fmzoo.objectives import last_tokens, sequence_means, sequence_sums, spread, token_log_probs
from tests.objectives.small_policy import POLICY, completions
from tests.objectives.small_policy import params as small_params
from tests.train.probes import params_of

TEXTS = [[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8], [9, 7, 9, 3, 2, 3]]
PROMPT = 2  # tokens of each text that are its prompt


def decoder():
    return models.Decoder(models.DecoderConfig(
        vocab_size=12, d_model=8, num_layers=1, context_length=16, dtype="float64", layers="unrolled",
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=4), mlp=models.MlpConfig(d_ff=8),
    ))  # fmt: skip


def rows_of(layout, length=16):
    """Rows that hold lists of ``(segment, text)``, each beginning where it is said."""
    fields = {name: np.zeros((len(layout), length), np.int32) for name in ("inputs", "targets", "segment_ids")}
    weights = np.zeros((len(layout), length), np.float32)
    for row, pieces in enumerate(layout):
        for segment, (begin, text) in enumerate(pieces, 1):
            place = slice(begin, begin + len(text) - 1)
            fields["inputs"][row, place], fields["targets"][row, place] = text[:-1], text[1:]
            fields["segment_ids"][row, place] = segment
            weights[row, begin + PROMPT - 1 : begin + len(text) - 1] = 1
    return {name: jnp.asarray(value) for name, value in fields.items()} | {"weights": jnp.asarray(weights)}


def test_pads_on_either_side_and_packing_change_nothing(x64):
    module = decoder()
    params = params_of(module)
    right = rows_of([[(0, text)] for text in TEXTS])
    left = rows_of([[(11, text)] for text in TEXTS])
    packed = rows_of([[(0, TEXTS[0]), (6, TEXTS[1])], [(3, TEXTS[2])], []])

    @functools.partial(jax.jit, static_argnames="chunk")
    def log_probs(fields, chunk=None):
        return token_log_probs(module, params, fields, chunk=chunk)

    def sums(fields, segments=None):
        return sequence_sums(log_probs(fields), fields["weights"], fields["segment_ids"], segments)

    alone = sums(rows_of([[(0, text)] for text in TEXTS], 5))
    np.testing.assert_allclose(sums(right), alone, rtol=1e-12)
    np.testing.assert_allclose(sums(left), alone, rtol=1e-12)
    np.testing.assert_allclose(sums(packed, 2), [alone[:2], [alone[2], 0], [0, 0]], rtol=1e-12)
    np.testing.assert_allclose(log_probs(right, chunk=5), log_probs(right), rtol=1e-12)
    shifted = {name: value for name, value in left.items() if name != "segment_ids"}
    assert np.max(np.abs(sequence_sums(log_probs(shifted), left["weights"]) - alone)) > 1e-3  # pads are seen


def test_temperature_divides_the_logits(x64):
    tree, fields = small_params(), completions(0)

    @jax.jit
    def both(tree):
        logits = POLICY.apply({"params": tree}, fields["inputs"], segment_ids=fields["segment_ids"], method="features")
        expected = jax.nn.log_softmax(logits[0] @ tree["out"] / 0.7)
        return token_log_probs(POLICY, tree, fields, temperature=0.7), expected

    found, expected = both(tree)
    expected = np.take_along_axis(np.asarray(expected), np.asarray(fields["targets"])[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_sums_means_and_last_tokens_by_segment():
    values = jnp.asarray([[1.0, 2, 3, 4, jnp.nan], [5, 6, 7, 8, 9]])
    weights = jnp.asarray([[0.0, 1, 0.5, 1, 0], [0, 1, 1, 0, 0]])
    segments = jnp.asarray([[1, 1, 1, 2, 0], [0, 1, 1, 1, 3]])
    np.testing.assert_allclose(sequence_sums(values, weights), [7.5, 13])
    np.testing.assert_allclose(sequence_sums(values, weights, segments, 3), [[3.5, 4, 0], [13, 0, 0]])
    np.testing.assert_allclose(sequence_means(values, weights, segments, 3), [[3.5 / 1.5, 4, 0], [6.5, 0, 0]])
    np.testing.assert_array_equal(last_tokens(weights != 0), [[0, 0, 0, 1, 0], [0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(last_tokens(weights != 0, segments, 3), [[0, 0, 1, 1, 0], [0, 0, 1, 0, 0]])
    given = jnp.asarray([[10.0, 20, 30], [40, 50, 60]])
    np.testing.assert_array_equal(spread(given, weights, segments), [[10, 10, 10, 20, 0], [0, 40, 40, 40, 60]])
    with pytest.raises(InputError, match="rows of 3 packed sequences have no segment_ids"):
        sequence_sums(values, weights, None, 3)
