"""Names of the Hugging Face Hub: from the cache of its client, without a network, and what is said otherwise."""

import json
import shutil

import big_checkpoint
import huggingface_hub
import pytest
from huggingface_hub import constants, errors

import fmzoo
from fmzoo.errors import InputError
from fmzoo.interop import hub
from fmzoo.interop.folders import read_tensors
from fmzoo.stages.describe import describe
from tests.interop.test_huggingface import assert_same
from tests.interop.test_stored import LLAMA

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache as the client lays it out, with one model of one revision: files are links to blobs."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = tmp_path / "hub/models--someone--tiny-llama"
    snapshot = model / "snapshots" / COMMIT
    big_checkpoint.make(snapshot, LLAMA, shard=3000)
    (model / "refs").mkdir()
    (model / "refs/main").write_text(COMMIT)
    (model / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(model / f"blobs/{number}")
        path.symlink_to(f"../../blobs/{number}")
    return snapshot


def test_a_name_is_loaded_from_the_cache(cache, tmp_path):
    expected = fmzoo.load(cache).params
    for source in ("someone/tiny-llama", "someone/tiny-llama@main", f"someone/tiny-llama@{COMMIT}"):
        assert_same(fmzoo.load(source).params, expected)
    fmzoo.convert("someone/tiny-llama", tmp_path / "here")
    assert big_checkpoint.different_tensors(cache, tmp_path / "here") == []


def test_a_file_of_a_model_is_loaded_from_the_cache(cache):
    fmzoo.convert(cache, cache / "tiny.gguf", "gguf-f32")
    assert_same(fmzoo.load("someone/tiny-llama/tiny.gguf").params, fmzoo.load(cache).params)


def test_a_path_goes_before_a_name(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cache, "someone/tiny-llama")
    config = json.loads((cache / "config.json").read_text())
    (tmp_path / "someone/tiny-llama/config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    assert fmzoo.load("someone/tiny-llama").config.rope.theta == 5.0


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("someone/unknown", "not in the cache of the Hugging Face Hub, and HF_HUB_OFFLINE is set; a folder or a file"),
        ("someone/tiny-llama@v2", "not in the cache of the Hugging Face Hub, and HF_HUB_OFFLINE is set"),
        ("someone/tiny-llama/other.gguf", "not in the cache of the Hugging Face Hub, and HF_HUB_OFFLINE is set"),
        ("a--b/c..d", "'a--b/c..d' is no path here and the Hugging Face Hub does not give it"),
    ],
)
def test_what_is_not_in_the_cache_is_refused(source, sentence, cache):
    with pytest.raises(InputError, match=sentence) as caught:
        fmzoo.load(source)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("owner/model", True),
        ("owner/model.v2@a-branch", True),
        ("owner/model/file.gguf", True),
        ("model", False),
        ("./folder/model", False),
        ("/owner/model", False),
        ("~/model", False),
        ("gs://bucket/model", False),
        ("owner/model/folder", False),
        ("../model", False),
    ],
)
def test_a_path_does_not_look_like_a_name(source, is_one):
    assert hub.is_name(source) == is_one


class Response:
    """What the client's errors need of a response."""

    headers: dict = {}
    status_code = 404
    request = None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (errors.RepositoryNotFoundError("404", response=Response()), "no model of that name on the Hugging Face Hub"),
        (errors.GatedRepoError("403", response=Response()), "is gated on the Hugging Face Hub; accept its terms there"),
        (errors.RevisionNotFoundError("404", response=Response()), "has the model, but no such revision or file"),
        (errors.LocalEntryNotFoundError("cannot connect"), "and the Hugging Face Hub cannot be reached"),
        (errors.HfHubHTTPError("503 \n Busy", response=Response()), r"does not give it \(503 Busy\)"),
        (OSError("a disk is full"), r"does not give it \(a disk is full\)"),
    ],
)
def test_what_the_client_says_becomes_a_sentence(error, sentence, cache, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=sentence) as caught:
        fmzoo.load("someone/tiny-llama")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_flax_files_are_asked_for_where_there_are_no_others(cache, tmp_path, monkeypatch):
    asked = []

    def download(repository, *, revision, allow_patterns, ignore_patterns):
        asked.append((repository, revision, allow_patterns[-1]))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.fetch("someone/model@v1")
    assert asked == [("someone/model", "v1", "*.safetensors"), ("someone/model", "v1", "*.msgpack")]
    asked.clear()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **b: asked.append(a) or str(cache))
    assert read_tensors(hub.fetch("someone/tiny-llama"))
    assert len(asked) == 1


def test_what_a_model_is_is_told_without_its_weights(cache, monkeypatch):
    for path in cache.glob("*.safetensors"):
        path.unlink()
    asked, download = [], huggingface_hub.snapshot_download

    def noted(*arguments, allow_patterns, **options):
        asked.extend(allow_patterns)
        return download(*arguments, allow_patterns=allow_patterns, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", noted)
    assert describe("someone/tiny-llama").config.d_model == 16
    assert "*.json" in asked
    assert "*.safetensors" not in asked
