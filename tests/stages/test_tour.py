"""The tour in small: what it leaves, that its figures are those of the model, and what it refuses."""

import contextlib
import dataclasses
import io
import re

import numpy as np
import pytest

import fmzoo
from fmzoo import data, evals, models
from fmzoo.errors import InputError
from fmzoo.stages import tour as tours
from fmzoo.stages.pretrain import PretrainConfig

MODEL = models.DecoderConfig(
    vocab_size=300, d_model=16, num_layers=1, context_length=512, tied_head=True,
    attention=models.AttentionConfig(2, 1, 8), mlp=models.MlpConfig(32),
)  # fmt: skip
VERSES = (
    "Tomorrow, and tomorrow, and tomorrow,",
    "Creeps in this petty pace from day to day,",
    "To the last syllable.",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verses")
    shuffle = np.random.default_rng(0).permutation
    lines = ["\n".join(VERSES[i] for i in shuffle(3)) for _ in range(60)]
    for split, some in (("train", lines[:50]), ("test", lines[50:])):
        (folder / split).mkdir()
        for number, text in enumerate(some):
            (folder / split / f"{number}.txt").write_text(text)
    return PretrainConfig(
        model=MODEL, data=str(folder), batch_size=8, sequence_length=64, steps=3, checkpoint_every=3, quiet=True
    )


def take(out, config):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert tours.tour(out, config)
    return shown.getvalue()


@pytest.fixture(scope="module")
def taken(tmp_path_factory, config):
    """A finished tour, and what it showed."""
    out = tmp_path_factory.mktemp("tour") / "t"
    return out, take(out, config)


def test_it_leaves_a_run_a_report_and_a_plot(taken, config):
    out, _ = taken
    assert {path.name for path in out.iterdir()} == {"run", "report.md", "loss.png"}
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert fmzoo.load(out / "run").config == config.model


def test_its_table_says_what_evaluation_says(taken, config):
    out, shown = taken
    held_out = list(data.source(config.data, split="test"))
    found = evals.perplexity(fmzoo.load(out / "run"), held_out, context=config.sequence_length)
    row = f"| this model | {found.bits_per_byte:.4f} | {found.nats_per_token:.4f} |"
    assert row in (out / "report.md").read_text()
    for name in ("order 2 over tokens", "order 3 over tokens", "order 5 over tokens", "order 5 over bytes"):
        assert shown.count(name) == 2  # as soon as it is known, and in the table


def test_each_stage_is_shown(taken):
    _, shown = taken
    places = [shown.index(word) for word in ("1 of 3, training", "2 of 3, measuring", "3 of 3, speaking")]
    assert places == sorted(places)


def test_its_sample_is_counted_honestly(taken, config):
    out, shown = taken
    report = (out / "report.md").read_text()
    sample = re.search(r"```text\n(.*)\n```", report, re.DOTALL)[1]
    assert len(sample) <= tours.SAMPLE
    vocabulary = {word for text in data.source(config.data) for word in tours.WORD.findall(text)}
    words = tours.WORD.findall(sample)
    known = sum(word in vocabulary for word in words)
    claim = f"Of its {len(words)} words {known} "
    assert claim in shown
    assert claim in report


@pytest.mark.parametrize(
    ("said", "words", "known"), [("Creeps creeps", 2, 1), ("", 0, 0), ("day-to-day o'clock", 2, 0)]
)
def test_words_are_compared_whole_and_as_spelled(said, words, known):
    sample = tours.count_words(said, VERSES)
    assert (sample.words, sample.known) == (words, known)


def test_a_finished_tour_says_so_and_changes_nothing(taken, config):
    out, _ = taken
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "is finished" in take(out, config)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_tour_without_its_report_goes_on(taken, config):
    out, _ = taken
    before = (out / "report.md").read_text()
    (out / "report.md").unlink()
    assert "Written" in take(out, config)
    assert (out / "report.md").read_text() == before


def test_a_tour_of_another_config_is_refused(taken, config):
    out, _ = taken
    other = dataclasses.replace(config, model=models.replace(config.model, d_model=24))
    with pytest.raises(InputError, match="d_model is 16 there and 24 here"):
        tours.tour(out, other)


def test_data_without_held_out_text_is_refused(tmp_path, config):
    (tmp_path / "all.txt").write_text("To be. " * 99)
    with pytest.raises(InputError, match="no split 'test'"):
        tours.tour(tmp_path / "t", dataclasses.replace(config, data=str(tmp_path / "all.txt")))
    assert not (tmp_path / "t").exists()


def test_the_tours_own_config_keeps_the_held_out_works_away():
    works = {record.work for record in data.source(tours.CONFIG.data).records}
    assert works
    assert not works & {"macbeth", "tempest", "sonnets"}
    assert {record.work for record in data.source(tours.CONFIG.data, "test").records} == {
        "macbeth", "tempest", "sonnets",
    }  # fmt: skip
    assert 1024 <= tours.CONFIG.model.vocab_size <= 8192
