"""The TFDS builders: prepared once, complete or absent, the same documents as the embedded files."""

import pickle
import sys

import numpy as np
import pytest

from fmzoo.data import source, splits
from fmzoo.data.embedded import records
from fmzoo.data.tfds_documents import TfdsDocuments, data_dirs
from fmzoo.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tfds")
        patch.setenv("TFDS_DATA_DIR", str(folder))
        yield folder


@pytest.mark.parametrize(
    ("name", "file"), [("fmzoo_shakespeare_milton", "shakespeare_milton"), ("fmzoo_king_james", "king_james")]
)
def test_holds_what_is_embedded(folder, name, file, capsys):
    for split in ("train", "validation"):
        assert list(source(name, split)) == [record.text for record in records(file) if record.split == split]
    assert len(source(f"tfds:{name}", "all")) == len(records(file))
    assert capsys.readouterr().out == ""  # progress goes to standard error
    written = sorted(path.name for path in (folder / name / "1.0.0").iterdir())
    assert any(".array_record-" in filename for filename in written)
    assert not any("tfrecord" in filename or "parquet" in filename for filename in written)
    assert "tensorflow" not in sys.modules


def test_other_fields_slices_and_splits(folder):
    works = source("fmzoo_king_james", "train[:3]", field="work")
    assert list(works) == ["genesis"] * 3
    assert splits("fmzoo_king_james") == ("train", "validation")


def test_pickles_by_name(folder):
    documents = TfdsDocuments("fmzoo_king_james", "validation")
    pickled = pickle.dumps(documents)
    assert len(pickled) < 300
    assert list(pickle.loads(pickled)) == list(documents)


def test_is_prepared_once(folder):
    source("fmzoo_king_james")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.array_record*")}
    source("fmzoo_king_james")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.array_record*")} == before


def test_a_preparation_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from fmzoo.data import builders

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))

    def broken(self, split):
        yield 0, dict.fromkeys(("work", "title", "part", "text"), "x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(builders.FmzooKingJames, "_generate_examples", broken)
    with pytest.raises(InputError, match=r"fmzoo_king_james cannot be prepared \(.*No space left on device"):
        source("fmzoo_king_james")
    assert not list(tmp_path.rglob("*.array_record*"))
    assert not (tmp_path / "fmzoo_king_james" / "1.0.0").exists()


def test_where_data_sets_are_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", "/somewhere")
    assert data_dirs() == ["/somewhere"]
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_dirs() == [f"{tmp_path}/.cache/fmzoo", f"{tmp_path}/tensorflow_datasets"]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("tfds:fmzoo_king_jame", {}, "'fmzoo_king_jame' is not known to TFDS; the nearest are fmzoo_king_james"),
        ("fmzoo_kingjames", {}, "does not exist; the nearest are fmzoo_king_james"),
        ("fmzoo_king_james", {"field": "txt"}, "has no field 'txt'; the nearest are text"),
        ("fmzoo_king_james", {"split": "test"}, "split 'test' is not in fmzoo_king_james; the nearest are"),
        ("fmzoo_king_james", {"split": "train[:x]"}, "split 'train"),
        ("fmzoo_king_james:9.9.9", {}, "cannot be opened"),
        ("imdb_reviews/nothing", {}, "cannot be opened"),
    ],
)
def test_bad_names(folder, name, options, sentence):
    with pytest.raises(InputError) as caught:
        source(name, **options)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_any_data_set_by_its_name(folder):
    import tensorflow_datasets as tfds

    class ForeignReviews(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            text = tfds.features.Text()
            features = {"review": text, "stars": tfds.features.Scalar(np.int64), "n": {"raw": text}}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"rated": self._generate_examples()}

        def _generate_examples(self):
            for i in range(4):
                yield i, {"review": f"naïve {i}", "stars": i, "n": {"raw": b"x"}}

    assert sorted(source("foreign_reviews:2.0.0", "rated", field="review")) == [f"naïve {i}" for i in range(4)]
    assert splits("tfds:foreign_reviews") == ("rated",)
    for field, sentence in [
        ("text", "the nearest are"),
        ("stars", "field 'stars' of .* is int"),
        ("n", "is dict; a text"),
    ]:
        with pytest.raises(InputError, match=sentence):
            source("foreign_reviews", "rated", field=field)
