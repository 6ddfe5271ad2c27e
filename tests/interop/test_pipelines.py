"""Folders of whole systems: what is saved comes back, and what is missing or unknown is one sentence."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import fmzoo
from fmzoo.diffusion import Process
from fmzoo.errors import InputError
from fmzoo.interop.components import KINDS
from fmzoo.models import Pretrained
from fmzoo.models.denoiser import make_denoiser
from fmzoo.models.dit import DiTConfig
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.text import PromptTokenizer
from fmzoo.text.clip import ClipTokenizer
from tests.models.test_text_to_image import AUTOENCODER, MMDIT, SMALL, T5, WIDE, unet
from tests.text.test_clip import write_vocabulary


def random_params(config, key):
    """Arrays of the shapes that a network has, without compiling its `init`."""
    shapes = KINDS[type(config)].structure(config).shapes
    values = np.random.default_rng(key)
    flat = {path: jnp.asarray(values.standard_normal(shape), jnp.float32) for path, shape in shapes.items()}
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return tree


def make(config, folder):
    params = {"denoiser": random_params(config.denoiser, 0), "autoencoder": random_params(config.autoencoder, 1)}
    params |= {name: random_params(encoder, i + 2) for i, (name, encoder) in enumerate(config.encoders.items())}
    folder.mkdir()
    write_vocabulary(folder)
    tokenizer = ClipTokenizer.load(folder)
    tokenizers = dict.fromkeys(config.encoders, tokenizer)
    lengths = dict.fromkeys(config.encoders, 5)
    prompts = PromptTokenizer(tokenizers, lengths) if tokenizers else None
    return Pretrained(make_denoiser(config.denoiser), params, config, prompts)


SD = TextToImageConfig(unet(8), AUTOENCODER, {"text_encoder": SMALL}, Process(), "sd1", solver="ddim")
V = TextToImageConfig(
    unet(8), AUTOENCODER, {"text_encoder": SMALL}, Process(prediction="v_prediction"), "sd1", solver="plms"
)
XL = TextToImageConfig(
    unet(20), AUTOENCODER, {"text_encoder": SMALL, "text_encoder_2": WIDE}, Process(), "sdxl", solver="euler",
    zero_empty_prompt=True,
)  # fmt: skip
REFINER = TextToImageConfig(unet(12), AUTOENCODER, {"text_encoder_2": WIDE}, Process(), "sdxl", solver="euler")
SD3 = TextToImageConfig(
    MMDIT, AUTOENCODER, {"text_encoder": SMALL, "text_encoder_2": WIDE},
    Process(schedule="flow", prediction="velocity", shift=3.0), "sd3", solver="flow-euler",
)  # fmt: skip
PAINTS = dataclasses.replace(SD, denoiser=dataclasses.replace(unet(8), in_channels=9))
DIT = TextToImageConfig(
    DiTConfig(sample_size=4, patch_size=2, out_channels=8, num_classes=3, num_layers=2, num_heads=2, head_dim=4,
              mlp_epsilon=1e-5, frequency_shift=1.0),
    AUTOENCODER, {}, Process(learned_variance=True), "class", solver="ddim",
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    fmzoo.save(make(SD, folder / "tokens"), folder / "sd", format="diffusers")
    return folder / "sd"


@pytest.mark.parametrize(
    "config", [SD, V, XL, REFINER, SD3, PAINTS, DIT], ids=["sd", "v", "xl", "refiner", "sd3", "paints", "dit"]
)
def test_what_is_saved_comes_back_bit_for_bit(config, tmp_path):
    system = make(config, tmp_path / "tokens")
    fmzoo.save(system, tmp_path / "saved", format="diffusers")
    again = fmzoo.load(tmp_path / "saved")
    assert again.config.encoders == config.encoders
    assert again.config.denoiser == config.denoiser
    assert again.config.autoencoder == config.autoencoder
    assert again.config.process.prediction == config.process.prediction
    assert again.config.process.learned_variance == config.process.learned_variance
    assert (again.config.family, again.config.solver) == (config.family, config.solver)
    assert again.config.zero_empty_prompt == config.zero_empty_prompt
    before, after = (flatten_dict(one.params, sep="/") for one in (system, again))
    assert before.keys() == after.keys()
    assert all(np.array_equal(after[path], leaf) for path, leaf in before.items())
    if not config.encoders:
        assert again.tokenizer is None
        return
    rows = again.tokenizer.encode(["a cat"])
    assert {name: row.tolist() for name, row in rows.items()} == {
        name: row.tolist() for name, row in system.tokenizer.encode(["a cat"]).items()
    }


def test_one_network_is_loaded_alone(saved):
    alone = fmzoo.load(saved / "unet", dtype="bfloat16", compute_dtype="bfloat16")
    assert alone.config.dtype == "bfloat16"
    assert alone.module.config == alone.config
    assert {leaf.dtype.name for leaf in jax.tree.leaves(alone.params)} == {"bfloat16"}


def changed(saved, folder, change):
    shutil.copytree(saved, folder)
    change(folder)
    return folder


def edit(name, **changes):
    def change(folder):
        values = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps(values))

    return change


INDEX = "model_index.json"
DAMAGES = {
    "no unet folder": (lambda f: shutil.rmtree(f / "unet"), "lacks the folder unet, which a StableDiffusionPipeline"),
    "no vae named": (edit(INDEX, vae=[None, None]), "has no vae; a StableDiffusionPipeline needs unet, vae, text_enc"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "lacks the folder scheduler"),
    "empty scheduler": (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "lacks scheduler_config.json"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "lacks the folder tokenizer, which text_encoder needs"),
    "unknown pipeline": (edit(INDEX, _class_name="KandinskyPipeline"), "of pipeline 'KandinskyPipeline', which is not"),
    "unknown class": (edit(INDEX, unet=["diffusers", "UVit2DModel"]), "of class 'UVit2DModel', which is not known"),
    "more components": (edit(INDEX, controlnet=["diffusers", "ControlNetModel"]), "has a component 'controlnet'"),
    "unknown scheduler": (
        edit("scheduler/scheduler_config.json", _class_name="LCMScheduler"), "has _class_name 'LCMScheduler'",
    ),
    "noise from noise": (
        edit("scheduler/scheduler_config.json", rescale_betas_zero_snr=True), "prediction 'epsilon' with zero_terminal",
    ),
    "pickle": (
        lambda f: (f / "unet/diffusion_pytorch_model.safetensors").rename(f / "unet/diffusion_pytorch_model.bin"),
        "is a pickle, which is never loaded",
    ),
    "cut off": (
        lambda f: (f / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"\x08"), "is no whole safetensors file",
    ),
    "other width": (edit("unet/config.json", cross_attention_dim=16), "shape"),
    "no class": (edit(INDEX, _class_name=None), "of pipeline 'None', which is not known"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_missing_or_unknown_is_one_sentence(damage, saved, tmp_path):
    change, sentence = DAMAGES[damage]
    with pytest.raises(InputError, match=sentence) as told:
        fmzoo.load(changed(saved, tmp_path / "broken", change))
    assert "\n" not in str(told.value)


def test_a_system_that_diffusers_does_not_have_is_told(tmp_path):
    pixels = TextToImageConfig(unet(8), None, {"text_encoder": SMALL}, Process(), "sd1")
    with pytest.raises(InputError, match="autoencoder is None; the pipelines of diffusers draw latents"):
        fmzoo.save(Pretrained(make_denoiser(unet(8)), {}, pixels), tmp_path / "x", format="diffusers")
    other = TextToImageConfig(unet(8), AUTOENCODER, {"words": SMALL}, Process(), "sd1")
    with pytest.raises(InputError, match=r"encoders \['words'\] and a UNetConfig is no pipeline of diffusers"):
        fmzoo.save(Pretrained(make_denoiser(unet(8)), {}, other), tmp_path / "x", format="diffusers")
    with pytest.raises(InputError, match="config is a T5Config; a TextToImageConfig is needed"):
        fmzoo.save(Pretrained(None, {}, T5), tmp_path / "x", format="diffusers")
    assert not (tmp_path / "x").exists()
