"""Fine-tuning a system that draws, as a user types it: captioned pictures, and a few pictures of one thing."""

import json
import re

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

import fmzoo
from fmzoo import data, train
from fmzoo.stages.finetune_images import FinetuneImagesConfig, WithPrior
from tests.command import fmzoo as command
from tests.stages import small_image_runs

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of one step, and a folder of captioned pictures."""
    folder = tmp_path_factory.mktemp("finetune")
    with pytest.MonkeyPatch.context() as patch:
        small_image_runs.leave_out_reports(patch.setattr)
        assert small_image_runs.run("pretrain_images", folder / "run", steps=2)
    (folder / "mine").mkdir()
    for number, grey in enumerate((40, 90, 200, 250)):
        Image.fromarray(np.full((9, 11), grey, np.uint8)).save(folder / "mine" / f"{number}.png")
        (folder / "mine" / f"{number}.txt").write_text(f"a wall of grey {number}")
    return folder


def finetune(source, workdir, *changes):
    small = ("--steps", "2", "--checkpoint-every", "1", "--batch-size", "8", "--rank", "2", "--quiet")
    return command("finetune", source / "run", "--data", source / "mine", "--workdir", workdir, *small, *changes)


def moved(source, workdir):
    """The parameters that differ from the source's, by their path."""
    base, tuned = (
        flatten_dict(fmzoo.load(path, average=average).params, sep="/")
        for path, average in ((source / "run", True), (workdir, False))
    )
    return {path for path in base if not np.array_equal(base[path], tuned[path])}


def test_adapters_are_trained_on_captioned_pictures_and_draw(source, tmp_path):
    ended = finetune(source, tmp_path / "tuned")
    assert ended.status == 0, ended.err
    assert "is finished; see" in ended.out
    found = moved(source, tmp_path / "tuned")
    assert found
    assert all(re.search(FinetuneImagesConfig.targets, path) for path in found)
    report = (tmp_path / "tuned" / "report.md").read_text()
    assert "# Fine-tuning on" in report
    assert "a wall of grey" in report
    ended = command("draw", tmp_path / "tuned", "--prompt", "a wall of grey 1", "--steps", "20", "--guidance", "3",
                    "--out", tmp_path / "drawn.png")  # fmt: skip
    assert ended.status == 0, ended.err
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.text["source"] == str(tmp_path / "tuned")
    assert "is finished: all 2 steps" in finetune(source, tmp_path / "tuned").out


def test_one_thing_is_learned_beside_pictures_of_its_class(source, tmp_path):
    prompts = ("--prompt", "a sks wall", "--class-prompt", "a wall", "--class-count", "8", "--prior-weight", "0.5")
    ended = finetune(source, tmp_path / "tuned", *prompts)
    assert ended.status == 0, ended.err
    first = train.read_rows(tmp_path / "tuned" / "metrics.jsonl")[0]
    assert {"loss", "prior", "mse"} <= first.keys()
    assert first["prior"] > 0
    assert moved(source, tmp_path / "tuned")
    assert "a sks wall; a wall" in (tmp_path / "tuned" / "report.md").read_text()


def test_class_pictures_stand_behind_and_are_counted_apart():
    def make():
        parts = (data.ImageIterator(data.images("digits"), data.Framing(8, 8, 1), batch_size=2, seed=s) for s in (0, 1))
        return WithPrior(*parts)

    one, other = make(), make()
    next(one)
    other.set_state(json.loads(json.dumps(one.get_state())))
    batch, same = next(one), next(other)
    np.testing.assert_array_equal(batch["image"], same["image"])
    assert batch["weights"].tolist() == [1, 1, 0, 0]
    assert batch["prior_weights"].tolist() == [0, 0, 1, 1]
    assert batch["example_id"].tolist() == [2, 3, 2**30 + 2, 2**30 + 3]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ((), "needs a SOURCE"),
        (("nowhere", "--data", "x", "--workdir", "w"), "source 'nowhere' is no run folder"),
        (("RUN", "--workdir", "w"), "needs --data"),
        (("RUN", "--data", "missing", "--workdir", "w"), "image set 'missing' does not exist"),
        (("RUN", "--data", "MINE", "--workdir", "w", "--targets", "nothing"), "match no kernel"),
        (("RUN", "--data", "MINE", "--workdir", "w", "--class-prompt", "a wall"), "prompt is None"),
        (("RUN", "--data", "MINE", "--workdir", "w", "--latents", "cache", "--crop", "random"), "crop is 'random'"),
        (("RUN", "--data", "MINE", "--workdir", "w", "--rank", "0"), "rank is 0"),
    ],
)
def test_what_does_not_fit_is_refused(source, tmp_path, monkeypatch, line, sentence):
    monkeypatch.chdir(tmp_path)
    named = {"RUN": str(source / "run"), "MINE": str(source / "mine")}
    rows = ("--batch-size", "8") if "--workdir" in line else ()
    ended = command("finetune", *(named.get(word, word) for word in line), *rows)
    assert ended.status == 2
    assert sentence in ended.err
    assert not list(tmp_path.iterdir())
