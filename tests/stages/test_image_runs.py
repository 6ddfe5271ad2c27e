"""Image runs in small: going on exactly, what a run folder holds, what is drawn from it, the tour, the command."""

import contextlib
import dataclasses
import io
import json
import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

import fmzoo
from fmzoo import data, stages, train
from fmzoo.errors import InputError
from fmzoo.interop.config_json import from_json, to_json
from fmzoo.interop.image_runs import ImageModelConfig
from fmzoo.models.clip_text import ClipTextConfig
from fmzoo.models.dit import DiTConfig
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.models.unet_config import UNetConfig
from fmzoo.stages import IMAGE_PRESETS, PretrainImagesConfig, image_report, image_tour, pretrain_images
from fmzoo.stages.finetune_images import FinetuneImagesConfig, WithPrior, finetune_images
from fmzoo.stages.images import COSINE
from fmzoo.stages.picture_grid import grid
from tests.command import fmzoo as command

UNET = UNetConfig(
    in_channels=1, out_channels=1, sample_size=8, channels=(8,), layers=(1,), transformer_layers=(1,), num_heads=(2,),
    context_dim=8, groups=4, mid="none",
)  # fmt: skip
READER = ClipTextConfig(vocab_size=260, d_model=8, num_layers=1, num_heads=2, d_ff=16, context_length=20)
CONFIG = PretrainImagesConfig(
    model=ImageModelConfig(UNET, COSINE, READER), data="digits", batch_size=8, steps=5, checkpoint_every=2, ema=0.9,
    dropout=0.3, quiet=True, optimizer=train.OptimizerConfig(schedule="constant", warmup_steps=1),
)  # fmt: skip


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """A finished tour of images, and what it showed."""
    out, shown = tmp_path_factory.mktemp("tour") / "t", io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert image_tour.image_tour(out, CONFIG)
    return out, shown.getvalue()


@pytest.fixture(scope="module")
def run(tour):
    return tour[0] / "run"


def arrays(folder):
    checkpoints = folder / "checkpoints"
    return [train.load_params(checkpoints, average=average)[0] for average in (False, True)]


def test_a_run_that_was_killed_is_the_run_that_was_not(run, tmp_path, monkeypatch):
    given = data.ImageIterator.__next__

    def die_at_the_fourth(self):
        if self.examples == 3 * CONFIG.batch_size:
            raise KeyboardInterrupt  # nothing is saved or said
        return given(self)

    monkeypatch.setattr(image_report, "report_images", lambda *_: None)
    monkeypatch.setattr(data.ImageIterator, "__next__", die_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        pretrain_images(CONFIG, tmp_path / "killed")
    assert train.complete_steps(tmp_path / "killed" / "checkpoints") == [2]
    monkeypatch.setattr(data.ImageIterator, "__next__", given)
    assert pretrain_images(CONFIG, tmp_path / "killed")
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path / "killed"), arrays(run))
    params, average = arrays(run)
    assert not np.array_equal(params["denoiser"]["output"]["kernel"], average["denoiser"]["output"]["kernel"])


def test_a_run_folder_holds_what_is_promised(run):
    assert {"config.json", "tokenizer", "metrics.jsonl", "checkpoints", "report.md", "samples.png", "loss.png"} <= {
        path.name for path in run.iterdir()
    }
    values = json.loads((run / "config.json").read_text())
    assert values["stage"] == "pretrain_images"
    report = (run / "report.md").read_text()
    assert "the digit" in report
    mse = [row["mse"] for row in train.read_rows(run / "metrics.jsonl")]
    assert f"| {mse[-1]:.4f} |" in report


def test_a_run_loads_and_draws(run):
    pretrained = fmzoo.load(run, average=True)
    assert isinstance(pretrained.config, TextToImageConfig)
    assert pretrained.config.process == COSINE
    jax.tree.map(np.testing.assert_array_equal, pretrained.params, arrays(run)[1])
    assert fmzoo.load(run, compute_dtype="bfloat16").module.config.dtype == "bfloat16"


def test_a_damaged_run_is_refused(run, tmp_path):
    values = json.loads((run / "config.json").read_text())
    values["model"]["denoiser"]["channels"] = [12]
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    with pytest.raises(InputError, match="config.json beside it needs"):
        fmzoo.load(tmp_path)


def test_a_tour_leaves_its_pictures_and_says_so(tour):
    out, shown = tour
    assert {path.name for path in out.iterdir()} == {"run", "report.md", "loss.png", "noising.png", "prompts.png"}
    places = [shown.index(word) for word in ("1 of 3, training", "2 of 3, noise", "3 of 3, drawing")]
    assert places == sorted(places)
    with Image.open(out / "noising.png") as strip, Image.open(out / "prompts.png") as prompts:
        assert strip.height * 3 < strip.width
        assert len(prompts.text["prompts"].splitlines()) == 10
    with contextlib.redirect_stdout(io.StringIO()) as again:
        assert image_tour.image_tour(out, CONFIG)
    assert "is finished" in again.getvalue()
    with pytest.raises(InputError, match="of a tour"):
        image_tour.image_tour(out / "run", CONFIG)


