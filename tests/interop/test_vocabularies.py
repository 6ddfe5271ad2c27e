"""Tokenizers in GGUF files give the ids that llama.cpp expects of them (`tests/data/vocabularies/NOTICE`)."""

import pathlib
import tarfile

import numpy as np
import pytest
from check_vocabularies import compare

from fmzoo.interop import gguf_tokenizers
from fmzoo.interop.gguf_format import read_file, write_file

ARCHIVE = pathlib.Path(__file__).parents[1] / "data" / "vocabularies" / "vocabularies.tar.xz"
STRINGS = {"falcon": 47, "gpt-2": 47, "mpt": 47, "phi-3": 47, "qwen2": 47, "qwen35": 51}


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def params():
    """The large ones, whose four seconds are not worth it each time, are of the other tier."""
    large = {"qwen2", "qwen35"}
    return [pytest.param(name, marks=[pytest.mark.reference] if name in large else []) for name in STRINGS]


@pytest.mark.parametrize("name", params())
def test_every_string_has_the_ids_expected(name, vocabularies):
    assert compare(vocabularies / f"ggml-vocab-{name}.gguf") == (STRINGS[name], [])


@pytest.mark.parametrize(("name", "fault"), [("gpt-2", "split"), ("phi-3", "scores"), ("falcon", "order")])
def test_a_planted_fault_gives_other_ids(name, fault, vocabularies, tmp_path, monkeypatch):
    whole = vocabularies / f"ggml-vocab-{name}.gguf"
    metadata = dict(read_file(whole).metadata)
    if fault == "split":
        metadata["tokenizer.ggml.pre"] = "qwen2"
    elif fault == "scores":
        metadata["tokenizer.ggml.scores"] = np.roll(metadata["tokenizer.ggml.scores"], 1)
    else:
        monkeypatch.setitem(gguf_tokenizers.SPLITS, name, gguf_tokenizers.FALCON[::-1])
    write_file(tmp_path / whole.name, metadata, {})
    for ending in (".inp", ".out"):
        (tmp_path / f"{whole.name}{ending}").write_bytes((vocabularies / f"{whole.name}{ending}").read_bytes())
    count, differences = compare(tmp_path / whole.name)
    assert count == 47
    assert differences
