import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.generate.sampling import (
    SamplingConfig,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    most_probable,
    penalise_repetition,
    process,
)

PROBS = jnp.array([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]])
LOGITS = jnp.log(PROBS)


def kept(logits):
    return np.isfinite(np.asarray(logits)).tolist()


@pytest.mark.parametrize(
    ("k", "row"),
    [(1, [0, 1, 0, 0]), (2, [0, 1, 0, 1]), (3, [0, 1, 1, 1]), (4, [1, 1, 1, 1]), (9, [1, 1, 1, 1])],
)
def test_top_k(k, row):
    out = keep_top_k(LOGITS, k)
    assert kept(out) == [list(map(bool, row)), [True] * 4]  # the second row is one tie
    np.testing.assert_array_equal(np.asarray(out)[kept(out)], np.asarray(LOGITS)[kept(out)])


@pytest.mark.parametrize(
    ("p", "row"),
    [(0.05, [0, 1, 0, 0]), (0.4, [0, 1, 0, 0]), (0.41, [0, 1, 0, 1]), (0.71, [0, 1, 1, 1]), (0.95, [1, 1, 1, 1])],
)
def test_top_p(p, row):
    assert kept(keep_top_p(LOGITS, p))[0] == list(map(bool, row))


@pytest.mark.parametrize(
    ("p", "row"),
    [(0.2, [1, 1, 1, 1]), (0.3, [0, 1, 1, 1]), (0.6, [0, 1, 0, 1]), (0.8, [0, 1, 0, 0]), (1.0, [0, 1, 0, 0])],
)
def test_min_p(p, row):
    assert kept(keep_min_p(LOGITS, p)) == [list(map(bool, row)), [True] * 4]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_limits_agree_with_sorting(x64, dtype):
    logits = 5 * jax.random.normal(jax.random.key(0), (6, 301), dtype)
    logits = logits.at[0, 7].set(0.0).at[0, 8].set(-0.0).at[1, :200].set(-jnp.inf)
    order = np.argsort(-np.asarray(logits), axis=-1, kind="stable")
    probs = np.take_along_axis(np.asarray(jax.nn.softmax(logits)), order, -1)
    for k in (1, 17, 90):
        expected = np.zeros(logits.shape, bool)
        np.put_along_axis(expected, order[:, :k], True, -1)
        np.testing.assert_array_equal(kept(keep_top_k(logits, k)), expected)
    for p in (0.1, 0.5, 0.9, 0.99):
        expected = np.zeros(logits.shape, bool)
        np.put_along_axis(expected, order, np.cumsum(probs, -1) - probs < p, -1)
        np.testing.assert_array_equal(kept(keep_top_p(logits, p)), expected)


def test_repetition_penalty():
    logits = jnp.array([[2.0, -2.0, 0.0, 2.0]])
    seen = jnp.array([[True, True, True, False]])
    np.testing.assert_allclose(penalise_repetition(logits, seen, 4.0), [[0.5, -8.0, 0.0, 2.0]])


def test_processors_run_in_their_order():
    # The penalty makes token 1 the least probable; the temperature spreads the rest; two stay; then half of the first.
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]])) + 3
    seen = jnp.array([[False, True, False, False]])
    out = process(logits, seen, repetition_penalty=10.0, temperature=0.5, top_k=2, min_p=0.5)
    assert kept(out) == [[False, False, False, True]]  # (2/3)^2 is below a half, 2/3 would not be
    assert kept(process(logits, seen, repetition_penalty=10.0, top_k=2, min_p=0.5)) == [[False, False, True, True]]
    half = process(LOGITS, temperature=0.5, top_p=0.8)  # squares 1, 16, 4, 9 of 30: 16 + 9 are above 0.8
    assert kept(half)[0] == [False, True, False, True]


def test_frequencies_are_the_probabilities():
    # Pearson's statistic of 40,000 draws with two degrees of freedom; 13.8 is passed by chance once in a thousand.
    count = 40_000
    keys = jax.random.split(jax.random.key(0), count)
    active = SamplingConfig(temperature=0.5, top_p=0.96).active()
    tokens, log_probs, model_log_probs = draw(jnp.tile(LOGITS[:1], (count, 1)), keys, None, active)
    squares = np.array([0, 16, 4, 9]) / 29
    seen = np.bincount(np.asarray(tokens), minlength=4)
    assert seen[0] == 0
    assert (((seen - count * squares) ** 2)[1:] / (count * squares)[1:]).sum() < 13.8
    np.testing.assert_allclose(np.exp(log_probs), squares[np.asarray(tokens)], rtol=1e-5)
    np.testing.assert_allclose(np.exp(model_log_probs), np.asarray(PROBS)[0, np.asarray(tokens)], rtol=1e-5)


def test_a_row_is_drawn_by_its_own_key():
    logits, keys = jax.random.normal(jax.random.key(1), (5, 50)), jax.random.split(jax.random.key(2), 5)
    active = SamplingConfig().active()
    together = draw(logits, keys, None, active)[0]
    alone = [draw(logits[i : i + 1], keys[i : i + 1], None, active)[0][0] for i in range(5)]
    assert together.tolist() == [int(token) for token in alone]


def test_greedy_leaves_nothing_to_chance():
    tokens, log_probs, model_log_probs = draw(LOGITS, None, None, SamplingConfig(temperature=0, top_k=3).active())
    assert tokens.tolist() == [1, 0]
    assert log_probs.tolist() == [0, 0]
    np.testing.assert_allclose(np.exp(model_log_probs), [0.4, 0.25], rtol=1e-6)


def test_the_most_probable_is_the_first_of_the_largest():
    logits = jax.random.normal(jax.random.key(3), (7, 33)).round(1)
    logits = logits.at[0].set(0.0).at[1, 32].set(9.0).at[2, :31].set(-jnp.inf)
    assert most_probable(logits).tolist() == jnp.argmax(logits, axis=-1).tolist()
    assert most_probable(jnp.full((1, 5), jnp.nan)).tolist() == [4]  # a token still


def test_only_what_changes_something_is_active():
    assert SamplingConfig(top_p=1.0, min_p=0.0).active() == {"temperature": 1.0}
    assert SamplingConfig(0.0, 5, 0.5, 0.1, 1.2).active() == {"repetition_penalty": 1.2}
    full = {"repetition_penalty": 1.2, "temperature": 0.7, "top_k": 5, "top_p": 0.5, "min_p": 0.1}
    assert SamplingConfig(0.7, 5, 0.5, 0.1, 1.2).active() == full


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", float("nan")), ("temperature", float("inf")), ("top_k", 0),
        ("top_k", 1.5), ("top_p", 0.0), ("top_p", 1.1), ("min_p", -0.1), ("min_p", 2.0), ("repetition_penalty", 0.0),
    ],
)  # fmt: skip
def test_refuses(field, value):
    with pytest.raises(InputError, match=f"^{field} is .*is needed$"):
        SamplingConfig(**{field: value})
