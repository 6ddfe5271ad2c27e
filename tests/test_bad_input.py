"""Every mistake ends in one sentence that says field, value and what is accepted, status 2, and nothing new on disk."""

import errno
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import fmzoo as package
from fmzoo.text import ByteTokenizer
from tests.command import SMALL, files_below, fmzoo

WORDS = "Full fathom five thy father lies; of his bones are coral made. "


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two checkpoints, and the text that it learned from."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "song.txt").write_text(WORDS * 40)
    ended = fmzoo("pretrain", "tiny", "--workdir", folder / "run", "--data", folder / "song.txt", *SMALL)
    assert ended.status == 0, ended.err
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to stand in, with a text and another home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "song.txt").write_text(WORDS * 40)
    return tmp_path


def refused(place, *arguments):
    """Runs a command that must be refused, and returns the sentence."""
    before = files_below(place)
    ended = fmzoo(*arguments)
    return check_refused(ended.status, ended.err, files_below(place) - before)


def check_refused(status, err, new):
    assert status == 2, err
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert 10 < len(err) <= 300
    assert "Traceback" not in err
    assert not new
    return err


def pretrain(*changes, data="song.txt"):
    return ("pretrain", "tiny", "--workdir", "run", "--data", data, *SMALL, *changes)


def test_unknown_command(place):
    assert "'trian'" in refused(place, "trian")


def test_unknown_preset(place):
    said = refused(place, "pretrain", "llama2-7", "--workdir", "run")
    assert "preset 'llama2-7'" in said
    assert "llama2-7b" in said


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("--model.num-layer", "--model.num-layers"),
        ("--optimiser.learning-rate", "--optimizer.learning-rate"),
        ("--model.attention.heads", "--model.attention.num-heads"),
        ("--stesp", "--steps"),
    ],
)
def test_unknown_field(place, option, nearest):
    said = refused(place, *pretrain(option, "3"))
    assert option in said
    assert nearest in said.replace(option, "", 1)


def test_unknown_field_with_an_equals_sign(place):
    assert "--max-new-tokens" in refused(place, "generate", "run", "--prompt=a", "--max-tokens=3")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--steps", "many"), ("--steps", "'many'", "whole number")),
        (("--steps", "1e3"), ("--steps", "'1e3'", "whole number")),
        (("--optimizer.learning-rate", "fast"), ("--optimizer.learning-rate", "'fast'", "number")),
        (("--model.position", "rotary"), ("--model.position", "'rotary'", "rope")),
        (("--steps",), ("--steps", "value")),
        (("--steps", "0"), ("steps", "0", "at least 1")),
        (("--optimizer.learning-rate", "-1"), ("learning_rate", "-1", "above 0")),
        (("--optimizer.learning-rate", "nan"), ("learning_rate", "nan", "finite")),
        (("--seed", "-1"), ("seed", "-1", "from 0")),
        (("--seed", str(10**30)), ("seed", "from 0 to 4294967295")),
        (("surplus",), ("'surplus'", "--help")),
        (("--model.local-rope.theta", "0"), ("theta", "0", "above 0")),
    ],
)
def test_values_that_do_not_fit(place, arguments, parts):
    said = refused(place, *pretrain(*arguments))
    for part in parts:
        assert part in said


def test_missing_arguments(place):
    assert "--workdir" in refused(place, "pretrain", "tiny")
    assert "PRESET" in refused(place, "pretrain")
    assert "PRESET" in refused(place, "pretrain", "--workdir", "run")
    assert "--prompt" in refused(place, "generate", "somewhere")
    assert "SOURCE" in refused(place, "generate", "--prompt", "a")
    assert "--data" in refused(place, "eval", "somewhere")
    assert "--out" in refused(place, "tour")


def test_heads_that_do_not_divide(place):
    said = refused(place, *pretrain("--model.attention.num-heads", "3", "--model.attention.num-kv-heads", "2"))
    assert "num_heads 3" in said
    assert "num_kv_heads 2" in said


def test_sequences_over_the_context(place):
    said = refused(place, *pretrain("--sequence-length", "65"))
    assert "sequence_length 65" in said
    assert "context_length 64" in said


def test_prompt_and_answer_over_the_context(place, trained):
    for prompt, new in (("a" * 80, "1"), ("a", "80")):
        said = refused(place, "generate", trained / "run", "--prompt", prompt, "--max-new-tokens", new)
        assert "context_length=64" in said


@pytest.mark.parametrize(
    "number", ["--seed=-1", "--seed=4294967296", "--max-new-tokens=0", "--temperature=-1", "--top-p=2", "--top-k=0"]
)
def test_sampling_out_of_range(place, trained, number):
    name, _, value = number[2:].partition("=")
    said = refused(place, "generate", trained / "run", "--prompt", "a", number)
    assert name.replace("-", "_") in said
    assert value in said


def test_missing_data(place):
    assert "'songs.txt' does not exist" in refused(place, *pretrain(data="songs.txt"))
    assert "'shakespear'" in refused(place, *pretrain(data="shakespear"))


