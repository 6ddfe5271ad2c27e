"""The GGUF format against the package of those who define it, and hostile files."""

import struct

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmzoo.errors import InputError
from fmzoo.interop.gguf_format import ENCODINGS, Tensor, block_size, byte_count, read_file, write_file

KEYS = {
    "general.architecture": "llama", "a.flag": True, "a.one": 7, "a.large": 2**40, "a.negative": -3, "a.epsilon": 1e-5,
    "a.names": ["x", "", "é"], "a.numbers": np.array([1, -2, 3], np.int32), "a.flags": np.array([True, False]),
    "a.scores": np.array([0.5, -1e30], np.float32),
}  # fmt: skip


def matrix(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def written(path, **metadata):
    tensors = {"wide": ("F32", matrix(3, 5)), "half": ("F16", matrix(2, 3, 4)), "brain": ("BF16", matrix(4, 4))}
    tensors |= {"blocks": ("Q8_0", matrix(6, 64)), "vector": ("F32", matrix(7))}
    write_file(path, KEYS | metadata, tensors)
    return tensors


def test_what_we_write_the_package_reads(tmp_path):
    tensors = written(tmp_path / "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    for key, value in KEYS.items():
        found = reader.fields[key].contents()
        assert found == (value.tolist() if isinstance(value, np.ndarray) else value) or found == np.float32(value)
    assert [t.name for t in reader.tensors] == list(tensors)
    for tensor, (encoding, array) in zip(reader.tensors, tensors.values(), strict=True):
        assert tensor.tensor_type.name == encoding
        assert tuple(tensor.shape[::-1]) == array.shape
        found = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_allclose(found, array, atol={"F32": 0, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2}[encoding])


def test_what_the_package_writes_we_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_custom_alignment(64)
    writer.add_float32("a.epsilon", 1e-5)
    writer.add_float64("a.exact", 0.1)
    writer.add_uint8("a.byte", 200)
    writer.add_array("a.names", ["x", "é"])
    writer.add_array("a.numbers", [1, -2])
    kinds = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
    blocks = {kind: gguf.quantize(matrix(6, 64), gguf.GGMLQuantizationType[kind]) for kind in kinds}
    for kind, block in blocks.items():
        writer.add_tensor(kind, block, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata, tensors = read_file(tmp_path / "a.gguf")
    assert metadata["a.epsilon"] == 1e-5
    assert metadata["a.exact"] == 0.1
    assert (metadata["a.byte"], metadata["a.names"], metadata["a.numbers"].tolist()) == (200, ["x", "é"], [1, -2])
    for kind, tensor in tensors.items():
        assert (tensor.encoding, tensor.shape) == (kind, (6, 64))
        expected = gguf.dequantize(blocks[kind], gguf.GGMLQuantizationType[kind])
        np.testing.assert_array_equal(np.asarray(tensor), expected.reshape(6, 64))


def test_every_encoding_is_read(tmp_path):
    for encoding in ENCODINGS:
        numbers, size = block_size(encoding)
        (tmp_path / "a").write_bytes(b"\0" * 6 * size)
        assert np.asarray(Tensor(tmp_path / "a", encoding, (2, 3 * numbers), 0)).shape == (2, 3 * numbers)
        assert byte_count(encoding, (2, 3 * numbers)) == 6 * size


def raw(*, version=3, tensors=(), keys=(), counts=None, magic=b"GGUF", body=b"\0" * 64):
    """A file from entries that are bytes already."""
    counts = counts or (len(tensors), len(keys))
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + body


def text(value):
    content = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(content)) + content


def key(name, kind, content):
    return text(name) + struct.pack("<I", kind) + content


def entry(name="a", shape=(4,), kind=0, offset=0, dimensions=None):
    dimensions = len(shape) if dimensions is None else dimensions
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", dimensions, *shape, kind, offset)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "does not begin with GGUF"),
        (raw(magic=b"GGML"), "does not begin with GGUF"),
        (raw(version=1), "its version is 1"),
        (raw(version=3 << 24), "little-endian"),
        (raw(counts=(0, 2**60)), "1152921504606846976 entries are announced"),
        (raw(counts=(2**60, 0)), "1152921504606846976 entries are announced"),
        (raw(keys=[struct.pack("<Q", 2**50)]), "entries are announced|bytes are announced"),
        (raw(keys=[key("a", 8, struct.pack("<Q", 2**50))]), "bytes are announced"),
        (raw(keys=[key("a", 9, struct.pack("<IQ", 4, 2**50))]), "bytes are announced"),
        (raw(keys=[key("a", 9, struct.pack("<IQ", 8, 2**50))]), "entries are announced"),
        (raw(keys=[key("a", 9, struct.pack("<IQ", 9, 1))]), "unknown type 9"),
        (raw(keys=[key("a", 99, b"")]), "unknown type 99"),
        (raw(keys=[key(b"\xff", 4, b"1234")]), "no sound GGUF"),
        (raw(keys=[key("a", 4, b"1234")] * 2), "the key 'a' stands there twice"),
        (raw(keys=[key("general.alignment", 4, struct.pack("<I", 3))]), "a power of two is needed"),
        (raw(keys=[key("general.alignment", 4, struct.pack("<I", 0))]), "a power of two is needed"),
        (raw(tensors=[entry(), entry(offset=32)]), "the tensor 'a' stands there twice"),
        (raw(tensors=[entry(shape=())]), "has 0 dimensions"),
        (raw(tensors=[entry(dimensions=2**31)]), "has 2147483648 dimensions"),
        (raw(tensors=[entry(shape=(0, 4))]), r"has the shape \(4, 0\)"),
        (raw(tensors=[entry(shape=(2**40, 2**40))]), "has the shape"),
        (raw(tensors=[entry(kind=77)]), "encoded as number 77"),
        (raw(tensors=[entry(kind=26)]), "encoded as I32"),
        (raw(tensors=[entry(kind=8)]), "no whole Q8_0 blocks"),
        (raw(tensors=[entry(offset=4)]), "unaligned"),
        (raw(tensors=[entry(), entry("b")]), "within another"),
        (raw(tensors=[entry(offset=2**63)]), "cut short or damaged"),
        (raw(tensors=[entry(shape=(17,))]), "cut short or damaged"),
    ],
    ids=range(28),
)
def test_unsound_files_are_refused(content, sentence, tmp_path):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        read_file(tmp_path / "a.gguf")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_sound_file_of_the_same_pieces_is_read(tmp_path):
    (tmp_path / "a.gguf").write_bytes(raw(keys=[key("k", 4, b"\1\0\0\0")], tensors=[entry(), entry("b", offset=32)]))
    metadata, tensors = read_file(tmp_path / "a.gguf")
    assert metadata == {"k": 1}
    assert np.asarray(tensors["b"]).tolist() == [0, 0, 0, 0]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_file(tmp_path / "a.gguf")


def test_a_file_that_shrinks_after_its_header_was_read_is_refused(tmp_path):
    written(tmp_path / "a.gguf")
    found = read_file(tmp_path / "a.gguf").tensors["vector"]
    (tmp_path / "a.gguf").write_bytes((tmp_path / "a.gguf").read_bytes()[:-32])
    with pytest.raises(InputError, match="ended while it was read"):
        np.asarray(found)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_read(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "whole.gguf").exists():
        written(folder / "whole.gguf")
    whole = (folder / "whole.gguf").read_bytes()
    header = whole.index(b"vector") + 40
    at = data.draw(st.integers(0, header))
    damage, gap = data.draw(st.binary(max_size=8)), data.draw(st.integers(0, 8))
    (folder / "damaged.gguf").write_bytes(whole[:at] + damage + whole[at + gap :])
    refusal = ""
    try:
        for tensor in read_file(folder / "damaged.gguf").tensors.values():
            assert np.asarray(tensor).shape == tensor.shape
    except InputError as error:
        refusal = str(error)
    assert len(refusal) < 300 + len(str(folder))
