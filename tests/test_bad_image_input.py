"""Every mistake with pictures ends in one sentence and status 2, with nothing new on disk."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

import fmzoo as package
from fmzoo.data.pictures import MAX_PIXELS, encode
from fmzoo.interop import safetensors
from fmzoo.text import PromptCut
from tests.command import files_below, fmzoo
from tests.data.test_image_folders import bomb, saved
from tests.interop.ldm_states import state
from tests.interop.test_pipelines import PAINTS, SD, edit, make
from tests.test_bad_input import check_refused

GREY = np.full((8, 8, 3), 90, np.uint8)
FRAMES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    """A system that draws, one with too few words for its tokenizer, and one that paints in, as folders."""
    folder = tmp_path_factory.mktemp("systems")
    words = {"text_encoder": dataclasses.replace(SD.encoders["text_encoder"], vocab_size=520)}
    package.save(make(dataclasses.replace(SD, encoders=words), folder / "tokens"), folder / "sd", format="diffusers")
    package.save(make(SD, folder / "others"), folder / "few", format="diffusers")
    package.save(make(PAINTS, folder / "more"), folder / "paints", format="diffusers")
    return folder


@pytest.fixture
def place(tmp_path, systems, monkeypatch):
    """An empty folder to stand in, with copies of the systems."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name in ("sd", "few", "paints"):
        shutil.copytree(systems / name, tmp_path / name)
    return tmp_path


def refused(place, *arguments):
    before = files_below(place)
    ended = fmzoo(*arguments)
    return check_refused(ended.status, ended.err, files_below(place) - before)


def draw(source="sd", *changes):
    return ("draw", source, "--prompt", "a cat", "--out", "cat.png", "--steps", "2", "--count", "1", *changes)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (encode(GREY)[:45], "b.png is damaged"),
        (b"GIF89a", "b.png is damaged or of another format"),
        (saved(FRAMES[0], format="PNG", save_all=True, append_images=FRAMES[1:]), "b.png is animated; a still picture"),
        (bomb(50000, 50000), f"b.png has too many pixels; at most {MAX_PIXELS} are accepted"),
    ],
    ids=["cut off", "no picture", "animated", "bomb"],
)
def test_pictures_to_learn_from(place, data, sentence):
    (place / "pictures").mkdir()
    (place / "pictures" / "a.png").write_bytes(encode(GREY))
    (place / "pictures" / "b.png").write_bytes(data)
    for name in ("a.txt", "b.txt"):
        (place / "pictures" / name).write_text("a grey square")
    assert sentence in refused(place, "pretrain", "digits", "--workdir", "run", "--data", "pictures")


DAMAGES = {
    "no unet": (lambda f: shutil.rmtree(f / "unet"), "lacks the folder unet, which a StableDiffusionPipeline needs"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "lacks the folder tokenizer, which text_encoder needs"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "lacks the folder scheduler"),
    "unknown scheduler": (edit(SCHEDULER, _class_name="LCMScheduler"), "has _class_name 'LCMScheduler'"),
    "betas of its own": (edit(SCHEDULER, trained_betas=[0.1]), "trained_betas"),
    "no variance": (
        edit(SCHEDULER, _class_name="DDPMScheduler", variance_type="learned_range"),
        "variance_type is 'learned_range' and the denoiser has 4 out_channels; 8 are needed",
    ),
    "noise from noise": (edit(SCHEDULER, rescale_betas_zero_snr=True), "'epsilon' with zero_terminal_snr=True gives"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_systems_that_lack_something(place, damage):
    change, sentence = DAMAGES[damage]
    change(place / "sd")
    assert sentence in refused(place, *draw())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--height", "9", "--width", "8"), "height is 9; a multiple of 2 is needed, such as 8"),
        (("--height", "8", "--width", "0"), "width is 0; a multiple of 2"),
        (("--solver", "flow-euler"), "solver 'flow-euler' needs a schedule of flow"),
        (("--steps", "1001"), "steps is 1001; 1 to num_train_timesteps, 1000"),
    ],
)
def test_what_does_not_fit_a_system(place, change, sentence):
    assert sentence in refused(place, *draw("sd", *change))


def test_a_system_that_paints_in_draws_nothing_from_nothing(place):
    assert "image and mask are needed, as the denoiser paints in" in refused(place, *draw("paints"))


def test_a_tokenizer_of_another_model(place):
    assert "the tokenizer of text_encoder gives the token 519; 0 to 19 are needed" in refused(place, *draw("few"))


def test_a_single_file_with_no_tokenizer_beside_it(place):
    safetensors.write_file(place / "x.safetensors", state("1", np.random.default_rng(0)))
    assert "beside its file the folders tokenizer of diffusers are needed" in refused(place, *draw("x.safetensors"))


def test_noise_is_not_learned_where_there_is_nothing_else(place):
    change = ("--model.process.prediction", "epsilon", "--model.process.zero-terminal-snr")
    said = refused(place, "pretrain", "digits", "--workdir", "run", *change)
    assert "prediction 'epsilon' with zero_terminal_snr=True gives no picture" in said


def test_a_long_prompt_is_told_and_cut(place):
    """What an encoder does not take changes nothing."""
    long, short = "a cat and a dog near the sea", "a cat and"
    with pytest.warns(PromptCut, match=r"prompt of 15 tokens is over the 3 that text_encoder takes; cut off: 'a dog"):
        assert fmzoo(*draw("sd", "--prompt", long, "--out", "long.png")).status == 0
    assert fmzoo(*draw("sd", "--prompt", short, "--out", "short.png")).status == 0
    with Image.open("long.png") as one, Image.open("short.png") as two:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
        assert one.text["prompt"] == long
