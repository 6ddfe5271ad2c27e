"""The embedded picture sets, and the same through TFDS."""

import pickle
import sys

import numpy as np
import pytest

from fmzoo.data import image_splits, images
from fmzoo.data.embedded_images import EmbeddedImages, records, tiles
from fmzoo.errors import InputError


@pytest.mark.parametrize(
    ("name", "count", "shape", "classes"),
    [("digits", 1797, (8, 8, 1), 10), ("mnist", 5000, (28, 28, 1), 10), ("emoji", 3375, (32, 32, 3), 10)],
)
def test_holds_pictures_with_captions_and_labels(name, count, shape, classes):
    every = images(name, "all")
    assert len(every) == count
    assert len(every.classes) == classes
    assert {"train", "validation", "test"} == set(image_splits(name))
    assert sum(len(images(name, split)) for split in image_splits(name)) == count
    picture = every[count - 1]
    assert (picture.image.shape, picture.image.dtype) == (shape, np.uint8)
    assert picture.caption
    assert 0 <= picture.label < classes


def test_digits_are_told_apart_by_the_nearest_mean():
    """A wrong order of tiles or labels would leave one in ten."""
    for name, least in (("digits", 0.85), ("mnist", 0.75)):
        pixels, labels = (
            tiles(name).reshape(len(records(name)), -1) / 255.0,
            np.array([r["label"] for r in records(name)]),
        )
        means = np.stack([pixels[labels == digit].mean(axis=0) for digit in range(10)])
        nearest = ((pixels[:, None] - means) ** 2).sum(-1).argmin(1) if name == "digits" else None
        if nearest is None:
            nearest = (2 * pixels @ means.T - (means**2).sum(1)).argmax(1)
        assert (nearest == labels).mean() > least
    assert records("digits")[0]["caption"] == "the digit zero"


def test_held_out_emoji_are_new_pairs_of_known_objects_and_tones():
    held = [record for record in records("emoji") if record["split"] == "test"]
    assert len(held) == 64 == len({r["object"] for r in held}) == len({r["caption"] for r in held})
    seen = {(r["object"], r["tone"]) for r in records("emoji") if r["split"] == "train"}
    assert {r["tone"] for r in held} == {1, 2, 3, 4, 5}
    for record in held:
        assert (record["object"], record["tone"]) not in seen
        assert sum((record["object"], tone) in seen for tone in range(6)) >= 3
    captions = [r["caption"] for r in records("emoji")]
    assert len(set(captions)) == len(captions)


def test_a_darker_tone_is_a_darker_hand():
    """Names, tones and pictures belong together."""
    found = {r["tone"]: i for i, r in enumerate(records("emoji")) if r["object"] == "waving hand"}
    brightness = [tiles("emoji")[found[tone]].mean() for tone in range(1, 6)]
    assert brightness == sorted(brightness, reverse=True)


def test_pickles_by_name():
    assert len(pickle.dumps(images("emoji"))) < 200
    assert pickle.loads(pickle.dumps(images("digits", "test")))[3].caption == images("digits", "test")[3].caption


def test_tiles_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        images("digits")[0].image[0] = 1


@pytest.mark.parametrize(
    ("name", "split", "sentence"),
    [
        ("digit", "train", "image set 'digit' does not exist; the nearest are digits"),
        ("digits", "tests", "split 'tests' is not in digits; the nearest are test"),
        ("no/such/folder", "train", "does not exist; a folder of images is needed"),
        ("\0", "train", "does not exist"),
        ("", "train", "does not exist; a folder of images is needed"),
    ],
)
def test_bad_names(name, split, sentence):
    with pytest.raises(InputError) as caught:
        images(name, split)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


def test_only_embedded_sets_are_embedded():
    with pytest.raises(InputError, match="image set 'emojis' is not embedded; the nearest are emoji"):
        EmbeddedImages("emojis")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tfds")
        patch.setenv("TFDS_DATA_DIR", str(folder))
        yield folder


def test_tfds_gives_what_is_embedded(folder):
    for split in ("train", "test"):
        ours, theirs = images("digits", split), images("fmzoo_digits", split)
        assert ours.classes == theirs.classes
        assert len(ours) == len(theirs)
        for i in (0, 7, len(ours) - 1):
            a, b = ours[i], theirs[i]
            np.testing.assert_array_equal(a.image, b.image)
            assert (a.caption, a.label) == (b.caption, b.label)
    assert "tensorflow" not in sys.modules
    assert image_splits("fmzoo_digits") == ("train", "validation", "test")
    pickled = pickle.loads(pickle.dumps(images("tfds:fmzoo_digits", "test")))
    np.testing.assert_array_equal(pickled[2].image, images("digits", "test")[2].image)


def test_emoji_through_tfds(folder):
    from fmzoo.data.tfds_images import TfdsImages

    ours, theirs = images("emoji", "test"), TfdsImages("fmzoo_emoji", "test", caption="object")
    np.testing.assert_array_equal(ours[5].image, theirs[5].image)
    assert theirs[5].caption in ours[5].caption


def test_any_data_set_with_pictures(folder):
    import tensorflow_datasets as tfds

    class ForeignShapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["round", "square"]),
                "size": tfds.features.Scalar(np.int64),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            from fmzoo.data.pictures import encode

            for i in range(3):
                yield i, {"image": encode(np.full((4 + i, 5, 3), i, np.uint8)), "label": i % 2, "size": i}

    shapes = images("foreign_shapes")
    assert shapes.classes == ("round", "square")
    assert sorted((p.image.shape, p.caption, p.label) for p in shapes) == [
        ((4, 5, 3), "round", 0), ((5, 5, 3), "square", 1), ((6, 5, 3), "round", 0),
    ]  # fmt: skip
    from fmzoo.data.tfds_images import TfdsImages

    for options, sentence in [
        ({"image": "picture"}, "has no field 'picture'; the nearest are"),
        ({"image": "size"}, "field 'size' of foreign_shapes is Scalar; an Image is needed"),
        ({"caption": "title"}, "has no field 'title'"),
        ({"split": "test"}, "split 'test' is not in foreign_shapes; the nearest are"),
    ]:
        with pytest.raises(InputError, match=sentence):
            TfdsImages("foreign_shapes", **options)