def test_empty_data(place):
    (place / "empty.txt").write_text("")
    (place / "nothing").mkdir()
    assert "empty.txt holds no text" in refused(place, *pretrain(data="empty.txt"))
    assert "nothing holds no .txt" in refused(place, *pretrain(data="nothing"))


def test_damaged_data(place):
    (place / "lines.jsonl").write_text('{"text": "whole"}\n{"text": ')
    assert "lines.jsonl line 2 is not JSON" in refused(place, *pretrain(data="lines.jsonl"))


def test_corpus_shorter_than_a_sequence(place):
    (place / "short.txt").write_text("To be.")
    said = refused(place, *pretrain(data="short.txt"))
    assert "7 tokens" in said
    assert "32" in said


def test_tokenizer_with_more_tokens_than_the_model(place):
    said = refused(place, *pretrain("--model.vocab-size", "100"))
    assert "258" in said
    assert "100" in said


def test_vocabulary_too_small_to_learn(place):
    said = refused(place, *pretrain("--tokenizer", "bpe", "--model.vocab-size", "256"))
    assert "256" in said
    assert "257" in said


def test_token_out_of_range_of_a_loaded_model(place, trained):
    shutil.copytree(trained / "run", place / "run")
    (place / "run" / "tokenizer" / "byte_tokenizer.json").unlink()
    package.text.train_bpe([WORDS * 9], 300).save(place / "run" / "tokenizer")
    said = refused(place, "generate", "run", "--prompt", "father lies", "--max-new-tokens", "4")
    assert "from 0 to 257" in said
    assert "from 0 to 257" in refused(place, "eval", "run", "--data", "song.txt")


def edit(config, **model):
    values = json.loads(config.read_text())
    values["model"] |= model
    config.write_text(json.dumps(values))


def test_checkpoint_of_another_shape(place, trained):
    shutil.copytree(trained / "run", place / "run")
    edit(place / "run" / "config.json", d_model=24)
    for command in (("generate", "run", "--prompt", "a"), ("eval", "run", "--data", "song.txt")):
        said = refused(place, *command)
        assert "checkpoint" in said
        assert "16" in said
        assert "24" in said
    said = refused(place, *pretrain("--model.d-model", "24", "--steps", "6", data=str(trained / "song.txt")))
    assert "run/checkpoints/4 does not fit" in said


def test_safetensors_of_another_shape(place):
    config = package.models.DecoderConfig(258, 16, 1, 32, package.models.AttentionConfig(2, 1, 8))
    module = package.models.Decoder(config)
    params = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    package.save(package.Pretrained(module, params, config, ByteTokenizer()), place / "model")
    values = json.loads((place / "model" / "config.json").read_text())
    (place / "model" / "config.json").write_text(json.dumps(values | {"hidden_size": 24}))
    said = refused(place, "generate", "model", "--prompt", "a", "--max-new-tokens", "4")
    assert "16" in said
    assert "24" in said


def damage(run, how):
    for step in (run / "checkpoints").iterdir():
        files = [path for path in (step / "state").rglob("*") if path.is_file()]
        if how == "no state":
            shutil.rmtree(step / "state")
        elif how == "not committed":
            (step / "_CHECKPOINT_METADATA").unlink()
        elif how == "cut files":
            for path in files:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            for path in files:
                if "/d/" in str(path):
                    path.unlink()


@pytest.mark.parametrize("how", ["no state", "not committed", "cut files", "lost arrays"])
def test_half_a_checkpoint(place, trained, how):
    shutil.copytree(trained / "run", place / "run")
    damage(place / "run", how)
    again = pretrain("--steps", "6", data=str(trained / "song.txt"))
    assert "run/checkpoints" in refused(place, "generate", "run", "--prompt", "a")
    said = refused(place, *again)
    assert "run/checkpoints/" in said
    assert "is needed" in said


def test_run_without_its_tokenizer(place, trained):
    shutil.copytree(trained / "run", place / "run")
    shutil.rmtree(place / "run" / "tokenizer")
    assert "tokenizer" in refused(place, "generate", "run", "--prompt", "a")


def test_pickle(place):
    (place / "model.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")
    assert "pickle" in refused(place, "generate", "model.pt", "--prompt", "a")
    (place / "folder").mkdir()
    (place / "model.pt").rename(place / "folder" / "pytorch_model.bin")
    assert "pickle" in refused(place, "generate", "folder", "--prompt", "a")
    assert not (place / "pwned").exists()


def test_workdir_of_another_run(place, trained):
    shutil.copytree(trained / "run", place / "run")
    before = (place / "run" / "config.json").read_text()
    said = refused(place, *pretrain("--model.num-layers", "2", data=str(trained / "song.txt")))
    assert "run" in said
    assert "model.num_layers" in said
    assert "1" in said
    assert "2" in said
    assert (place / "run" / "config.json").read_text() == before


