"""Image runs in small: what a run folder holds, what is drawn from it, the tour, the command."""

import contextlib
import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

import fmzoo
from fmzoo import data, stages, train
from fmzoo.errors import InputError
from fmzoo.interop.config_json import from_json, to_json
from fmzoo.models.dit import DiTConfig
from fmzoo.models.mmdit import MMDiTConfig
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.stages import (
    AUTOENCODER_PRESETS,
    IMAGE_PRESETS,
    PretrainAutoencoderConfig,
    PretrainImagesConfig,
    image_tour,
    pretrain_images,
)
from fmzoo.stages.images import COSINE
from fmzoo.stages.picture_grid import grid
from tests.command import fmzoo as command
from tests.stages import small_image_runs

pytestmark = pytest.mark.usefixtures("one_device")
CONFIG = dataclasses.replace(small_image_runs.IMAGES, steps=5, checkpoint_every=2)


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
    params, averaged = arrays(run)
    jax.tree.map(np.testing.assert_array_equal, pretrained.params, averaged)
    assert not np.array_equal(params["denoiser"]["output"]["kernel"], averaged["denoiser"]["output"]["kernel"])
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


def test_the_command_pretrains_an_autoencoder(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(stages, "pretrain_autoencoder", lambda config, workdir: given.append(config) or True)
    ended = command("pretrain", "emoji-autoencoder", "--workdir", tmp_path / "run", "--discriminator.features", "8")
    assert ended.status == 0, ended.err
    assert given[0].discriminator.features == 8


@pytest.mark.parametrize("name", AUTOENCODER_PRESETS)
def test_presets_of_autoencoders_are_consistent(name):
    config = stages.preset(name)
    assert from_json(PretrainAutoencoderConfig, json.loads(json.dumps(to_json(config)))) == config
    assert data.images(config.data)[0].image.shape == (config.size, config.size, config.model.image_channels)


@pytest.mark.parametrize("name", IMAGE_PRESETS)
def test_presets_are_consistent(name):
    config = stages.preset(name)
    assert from_json(PretrainImagesConfig, json.loads(json.dumps(to_json(config)))) == config
    picture = data.images(config.data)[0].image
    assert picture.shape == (config.model.size, config.model.size, config.model.channels)
    denoiser = config.model.denoiser
    width = denoiser.context_features if isinstance(denoiser, MMDiTConfig) else denoiser.context_dim
    assert width == config.model.encoder.d_model


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


def test_grids_are_in_reading_order():
    pictures = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 2, 2, 3), np.uint8)
    sheet = grid(pictures, columns=2, zoom=2)
    assert sheet.shape == (2 * 6 + 2, 2 * 6 + 2, 3)
    assert [sheet[3, 3, 0], sheet[3, 9, 0], sheet[9, 3, 0], sheet[9, 9, 0]] == [0, 1, 2, 255]
