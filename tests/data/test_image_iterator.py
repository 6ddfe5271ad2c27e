"""One order of pictures, crops and flips, whatever the hosts, stops and workers."""

import json

import numpy as np
import pytest

from fmzoo.data import Framing, ImageIterator, Picture, images, merge_states
from fmzoo.errors import InputError

RNG = np.random.default_rng(0)


class Noise:
    """Pictures of different sizes, each with a colour of its own."""

    classes = ("even", "odd")

    def __init__(self, count=11):
        self.pictures = [
            Picture(RNG.integers(0, 256, (9 + i % 4, 8 + i % 5, 3), dtype=np.uint8), f"picture {i}", i % 2)
            for i in range(count)
        ]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.pictures[index]


NOISE = Noise()
FRAMING = Framing(8, 6, crop="random", flip=0.5)
EVERY = ("caption", "label", "time_ids", "index")


def letters(caption):
    return [ord(c) for c in caption[:8].ljust(8)]


def iterator(**changes):
    options = {"batch_size": 4, "seed": 3, "fields": EVERY, "tokenize": letters} | changes
    return ImageIterator(options.pop("pictures", NOISE), options.pop("framing", FRAMING), **options)


def take(batches, count):
    return [next(batches) for _ in range(count)]


def same(left, right):
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a) for a, b in zip(left, right, strict=True)
    )


def test_batch_fields():
    batch = next(iterator())
    assert {name: (a.dtype.name, a.shape) for name, a in batch.items()} == {
        "image": ("float32", (4, 8, 6, 3)),
        "caption": ("int32", (4, 8)),
        "label": ("int32", (4,)),
        "time_ids": ("float32", (4, 6)),
        "index": ("int32", (4,)),
        "weights": ("float32", (4,)),
        "example_id": ("int32", (4,)),
    }
    assert -1 <= batch["image"].min() < -0.5 < 0.5 < batch["image"].max() <= 1
    assert batch["weights"].tolist() == [1] * 4
    for index, sizes in zip(batch["index"], batch["time_ids"], strict=True):  # no two pictures share theirs
        assert NOISE[index].image.shape[:2] == tuple(sizes[:2])


def test_fields_are_chosen():
    assert set(next(iterator(fields=("label",)))) == {"image", "label", "weights", "example_id"}
    text = next(iterator(fields=("caption",), tokenize=None))["caption"]
    assert all(caption.startswith("picture ") for caption in text.tolist())
    two = next(iterator(fields=("caption",), tokenize=lambda text: {"caption": [1], "caption_2": letters(text)}))
    assert (two["caption"].shape, two["caption_2"].shape) == ((4, 1), (4, 8))


