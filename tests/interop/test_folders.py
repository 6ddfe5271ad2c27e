"""Folders of weights: shards, indices that lie, pickles, and writes that are complete or absent."""

import errno
import json
import pickle

import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.interop import safetensors
from fmzoo.interop.folders import new_folder, read_tensors, refuse_pickles, write_tensors

TENSORS = {f"t{i}": np.full((10,), i, np.float32) for i in range(5)}  # 40 bytes each
INDEX = "model.safetensors.index.json"


def values(folder):
    return {name: np.asarray(tensor).tolist() for name, tensor in read_tensors(folder).items()}


@pytest.mark.parametrize(("largest", "files"), [(1000, 1), (80, 3), (10, 5)])
def test_shards_are_no_larger_than_asked_and_read_back(largest, files, tmp_path):
    write_tensors(tmp_path, TENSORS, largest)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    assert (tmp_path / INDEX).exists() == (files > 1)
    assert values(tmp_path) == {name: tensor.tolist() for name, tensor in TENSORS.items()}


def test_the_index_is_as_transformers_writes_it(tmp_path):
    write_tensors(tmp_path, TENSORS, 80)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"]["t4"] == "model-00003-of-00003.safetensors"


def test_the_only_file_may_have_any_name(tmp_path):
    safetensors.write_file(tmp_path / "weights.safetensors", TENSORS)
    assert values(tmp_path).keys() == TENSORS.keys()
    safetensors.write_file(tmp_path / "more.safetensors", TENSORS)
    with pytest.raises(InputError, match="holds 2 safetensors files and no index"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"t0": "../outside.safetensors"}, "names '../outside.safetensors'; a safetensors file in the same folder"),
        ({"t0": "/etc/passwd"}, "names '/etc/passwd'; a safetensors file in the same folder is needed"),
        ({"t0": "weights.bin"}, "names 'weights.bin'; a safetensors file in the same folder is needed"),
        ({"t0": 7}, "no weight_map of names to files"),
        ({"t9": "model-00003-of-00003.safetensors"}, "and its index disagree on 't9'"),
        ({"t0": "model-00003-of-00003.safetensors"}, "and its index disagree on 't0'"),
        ({"t0": "model-00004-of-00003.safetensors"}, "lacks 'model-00004-of-00003.safetensors'"),
    ],
)
def test_an_index_that_lies_is_refused(change, sentence, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    write_tensors(folder, TENSORS, 80)
    safetensors.write_file(tmp_path / "outside.safetensors", {"t0": TENSORS["t0"]})
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= change
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=sentence):
        read_tensors(folder)


def test_a_missing_shard_is_named(tmp_path):
    write_tensors(tmp_path, TENSORS, 80)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks 'model-00002-of-00003\.safetensors', which its index names"):
        read_tensors(tmp_path)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt", "weights.pkl"])
def test_pickles_are_refused_unread(name, tmp_path):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=rf"{name} is a pickle, which is never loaded"):
        read_tensors(tmp_path)
    with pytest.raises(InputError, match="is a pickle"):
        refuse_pickles([tmp_path / name])


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds 0 safetensors files"):
        read_tensors(tmp_path)


def test_a_new_folder_appears_with_all_that_was_written(tmp_path):
    with new_folder(tmp_path / "a/b/c") as inside:
        (inside / "file").write_text("1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a/b/c/file").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "a").mkdir()
    with new_folder(tmp_path / "a") as inside:
        (inside / "file").write_text("1")
    assert (tmp_path / "a/file").exists()


@pytest.mark.parametrize("name", ["full", "full/file"])
def test_nothing_is_written_over(name, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("1")
    with (
        pytest.raises(InputError, match="exists already; a new or an empty folder is needed"),
        new_folder(tmp_path / name),
    ):
        pytest.fail("the folder was opened")
    assert (tmp_path / "full/file").read_text() == "1"


def write_half(folder, error):
    with new_folder(folder) as inside:
        (inside / "half").write_text("1")
        raise error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device.; more space is needed"),
        (PermissionError(errno.EACCES, "Permission denied"), "a folder that can be written is needed"),
    ],
)
def test_a_write_that_fails_leaves_nothing(error, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        write_half(tmp_path / "a/b", error)
    assert list(tmp_path.iterdir()) == []


def test_another_error_leaves_nothing_and_is_passed_on(tmp_path):
    with pytest.raises(KeyError):
        write_half(tmp_path / "a", KeyError())
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_takes_and_gives_a_folder(bucket):
    with new_folder(f"{bucket}/models/small") as inside:
        write_tensors(inside, TENSORS, 80)
    assert values(f"{bucket}/models/small") == {name: tensor.tolist() for name, tensor in TENSORS.items()}
    with pytest.raises(InputError, match="exists already"):
        write_half(f"{bucket}/models/small", KeyError())
