"""The judges, trained on the spot: digits are named, distances tell good from bad, captions find their pictures."""

import numpy as np
import pytest

from fmzoo.data import Framing, images
from fmzoo.errors import InputError
from fmzoo.evals import frechet_distance, image_features, predict_labels, retrieval_top1, text_features
from fmzoo.stages.feature_networks import gather, train_classifier, train_image_text

FRAMING = Framing(8, 8, 1)


@pytest.fixture(scope="module")
def classifier():
    return train_classifier(images("digits"), FRAMING, widths=(16, 32), steps=150)


def test_names_held_out_digits(classifier):
    pixels, _, labels = gather(images("digits", "test"), FRAMING)
    assert (predict_labels(classifier, pixels) == labels).mean() >= 0.95


def test_features_tell_digits_from_noise(classifier):
    """A distance grows with the noise put over the digits."""
    train, test = (gather(images("digits", split), FRAMING, 395)[0] for split in ("train", "test"))
    noise = np.random.default_rng(0).normal(size=test.shape)
    levels = [np.clip(test / 127.5 - 1 + level * noise, -1, 1).astype(np.float32) for level in (0, 0.5, 1)]
    real = image_features(classifier, train, batch_size=100)
    assert real.shape == (395, 64)
    distances = [frechet_distance(real, image_features(classifier, level)) for level in levels]
    assert distances == sorted(distances)
    assert distances[2] > 3 * distances[0]


def test_captions_find_their_digits():
    """Ten captions, chance one in ten."""
    network = train_image_text(images("digits"), FRAMING, features=16, widths=(16, 32), steps=100, batch_size=64)
    pixels, captions, labels = gather(images("digits", "test"), FRAMING)
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    texts = text_features(network, [captions[i] for i in first])
    found = image_features(network, pixels) @ texts.T
    assert (found.argmax(axis=1) == labels).mean() > 0.8
    assert retrieval_top1(image_features(network, pixels[first]), texts).mean() >= 0.7


def test_bad_input(classifier):
    for call, sentence in [
        (lambda: image_features(classifier, np.zeros((2, 9, 8, 1))), r"images has shape \(2, 9, 8, 1\); \[N 8 8 1\]"),
        (lambda: image_features(classifier, np.zeros((0, 8, 8, 1))), "images: there are none"),
        (lambda: image_features(classifier, np.zeros((1, 8, 8, 1)), batch_size=0), "batch_size is 0"),
        (lambda: text_features(classifier, []), "captions: there are none"),
        (lambda: train_classifier(images("digits"), FRAMING, steps=0), "steps are 0"),
    ]:
        with pytest.raises(InputError, match=sentence):
            call()
