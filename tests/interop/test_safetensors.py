"""The safetensors format against the library that defines it, and hostile files."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fmzoo.errors import InputError
from fmzoo.interop.safetensors import DTYPES, read_file, write_file


def tensors():
    draw = np.random.default_rng(0).standard_normal
    return {
        "wide": draw((3, 5)).astype(np.float64),
        "plain": draw((2, 3, 4)).astype(np.float32),
        "half": draw((7,)).astype(np.float16),
        "brain": draw((4, 4)).astype(ml_dtypes.bfloat16),
        "mask": np.ones((2, 2), np.uint8),
        "scalar": np.float32(3.5).reshape(()),
        "empty": np.zeros((0, 4), np.float32),
        "transposed": draw((4, 6)).astype(np.float32).T,
    }


def raw(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def f32(*shape, offsets):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}


def test_what_we_write_the_library_reads(tmp_path):
    write_file(tmp_path / "a.safetensors", tensors())
    found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors().keys()
    assert all(found[n].dtype == t.dtype and np.array_equal(found[n], t) for n, t in tensors().items())
    with safetensors.safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_the_library_writes_we_read(tmp_path):
    safetensors.numpy.save_file({n: np.array(t, order="C") for n, t in tensors().items()}, tmp_path / "a.safetensors")
    found = read_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors().keys()
    assert all(found[n].dtype == t.dtype and np.array_equal(np.asarray(found[n]), t) for n, t in tensors().items())


def test_every_dtype_goes_there_and_back(tmp_path):
    write_file(tmp_path / "a", {name: np.arange(6).astype(dtype) for name, dtype in DTYPES.items()})
    found = read_file(tmp_path / "a")
    assert {name: tensor.dtype for name, tensor in found.items()} == DTYPES
    assert np.asarray(found["I16"], np.float32).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no whole safetensors file"),
        (b"\x10\0\0", "no whole safetensors file"),
        ((10**12).to_bytes(8, "little") + b"{}", "its header of 1000000000000 bytes does not fit in"),
        (raw(b"\x80\x04pickle"), "unsound safetensors header"),
        (raw([1, 2]), "unsound safetensors header"),
        (raw({"a": {"dtype": "F32"}}), "unsound safetensors header"),
        (raw({"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "dtype 'F31' is unknown"),
        (raw({"a": f32(1, offsets=[0, "4"])}, b"1234"), "whole numbers"),
        (raw({"a": f32(-1, offsets=[0, 4])}, b"1234"), "whole numbers"),
        (raw({"a": f32(True, offsets=[0, 4])}, b"1234"), "whole numbers"),
        (raw({"a": f32(2, offsets=[0, 4])}, b"1234"), "'a' whose bytes 0 to 4 do not fit its shape"),
        (raw({"a": f32(1, offsets=[4, 8])}, b"12345678"), "'a' whose bytes 4 to 8 do not fit"),
        (raw({"a": f32(2, offsets=[0, 8]), "b": f32(1, offsets=[4, 8])}, b"12345678"), "'b' whose bytes 4 to 8"),
        (raw({"a": f32(2, offsets=[0, 8])}, b"1234"), "so it is cut short or damaged"),
        (raw({"a": f32(1, offsets=[0, 4])}, b"12345678"), "so it is cut short or damaged"),
        (raw(b'{"a":1,"a":2}'), "a name stands there twice"),
        (raw(b"[" * 100_000), "unsound safetensors header"),
    ],
    ids=range(17),
)
def test_unsound_files_are_refused(content, sentence, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        read_file(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_file(tmp_path / "a.safetensors")


def test_a_file_that_shrinks_after_its_header_was_read_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_file(path, tensors())
    found = read_file(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="ended while it was read"):
        [np.asarray(tensor) for tensor in found.values()]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_as_the_library_reads_it(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    whole = raw({"a": f32(2, 1, offsets=[0, 8]), "b": f32(1, offsets=[8, 12])}, b"abcdefghijkl")
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 3)) :])
    try:
        found = {name: np.asarray(tensor) for name, tensor in read_file(path).items()}
    except InputError:
        return
    theirs = safetensors.numpy.load_file(path)
    assert found.keys() == theirs.keys()
    assert all(found[name].tobytes() == theirs[name].tobytes() for name in found)