def test_the_command_draws_a_grid_with_its_settings(run, tmp_path):
    line = ("draw", run, "--prompt", "the digit seven", "--steps", "2", "--count", "2", "--seed", "3")
    for name in ("one.png", "two.png"):
        ended = command(*line, "--out", tmp_path / name)
        assert ended.status == 0, ended.err
        assert "is written" in ended.out
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert {"prompt": "the digit seven", "steps": "2", "seed": "3", "guidance": "5.0"}.items() <= one.text.items()
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
        assert one.size == (2 * 96 + 6, 96 + 4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--out", "x.jpg"), "'.jpg'; .png is needed"),
        (("--steps", "0"), "steps is 0"),
        (("--solver", "dpm"), "dpm++2m"),
        (("--height", "8"), "height is 8 and width is None"),
        (("--seed", "-1"), "seed is -1"),
    ],
)
def test_the_command_refuses_what_does_not_fit(run, tmp_path, change, sentence, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = command("draw", run, "--prompt", "the digit one", "--out", "x.png", *change)
    assert ended.status == 2
    assert sentence in ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", [("generate", "--prompt", "a"), ("eval", "--data", "classics"), ("info",)])
def test_commands_of_text_refuse_a_model_of_images(run, line):
    ended = command(line[0], run, *line[1:])
    assert ended.status == 2
    assert "of images" in ended.err


def test_the_command_pretrains_by_a_preset(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(stages, "pretrain_images", lambda config, workdir: given.append((config, workdir)) or True)
    small = ("--model.denoiser.channels", "8", "8", "--model.process.prediction", "epsilon", "--steps", "1", "--quiet")
    ended = command("pretrain", "digits", "--workdir", tmp_path / "run", *small)
    assert ended.status == 0, ended.err
    assert "is finished" in ended.out
    [(config, workdir)] = given
    assert (config.model.denoiser.channels, config.model.process.prediction, config.steps) == ((8, 8), "epsilon", 1)
    assert config.model.encoder == IMAGE_PRESETS["digits"].model.encoder
    assert workdir == str(tmp_path / "run")


@pytest.mark.parametrize("name", IMAGE_PRESETS)
def test_presets_are_consistent(name):
    config = stages.preset(name)
    assert from_json(PretrainImagesConfig, json.loads(json.dumps(to_json(config)))) == config
    picture = data.images(config.data)[0].image
    assert picture.shape == (config.model.size, config.model.size, config.model.channels)
    assert config.model.denoiser.context_dim == config.model.encoder.d_model


def test_classes_are_learned_without_words(tmp_path):
    denoiser = DiTConfig(
        sample_size=8,
        patch_size=4,
        in_channels=1,
        out_channels=1,
        num_classes=10,
        num_layers=1,
        num_heads=2,
        head_dim=8,
    )
    model = dataclasses.replace(CONFIG.model, denoiser=denoiser, encoder=None)
    assert pretrain_images(dataclasses.replace(CONFIG, model=model, steps=1), tmp_path / "run")
    pretrained = fmzoo.load(tmp_path / "run")
    assert pretrained.tokenizer is None


def test_a_few_pictures_of_one_thing_move_the_adapters_alone(run, tmp_path):
    config = FinetuneImagesConfig(
        source=str(run), data="digits", prompt="the digit sks", class_prompt="the digit one", class_count=4, rank=2,
        batch_size=4, steps=3, checkpoint_every=2, quiet=True,
    )  # fmt: skip
    assert finetune_images(config, tmp_path / "tuned")
    assert {"loss", "prior", "mse"} <= train.read_rows(tmp_path / "tuned" / "metrics.jsonl")[0].keys()
    base, tuned = (flatten_dict(fmzoo.load(path).params, sep="/") for path in (run, tmp_path / "tuned"))
    moved = {path for path in base if not np.array_equal(base[path], tuned[path])}
    assert moved
    assert all(re.search(config.targets, path) for path in moved)
    assert "# Fine-tuning on digits" in (tmp_path / "tuned" / "report.md").read_text()


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


def test_grids_are_in_reading_order():
    pictures = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 2, 2, 3), np.uint8)
    sheet = grid(pictures, columns=2, zoom=2)
    assert sheet.shape == (2 * 6 + 2, 2 * 6 + 2, 3)
    assert [sheet[3, 3, 0], sheet[3, 9, 0], sheet[9, 3, 0], sheet[9, 9, 0]] == [0, 1, 2, 255]
