"""Damaged files load or end in one sentence: a few mutations of every kind, and those that once did something else."""

import json
import pathlib
import subprocess
import sys
import time

import fuzz_files
import msgpack
import pytest
import sound_tokenizers

from fmzoo import text
from fmzoo.errors import InputError
from fmzoo.interop import flax_msgpack, folders
from fmzoo.text.foreign import refusing

SCRIPT = pathlib.Path(fuzz_files.__file__)
KINDS = {"safetensors", "gguf", "msgpack", "index", "config", "tokenizer"}


def test_damaged_files_load_or_end_in_one_sentence():
    run = subprocess.run([sys.executable, SCRIPT, "--mutations", "40", "--seed", "1"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in run.stdout.splitlines()[2:]]
    assert {row[0] for row in rows} == KINDS
    for count, loaded, refused, seconds, _ in (map(float, row[1:]) for row in rows):
        assert (count, loaded + refused) == (40, 40)
        assert min(loaded, refused) > 0
        assert seconds < 5


class PanicException(BaseException):
    pass


def fails(folder):
    raise KeyError("x")


def panics(folder):
    raise PanicException("index out of bounds")


def says_too_much(folder):
    raise InputError("a\nb")


def writes_beside(folder):
    (folder.parent / "beside").write_text("x")


def moves_out(folder):
    (folder / "a").write_text("x")
    (folder / "a").rename(folder / ".." / "b")


def starts_something(folder):
    subprocess.run(["true"])


def sleeps(folder):
    time.sleep(0.2)


def hoards(folder):
    return bytes(range(256)) * 200_000


@pytest.mark.parametrize(
    ("use", "end"),
    [
        (fails, "KeyError: 'x'"), (panics, "PanicException: index out"), (says_too_much, "says: a\nb"),
        (writes_beside, "open ['"), (moves_out, "os.rename ['"), (starts_something, "subprocess.Popen"),
        (sleeps, "too slow"), (hoards, "too much memory"),
    ],
)  # fmt: skip
def test_what_a_reader_must_not_do_is_seen(use, end, watch, monkeypatch):
    monkeypatch.setattr(fuzz_files, "MOST_SECONDS", 0.1 if use is sleeps else 10)
    monkeypatch.setattr(fuzz_files, "MOST_BYTES", 10**7)
    assert fuzz_files.attempt(use, watch)[0].startswith(end)


def test_what_a_reader_may_do_is_not_held_against_it(watch):
    def read(folder):
        (folder / "saved").write_text("x")
        (folder / "saved").read_text()

    assert fuzz_files.attempt(read, watch)[0] == "loaded"


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    root = tmp_path_factory.mktemp("watched").resolve()
    (root / "inside").mkdir()
    return fuzz_files.Watch(root)


def refused(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "file", ["x" * 100_000 + ".safetensors", "a\nb.safetensors", "\0.safetensors", "\ud800.safetensors"]
)
def test_an_index_may_name_what_can_be_no_file(file, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    assert "which its index names" in refused(folders.read_tensors, tmp_path)
    (tmp_path / flax_msgpack.INDEX).write_text(
        json.dumps({"weight_map": {"a": file.replace("safetensors", "msgpack")}})
    )
    assert "which its index names" in refused(flax_msgpack.read_folder, tmp_path)


def test_an_empty_array_may_have_an_axis_that_no_array_has(tmp_path):
    leaf = msgpack.ExtType(1, msgpack.packb(((0, 2**64 - 1), "float32", b"")))
    (tmp_path / "a").write_bytes(msgpack.packb({"conv": {"kernel": leaf}}))
    assert "no sound msgpack file" in refused(flax_msgpack.read_file, tmp_path / "a")


def test_a_tree_may_be_nearly_as_deep_as_msgpack_goes(tmp_path):
    (tmp_path / "a").write_bytes(b"\x81\xa1a" * 1000 + b"\x01")
    assert "no sound msgpack file" in refused(flax_msgpack.read_file, tmp_path / "a")


def tokenizer_files(folder, change=lambda description: None, **config):
    """A sound `tokenizer.json`, changed, and a `tokenizer_config.json`."""
    sound_tokenizers.byte_level().save(folder)
    description = json.loads((folder / "tokenizer.json").read_text())
    change(description)
    (folder / "tokenizer.json").write_text(json.dumps(description))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_a_special_token_may_be_half_a_character(tmp_path):
    tokenizer_files(tmp_path, eos_token="\ud800")
    assert "eos_token '\\ud800' is no text" in refused(text.load_tokenizer, tmp_path)


def test_a_config_with_half_a_character_is_saved_as_it_was(tmp_path):
    tokenizer_files(tmp_path, tokenizer_class="\ud800")
    text.load_tokenizer(tmp_path).save(tmp_path / "saved")
    assert text.load_tokenizer(tmp_path / "saved").config["tokenizer_class"] == "\ud800"


def test_an_id_may_be_as_large_as_a_list_cannot_be(tmp_path):
    tokenizer_files(tmp_path, lambda description: description["model"]["vocab"].update(x=2**32 - 1))
    assert "a token with the id 4294967295" in refused(text.load_tokenizer, tmp_path)


def test_a_pattern_may_need_more_steps_than_are_allowed(tmp_path):
    ranks = {bytes([b]): b for b in range(256)}
    text.byte_ranks.ByteRankTokenizer(ranks, r"(?=(a+)+\1b)|(a|aa)+(?=c)", {}).save(tmp_path)
    assert "cannot be encoded" in refused(text.load_tokenizer(tmp_path).encode, "a" * 60)


def test_a_rule_may_need_more_steps_than_are_allowed(tmp_path):
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer_files(tmp_path, lambda description: description.update(pre_tokenizer=split))
    assert "cannot be encoded" in refused(text.load_tokenizer(tmp_path).encode, "a" * 60 + "!")


def test_panics_end_in_the_one_error_and_interruptions_do_not():
    for error in (PanicException("index\nout of bounds"), RuntimeError("index\nout of bounds")):
        with pytest.raises(InputError, match=r"^it is damaged \(index out of bounds\)$"), refusing("it is damaged"):
            raise error
    with pytest.raises(KeyboardInterrupt), refusing("it is damaged"):
        raise KeyboardInterrupt
