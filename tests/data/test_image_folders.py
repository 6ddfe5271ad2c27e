"""Folders of pictures: captions found, splits and classes by folder, and every bad file one sentence."""

import io
import json
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fmzoo.data import image_splits, images
from fmzoo.data.pictures import MAX_PIXELS, decode, encode
from fmzoo.errors import InputError

RED = np.broadcast_to(np.array([250, 10, 20], np.uint8), (6, 9, 3))


def put(path, data=None, text=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(RED) if data is None else data)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


def row(name):
    return json.dumps({"file_name": name, "text": "x"}).encode()


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def bomb(width, height):
    """A PNG whose header promises much and which holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_captions_beside_pictures(tmp_path):
    put(tmp_path / "b.png", text="  a naïve cat\n")
    put(tmp_path / "deep" / "a.JPG", saved(Image.new("RGB", (4, 3)), format="JPEG"))
    (tmp_path / "deep" / "a.txt").write_text("a dog")
    found = images(tmp_path)
    assert [(p.caption, p.image.shape, p.label) for p in found] == [
        ("a naïve cat", (6, 9, 3), -1),
        ("a dog", (3, 4, 3), -1),
    ]
    np.testing.assert_array_equal(found[0].image, RED)
    assert [p.caption for p in pickle.loads(pickle.dumps(found))] == ["a naïve cat", "a dog"]


def test_captions_in_one_file(tmp_path):
    for name in ("one.png", "sub/two.png"):
        put(tmp_path / name)
    rows = [{"file_name": "sub/two.png", "text": "a\u2028b"}, {"file_name": "one.png", "text": "", "more": 1}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    assert [p.caption for p in images(tmp_path)] == ["", "a\u2028b"]


def test_splits_and_classes_are_folders(tmp_path):
    for name in ("train/cat/1.png", "train/dog/train.png", "test/dog/3.png"):
        put(tmp_path / name)
    assert image_splits(tmp_path) == ("train", "test")
    train = images(tmp_path, "train")
    assert train.classes == ("cat", "dog")
    assert [(p.caption, p.label) for p in train] == [("cat", 0), ("dog", 1)]
    test = images(tmp_path, "test")
    assert (test.classes, [p.label for p in test]) == (("cat", "dog"), [1])
    assert len(images(tmp_path, "all")) == 3
    put(tmp_path / "validation" / "4.png")
    assert images(tmp_path, "validation").classes == ()
    assert images(tmp_path, "train").classes == ("cat", "dog")
    (tmp_path / "validation" / "4.png").unlink()
    with pytest.raises(InputError, match="has no split 'validation'; the nearest are"):
        images(tmp_path, "validation")


def test_a_picture_is_no_split(tmp_path):
    put(tmp_path / "test_tube.png")
    put(tmp_path / "train.png")
    assert image_splits(tmp_path) == ("train",)
    assert [p.caption for p in images(tmp_path)] == ["", ""]
    assert images(tmp_path).classes == ()


def test_remote_folders(bucket):
    (bucket / "p").mkdir()
    (bucket / "p" / "x.png").write_bytes(encode(RED))
    (bucket / "p" / "x.txt").write_text("red")
    assert [p.caption for p in images("gs://bucket/p")] == ["red"]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "holds no image; a .png"),
        ({"a.txt": b"alone"}, "holds no image"),
        ({"a.png": None, "b.txt": b"alone"}, "b.txt has no image beside it"),
        ({"a.png": None, "b.png": None, "b.txt": b"x"}, "a.png has no caption though others have"),
        ({"a.png": None, "a.txt": b"\xff\xfe"}, "a.txt is not UTF-8"),
        ({"a.png": None, "metadata.jsonl": row("../a.png")}, "line 1 has a caption for '../a.png'"),
        ({"a.png": None, "metadata.jsonl": row("b.png")}, "line 1 has a caption for 'b.png'"),
        ({"a.png": None, "metadata.jsonl": row("a.png") + b"\n[1]"}, "line 2 is no"),
        ({"a.png": None, "metadata.jsonl": b'{"file_name": "a.png"}'}, "line 1 is no"),
        ({"a.png": None, "metadata.jsonl": b'{"file_name": 3, "text": "x"}'}, "line 1 is no"),
        ({"a.png": None, "metadata.jsonl": b"[" * 100000}, "line 1 is no"),
        ({"a.png": b""}, "a.png is damaged or of another format; PNG"),
        ({"a.png": b"not a picture"}, "a.png is damaged or of another format"),
        ({"a.png": encode(RED)[:45]}, "a.png is damaged"),
        ({"a.png": bomb(9000, 9000)}, f"a.png has 9000 x 9000 pixels; at most {MAX_PIXELS} are accepted"),
        ({"a.png": bomb(60000, 60000)}, f"a.png has too many pixels; at most {MAX_PIXELS} are accepted"),
    ],
)  # fmt: skip
def test_bad_folders(tmp_path, files, sentence):
    for name, data in files.items():
        put(tmp_path / name, data)
    with pytest.raises(InputError) as caught:
        images(tmp_path)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_are_refused(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = saved(frames[0], format=kind, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="image x is animated; a still picture is needed"):
        decode(data, "x")


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    from fmzoo.data import image_folders

    put(tmp_path / "a.png")
    monkeypatch.setattr(image_folders, "LARGEST", 10)
    with pytest.raises(InputError, match=r"a.png has \d+ bytes; at most 10 are accepted"):
        images(tmp_path)


def test_modes():
    ramp = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert decode(saved(Image.fromarray(ramp), format="PNG"), "x").shape == (4, 6, 1)
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert (decode(saved(clear, format="PNG"), "x") == 255).all()
    half = Image.new("LA", (2, 2), (0, 128))
    assert abs(int(decode(saved(half, format="PNG"), "x")[0, 0, 0]) - 127) <= 1
    palette = Image.fromarray(RED).convert("P")
    assert decode(saved(palette, format="GIF"), "x").shape == (6, 9, 3)
    deep = Image.fromarray((ramp.astype(np.uint16) << 8) + 77)
    np.testing.assert_array_equal(decode(saved(deep, format="PNG"), "x")[..., 0], ramp)
    assert decode(saved(Image.new("1", (3, 2), 1), format="PNG"), "x").tolist() == [[[255]] * 3] * 2
    assert decode(saved(Image.new("CMYK", (3, 2)), format="JPEG"), "x").shape == (2, 3, 3)


def test_a_photo_is_turned_as_its_camera_was_held():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    data = saved(Image.new("RGB", (8, 4)), format="JPEG", exif=exif)
    assert decode(data, "x").shape == (8, 4, 3)


def test_damage_anywhere_is_one_sentence():
    """Bytes turned around in files of every kind: decoded or refused, never anything else."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
    refused = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF"):
        whole = np.frombuffer(saved(noise, format=kind), np.uint8)
        for _ in range(60):
            data = whole.copy()
            data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            try:
                decode(data.tobytes()[: rng.integers(len(data) // 2, len(data) + 1)], "x")
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert max(map(len, refused)) < 300