def test_workdir_with_other_things(place):
    (place / "run").mkdir()
    (place / "run" / "thesis.txt").write_text("all of it")
    assert "other files" in refused(place, *pretrain())
    assert "'thesis.txt'" in refused(place, "tour", "--out", "run")


def test_workdir_that_is_a_file(place):
    (place / "run").write_text("a file")
    assert "run" in refused(place, *pretrain())
    assert "run is a file" in refused(place, "tour", "--out", "run")


def test_workdir_that_cannot_be_made(place):
    (place / "file").write_text("")
    assert "file/run" in refused(place, "pretrain", "tiny", "--workdir", "file/run", "--data", "song.txt", *SMALL)


def test_damaged_config_of_a_run(place, trained):
    shutil.copytree(trained / "run", place / "run")
    (place / "run" / "config.json").write_text('{"fmzoo": "0.1.0", "stage":')
    for command in (pretrain(), ("generate", "run", "--prompt", "a"), ("info", "run")):
        assert "config.json" in refused(place, *command)


def test_batch_not_divisible_by_devices(place):
    said = refused(place, *pretrain("--batch-size", "12"))
    assert "12 rows" in said
    assert "8 devices" in said


def test_batch_not_divisible_by_microbatches(place):
    said = refused(place, *pretrain("--microbatches", "3"))
    assert "8 rows" in said
    assert "3 microbatches" in said


def test_mesh_that_does_not_fill_the_devices(place):
    assert "data=3" in refused(place, *pretrain("--mesh", "data=3"))
    assert "'dta'" in refused(place, *pretrain("--mesh", "dta=8"))


def test_sources_without_weights(place):
    assert "without weights" in refused(place, "generate", "llama2-7b", "--prompt", "a")
    assert "llama2-7b" in refused(place, "info", "llama2-7bb")
    (place / "folder").mkdir()
    for command in (("generate", "folder", "--prompt", "a"), ("info", "folder")):
        assert "config.json" in refused(place, *command)


def test_paths_of_schemes_that_cannot_be_read(place):
    for command in (("info", "foo://bar"), ("generate", "foo://bar", "--prompt", "a"), ("tour", "--out", "foo://bar")):
        assert "scheme 'foo'" in refused(place, *command)
    assert "'foo://bar' does not exist" in refused(place, *pretrain(data="foo://bar"))


def test_name_too_long_for_a_file(place):
    said = refused(place, "pretrain", "tiny", "--workdir", "a" * 5000, "--data", "song.txt", *SMALL)
    assert "name too long" in said.lower()


def test_split_that_is_not_there(place, trained):
    said = refused(place, "eval", trained / "run", "--data", "shakespeare", "--split", "dev")
    assert "'dev'" in said
    assert "test" in said


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_at_the_first_checkpoint(place, monkeypatch):
    from orbax.checkpoint import CheckpointManager

    monkeypatch.setattr(CheckpointManager, "save", no_space)
    assert "no space" in refused(place, *pretrain())


@pytest.mark.parametrize("write", ["metrics", "config", "tokenizer"])
def test_full_disk_at_another_file(place, monkeypatch, write):
    owner, name = {
        "metrics": (package.train.MetricsLog, "flush"),
        "config": (package.train, "replace_text"),
        "tokenizer": (ByteTokenizer, "save"),
    }[write]
    monkeypatch.setattr(owner, name, no_space)
    said = refused(place, *pretrain())
    assert "run" in said
    assert "no space" in said.lower()


def test_full_disk_later_leaves_the_last_checkpoint(place, trained, monkeypatch):
    from orbax.checkpoint import CheckpointManager

    shutil.copytree(trained / "run", place / "run")
    more = pretrain("--steps", "6", data=str(trained / "song.txt"))
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointManager, "save", no_space)
        ended = fmzoo(*more)
    assert ended.status == 2
    assert "no space" in ended.err
    assert ended.err.count("\n") == 1
    assert fmzoo("generate", "run", "--prompt", "a", "--max-new-tokens", "3").status == 0
    ended = fmzoo(*more)
    assert ended.status == 0, ended.err
    assert [json.loads(row)["step"] for row in (place / "run" / "metrics.jsonl").read_text().splitlines()] == [
        *range(1, 7)
    ]


def test_losses_that_are_not_finite(place):
    said = refused(
        place, *pretrain("--optimizer.learning-rate", "1e38", "--nonfinite-patience", "2", "--checkpoint-every", "9")
    )
    assert "not finite" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("pretrain", "tiny", "--workdir", "run", "--model.num-layer", "3"),
        ("pretrain", "tiny", "--workdir", "run", "--data", "missing.txt"),
        ("generate", "missing", "--prompt", "a"),
    ],
)
def test_as_a_process_of_its_own(place, arguments):
    before = files_below(place)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-m", "fmzoo", *arguments], capture_output=True, text=True, env=environment)
    check_refused(ended.returncode, ended.stderr, files_below(place) - before)
    assert not ended.stdout