def test_every_picture_comes_once_an_epoch_and_the_order_changes():
    seen = [c for batch in take(iterator(tokenize=None), 11) for c in batch["caption"].tolist()]
    epochs = [seen[11 * e : 11 * e + 11] for e in range(4)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == 11 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_crops_and_flips_change_with_the_epoch_and_the_seed():
    def looks(seed):
        found = {}
        for batch in take(iterator(tokenize=None, seed=seed), 33):
            for caption, image in zip(batch["caption"].tolist(), batch["image"], strict=True):
                found.setdefault(caption, []).append(image.tobytes())
        return found

    one, other = looks(3), looks(4)
    counts = [len(set(views)) for views in one.values()]
    assert min(counts) > 1
    assert max(counts) > 3
    assert one != other


@pytest.mark.parametrize("count", [2, 4])
def test_the_number_of_hosts_changes_nothing(count):
    hosts = [iterator(rows=range(4 * h // count, 4 * (h + 1) // count)) for h in range(count)]
    parts = [take(host, 7) for host in hosts]
    joined = [{k: np.concatenate([p[i][k] for p in parts]) for k in parts[0][i]} for i in range(7)]
    assert same(joined, take(iterator(), 7))


def test_resumes_bit_for_bit_on_other_hosts():
    whole = take(iterator(), 9)
    hosts = [iterator(rows=range(2)), iterator(rows=range(2, 4))]
    for host in hosts:
        take(host, 4)
    state = json.loads(json.dumps(merge_states([host.get_state() for host in hosts])))
    resumed = iterator()
    resumed.set_state(state)
    assert resumed.examples == 16
    assert same(take(resumed, 5), whole[4:])


def test_a_state_of_other_pictures_is_refused():
    state = iterator().get_state()
    for changes, name in [
        ({"seed": 4}, "seed"),
        ({"framing": Framing(8, 6)}, "crop"),
        ({"pictures": Noise(12)}, "images"),
        ({"pictures": Noise(11)}, "digest"),
        ({"batch_size": 2}, "batch_size"),
    ]:
        with pytest.raises(InputError, match=f"iterator state has {name}"):
            iterator(**changes).set_state(state)


def test_workers_change_nothing():
    digits, framing = images("digits", "test"), Framing(8, 8, 1, flip=0.5)
    options = {"batch_size": 4, "fields": ("caption", "label")}
    expected = take(ImageIterator(digits, framing, **options), 6)
    with ImageIterator(digits, framing, workers=2, **options) as batches:
        assert same(take(batches, 3), expected[:3])
        state = batches.get_state()
    with ImageIterator(digits, framing, **options) as batches:
        batches.set_state(state)
        assert same(take(batches, 3), expected[3:])


def test_time_ids_say_where_a_crop_was_cut():
    """Without resizing, the crop at (top, left) of the flipped or unflipped original is the image."""
    picture = NOISE[2].image
    framing, flips = Framing(8, 8, crop="random", flip=0.5), set()
    for i in range(20):
        wide = np.concatenate([picture[:8], picture[:8]], axis=1)
        image, ids = framing.frame(wide, f"draw {i}")
        height, width, top, left, *target = ids.astype(int).tolist()
        assert (height, width, target) == (*wide.shape[:2], [8, 8])
        views = [w[top : top + 8, left : left + 8] for w in (wide, wide[:, ::-1])]
        flips.add([np.array_equal(image, view) for view in views].index(True))
    assert flips == {0, 1}


def test_centre_crop_and_resize():
    ramp = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], 10, axis=0)  # 10 x 20
    image, ids = Framing(10, 10, 1).frame(ramp, "")
    np.testing.assert_array_equal(image, ramp[:, 5:15])
    assert ids.tolist() == [10, 20, 0, 5, 10, 10]
    smaller, _ = Framing(2, 2, 1).frame(ramp, "")
    assert abs(smaller.mean() - image.mean()) < 3
    assert Framing(40, 40, 3).frame(ramp, "")[0].shape == (40, 40, 3)


def test_channels():
    white = np.full((4, 4, 3), 255, np.uint8)
    assert (Framing(4, 4, 1).frame(white, "").image == 255).all()
    green = np.broadcast_to(np.array([0, 255, 0], np.uint8), (4, 4, 3))
    assert (Framing(4, 4, 1).frame(green, "").image == 150).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"height": 12, "divisor": 8}, "image height is 12; a multiple of 8 above 0 is needed"),
        ({"width": 0}, "image width is 0"),
        ({"channels": 2}, "image channels are 2; 1 or 3"),
        ({"crop": "left"}, "image crop is 'left'"),
        ({"flip": 1.5}, "image flip is 1.5"),
    ],
)
def test_bad_framings(options, sentence):
    with pytest.raises(InputError, match=sentence):
        Framing(**{"height": 8, "width": 8} | options)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"rows": range(3, 6)}, "rows are range"),
        ({"fields": ("captions",)}, "field 'captions' of image batches is unknown; the nearest are caption"),
        ({"pictures": Noise(0)}, "there is no image"),
    ],
)
def test_bad_arguments(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        iterator(**changes)


def test_labels_and_tokens_that_are_not_there():
    class Plain(Noise):
        classes = ()

    with pytest.raises(InputError, match="field 'label' is asked for and the images have no classes"):
        iterator(pictures=Plain())
    ragged = iterator(tokenize=lambda caption: range(len(caption)), batch_size=11)
    with pytest.raises(InputError, match="caption tokens have the shapes .* tokenize must pad to one length"):
        next(ragged)


def test_a_bad_picture_leaves_the_place():
    class Torn(Noise):
        broken = True

        def __getitem__(self, index):
            if index == 5 and self.broken:
                raise InputError("image 5 is damaged")
            return super().__getitem__(index)

    torn = Torn()
    batches = iterator(pictures=torn, batch_size=11)
    with pytest.raises(InputError, match="image 5"):
        next(batches)
    torn.broken = False
    assert same([next(batches)], [next(iterator(pictures=torn, batch_size=11))])
