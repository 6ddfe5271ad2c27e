"""Distances between features against closed forms, brute force and SciPy's matrix root; intervals by coverage."""

import math

import numpy as np
import pytest
import scipy.linalg

from fmzoo.errors import InputError
from fmzoo.evals import (
    bootstrap,
    chance_top1,
    clip_score,
    density_coverage,
    frechet_distance,
    gaussian_distance,
    image_quality,
    kernel_distance,
    precision_recall,
    retrieval_top1,
)

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(40, 6)) @ RNG.normal(size=(6, 6))
GENERATED = RNG.normal(0.3, 1.2, size=(33, 6)) @ RNG.normal(size=(6, 6))


def test_frechet_is_what_the_matrix_root_gives():
    c1, c2 = np.cov(REAL, rowvar=False), np.cov(GENERATED, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2)
    assert np.abs(root.imag).max() < 1e-8
    gap = ((REAL.mean(0) - GENERATED.mean(0)) ** 2).sum()
    expected = gap + np.trace(c1 + c2 - 2 * root.real)
    assert frechet_distance(REAL, GENERATED) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(REAL, REAL) == pytest.approx(0, abs=1e-9)


def test_frechet_of_gaussians_in_closed_form():
    """Of commuting covariances it is |m1 - m2|^2 + sum (s1 - s2)^2, also where some are singular."""
    basis, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
    s1, s2 = np.array([0.0, 1, 2, 0.5, 3]), np.array([0.0, 2, 0, 0.5, 1])
    m1, m2 = np.arange(5.0), np.ones(5)
    found = gaussian_distance(m1, basis * s1**2 @ basis.T, m2, basis * s2**2 @ basis.T)
    assert found == pytest.approx(((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum(), rel=1e-7)


def test_frechet_of_fewer_rows_than_features():
    few = RNG.normal(size=(4, 12))
    c1, c2 = np.cov(few, rowvar=False), np.cov(few[:3], rowvar=False)
    root = np.sqrt(np.maximum(np.linalg.eigvals(c1 @ c2).real, 0)).sum()
    expected = ((few.mean(0) - few[:3].mean(0)) ** 2).sum() + np.trace(c1 + c2) - 2 * root
    assert frechet_distance(few, few[:3]) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_pair_by_pair():
    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / 6 + 1) ** 3

    def within(rows):
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return math.fsum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    between = math.fsum(kernel(x, y) for x in REAL for y in GENERATED) / (len(REAL) * len(GENERATED))
    expected = within(REAL) + within(GENERATED) - 2 * between
    assert kernel_distance(REAL, GENERATED) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_is_unbiased():
    """Its mean over many small sets is the population's value; the biased one is far from it."""
    x, y = RNG.normal(size=(2, 4000, 5, 1))
    y = y + 1
    found = np.array([kernel_distance(a, b, degree=1, gamma=1.0) for a, b in zip(x, y, strict=True)])
    assert found.mean() == pytest.approx(1.0, abs=4 * found.std() / math.sqrt(len(found)))  # |m1 - m2|^2


def brute(real, generated, k):
    """Every definition spelled out, ball by ball."""

    def radius(rows, i):
        return sorted(math.dist(rows[i], other) for j, other in enumerate(rows) if j != i)[k - 1]

    real_r = [radius(real, i) for i in range(len(real))]
    generated_r = [radius(generated, j) for j in range(len(generated))]
    inside = [[math.dist(x, y) <= r for y in generated] for x, r in zip(real, real_r, strict=True)]
    covered = [[math.dist(x, y) <= r for x in real] for y, r in zip(generated, generated_r, strict=True)]
    return {
        "precision": np.mean([any(column) for column in zip(*inside, strict=True)]),
        "recall": np.mean([any(column) for column in zip(*covered, strict=True)]),
        "density": np.sum(inside) / (k * len(generated)),
        "coverage": np.mean([any(row) for row in inside]),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_manifolds_ball_by_ball(k):
    expected = brute(REAL, GENERATED, k)
    found = precision_recall(REAL, GENERATED, k)._asdict() | density_coverage(REAL, GENERATED, k)._asdict()
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 < found["precision"] < 1
    assert 0 < found["coverage"] < 1


def test_coverage_of_one_distribution():
    """Expected coverage of sets of one size is 1 - prod (N - i) / (2N - i) over i to k (arXiv 2002.09797, eq. 8)."""
    sets = RNG.normal(size=(60, 2, 60, 3))
    found = np.array([density_coverage(a, b, 5) for a, b in sets])
    expected = 1 - math.prod((60 - 1 - i) / (2 * 60 - 1 - i) for i in range(5))
    error = found.std(axis=0) / math.sqrt(len(found))
    assert found[:, 1].mean() == pytest.approx(expected, abs=4 * error[1])
    assert found[:, 0].mean() == pytest.approx(1, abs=4 * error[0])


def test_a_collapsed_generator_is_precise_and_covers_nothing():
    real = RNG.normal(size=(50, 4))
    collapsed = real[:1] + RNG.normal(size=(50, 4)) * 1e-3
    precision, recall = precision_recall(real, collapsed)
    assert precision == 1
    assert recall <= 0.02
    assert density_coverage(real, collapsed).coverage < 0.5


def test_clip_score_and_retrieval():
    texts = np.eye(4)
    images = np.array([[2.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, -1, 0], [1, 0, 0, 1]])
    assert clip_score(images, texts) == pytest.approx(100 * (1 + math.sqrt(0.5) * 2) / 4)
    np.testing.assert_allclose(retrieval_top1(images, texts), [1, 0.5, 0, 0.5])
    np.testing.assert_allclose(retrieval_top1(images, texts, np.array([0, 1, 2, 3])), 1)
    np.testing.assert_allclose(retrieval_top1(images, texts, np.array([0, 1, 1, 0])), [1, 0.5, 0, 0.5])
    assert chance_top1(np.array([0, 0, 0, 1])) == pytest.approx((3 / 3 + 1) / 4)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    def covers(statistic, truth, draw):
        intervals = [bootstrap(statistic, *draw(), resamples=60, seed=seed) for seed in range(150)]
        return np.mean([low <= truth <= high for _, low, high in intervals])

    mean = covers(lambda x: x.mean(), 0.0, lambda: [RNG.normal(size=60)])
    gap = covers(lambda x, y: kernel_distance(x, y, degree=1, gamma=1.0), 4.0,
                 lambda: [RNG.normal(size=(40, 1)), RNG.normal(2, 1, size=(40, 1))])  # fmt: skip
    assert 0.88 <= mean <= 0.99
    assert 0.88 <= gap <= 0.99


def test_intervals_repeat_and_pair():
    rows = RNG.normal(size=30)
    assert bootstrap(np.mean, rows, resamples=20) == bootstrap(np.mean, rows, resamples=20)
    value, low, high = bootstrap(lambda a, b: float((a - b).mean()), rows, rows - 1, paired=True, resamples=20)
    assert value == pytest.approx(1)
    assert high - low < 1e-12
    assert str(bootstrap(np.mean, np.ones(4))) == "1 [1, 1]"


def test_every_distance_at_once():
    found = image_quality(REAL, GENERATED, resamples=10)
    assert set(found) == {"frechet", "kid", "precision", "recall", "density", "coverage"}
    assert found["frechet"].value == frechet_distance(REAL, GENERATED)
    assert all(interval.low <= interval.high for interval in found.values())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: frechet_distance(REAL, GENERATED[:, :3]), r"generated features has shape \(33, 3\)"),
        (lambda: frechet_distance(REAL[0], GENERATED), r"real features has shape \(6,\); \[N D\]"),
        (lambda: kernel_distance(REAL[:1], GENERATED), "real features have 1 rows; at least 2"),
        (lambda: frechet_distance(REAL * np.nan, GENERATED), "real features are not all finite"),
        (lambda: precision_recall(REAL, GENERATED, 33), "k is 33 of 40 and 33 rows"),
        (lambda: density_coverage(REAL, GENERATED, 0), "k is 0 of"),
        (lambda: clip_score(REAL, GENERATED), "text features has shape"),
        (lambda: clip_score(REAL * 0, REAL), "image features have a row that is zero"),
        (lambda: clip_score(REAL[:0], REAL[:0]), "image features have no row"),
        (lambda: bootstrap(np.mean, REAL[:3]), r"samples have \[3\] rows"),
        (lambda: bootstrap(np.mean, REAL, REAL[:9], paired=True), "paired samples have"),
        (lambda: bootstrap(np.mean, REAL, level=1.0), "resamples are 200 at level 1.0"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
