import dataclasses

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo import generate
from fmzoo.errors import InputError
from fmzoo.interop import safetensors, single_file
from fmzoo.interop.ldm_configs import unet_config
from fmzoo.interop.ldm_names import ldm_module, unet_name, unet_tensors
from fmzoo.interop.unet import read_unet
from fmzoo.models.unet_config import (
    STABLE_DIFFUSION_1,
    STABLE_DIFFUSION_2,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION_XL_REFINER,
)
from tests.interop import ldm_states
from tests.interop.ldm_states import state


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    states = {version: state(version, np.random.default_rng(3)) for version in ("1", "2", "xl", "xl-refiner")}
    for version, tensors in states.items():
        safetensors.write_file(folder / f"{version}.safetensors", tensors)
    return folder, states


@pytest.mark.parametrize("version", ["1", "2", "xl", "xl-refiner"])
def test_versions_are_told_apart(files, version):
    assert single_file.detect(files[1][version]) == version


@pytest.mark.parametrize("version", ["1", "2", "xl"])
def test_every_component_loads_by_its_mapping(files, version):
    loaded = fmzoo.load(files[0] / f"{version}.safetensors")
    config, params = loaded.config, loaded.params
    whole = files[1][version]
    assert config.family == {"1": "sd1", "2": "sd2", "xl": "sdxl"}[version]
    assert config.denoiser.channels == (32, 64)
    assert config.denoiser.layers == {"xl": (2, 2)}.get(version, (1, 1))
    assert config.denoiser.linear_projection == (version != "1")
    assert config.autoencoder.scaling_factor == {"xl": 0.13025}.get(version, 0.18215)
    assert config.process.prediction == {"2": "v_prediction"}.get(version, "epsilon")
    found = [(tower.activation, tower.projection) for tower in config.encoders.values()]
    assert found == {"2": [("gelu", None)]}.get(version, [("quick_gelu", None), ("gelu", 128)][: len(found)])
    kernel = whole["model.diffusion_model.out.2.weight"]
    np.testing.assert_array_equal(params["denoiser"]["output"]["kernel"], kernel.transpose(2, 3, 1, 0))
    query = whole["first_stage_model.encoder.mid.attn_1.q.weight"][:, :, 0, 0]
    kernel = params["autoencoder"]["encoder"]["middle"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(kernel, query.T)
    if version == "xl":
        tower, prefix = params["text_encoder_2"], "conditioner.embedders.1.model."
        joined = whole[f"{prefix}transformer.resblocks.1.attn.in_proj_weight"]
        np.testing.assert_array_equal(tower["layers"]["attention"]["key"]["kernel"][1], joined[128:256].T)
        np.testing.assert_array_equal(tower["projection"]["kernel"], whole[f"{prefix}text_projection"])


def test_version_2_takes_all_layers_but_the_last_and_predicts_v(files):
    parts = single_file.read(files[0] / "2.safetensors")
    assert parts["text_encoder"].config["num_hidden_layers"] == 23
    assert parts["scheduler"].config["prediction_type"] == "v_prediction"
    asked = single_file.read(files[0] / "2.safetensors", prediction="epsilon")
    assert asked["scheduler"].config["prediction_type"] == "epsilon"


def test_averages_take_the_place_of_the_weights(files, tmp_path):
    prefix = "model.diffusion_model."
    tensors = dict(files[1]["1"])
    for name in [name for name in tensors if name.startswith(prefix)]:
        tensors["model_ema.diffusion_model" + name.removeprefix(prefix).replace(".", "")] = tensors[name] + 1
    safetensors.write_file(tmp_path / "averaged.safetensors", tensors)
    last, averaged = (single_file.read(tmp_path / "averaged.safetensors", average=a)["unet"] for a in (False, True))
    for name, tensor in last.tensors.items():
        np.testing.assert_array_equal(np.asarray(averaged.tensors[name]), np.asarray(tensor) + 1)
    with pytest.raises(InputError, match="a file with averages is needed"):
        single_file.read(files[0] / "1.safetensors", average=True)
    loaded = fmzoo.load(tmp_path / "averaged.safetensors", average=True, prediction="v_prediction")
    assert loaded.config.process.prediction == "v_prediction"
    kernel = files[1]["1"][f"{prefix}out.2.weight"].transpose(2, 3, 1, 0) + 1
    np.testing.assert_array_equal(loaded.params["denoiser"]["output"]["kernel"], kernel)


def test_what_only_a_single_file_can_be_asked_for(files):
    with pytest.raises(InputError, match="prediction is 'noise'; epsilon, v_prediction or None is needed"):
        fmzoo.load(files[0] / "1.safetensors", prediction="noise")
    with pytest.raises(InputError, match="prediction is 'epsilon' and .* is no single file; None is needed"):
        fmzoo.load(files[0], prediction="epsilon")


def test_a_system_without_a_tokenizer_draws_nothing(files):
    loaded = fmzoo.load(files[0] / "xl.safetensors")
    assert loaded.tokenizer is None
    needed = "beside its file the folders tokenizer, tokenizer_2 of diffusers are needed"
    with pytest.raises(InputError, match=needed):
        generate.images(loaded, ["a cat"], jax.random.key(0))


def test_all_that_paint_in_predict_noise(files, tmp_path):
    widened = {"model.diffusion_model.input_blocks.0.0.weight": np.zeros((32, 9, 3, 3), np.float32)}
    safetensors.write_file(tmp_path / "paints.safetensors", files[1]["2"] | widened)
    loaded = fmzoo.load(tmp_path / "paints.safetensors")
    assert loaded.config.denoiser.in_channels == 9
    assert loaded.config.process.prediction == "epsilon"


def test_marks_of_zero_terminal_snr_change_the_scheduler(files, tmp_path):
    marks = {name: np.zeros(1, np.float32) for name in ("v_pred", "ztsnr")}
    safetensors.write_file(tmp_path / "marked.safetensors", files[1]["xl"] | marks)
    config = single_file.read(tmp_path / "marked.safetensors")["scheduler"].config
    assert config["prediction_type"] == "v_prediction"
    assert config["rescale_betas_zero_snr"]
    assert config["timestep_spacing"] == "trailing"


@pytest.mark.parametrize("version", ["1", "xl"])
def test_names_translate_back(files, version):
    prefix, layers = "model.diffusion_model.", 1 + (version == "xl")
    modules = {n.removeprefix(prefix).rpartition(".")[0] for n in files[1][version] if n.startswith(prefix)}
    kept = [m for m in modules if not m.endswith((".op", ".conv"))]
    assert {ldm_module(unet_name(f"{m}.weight", layers).removesuffix(".weight"), layers): m for m in kept} == {
        m: m for m in kept
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.diffusion_model.input_blocks.1.0.extra.weight", "the U-Net has a tensor"),
        ("first_stage_model.encoder.extra.weight", "the autoencoder has a tensor"),
        ("extra.weight", "which no version of Stable Diffusion has"),
        ("model.diffusion_model.joint_blocks.0.x.weight", "holds Stable Diffusion 3"),
    ],
)
def test_what_is_not_known_is_refused(files, tmp_path, name, message):
    safetensors.write_file(tmp_path / "odd.safetensors", files[1]["1"] | {name: np.zeros(1, np.float32)})
    with pytest.raises(InputError, match=message):
        single_file.read(tmp_path / "odd.safetensors")


def test_a_file_without_a_text_encoder_is_refused(files, tmp_path):
    tensors = {name: tensor for name, tensor in files[1]["1"].items() if not name.startswith("cond_stage_model")}
    safetensors.write_file(tmp_path / "part.safetensors", tensors)
    with pytest.raises(InputError, match="does not hold"):
        single_file.read(tmp_path / "part.safetensors")


def test_a_joined_tensor_of_no_three_parts_is_refused(files, tmp_path):
    name = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias"
    safetensors.write_file(tmp_path / "odd.safetensors", files[1]["xl"] | {name: np.zeros(64, np.float32)})
    with pytest.raises(InputError, match="three equal parts"):
        single_file.read(tmp_path / "odd.safetensors")


FULL = {
    "1": ([320, 640, 1280, 1280], [1, 1, 1, 0], 1, 2, 768, False, 0),
    "2": ([320, 640, 1280, 1280], [1, 1, 1, 0], 1, 2, 1024, True, 0),
    "xl": ([320, 640, 1280], [0, 2, 10], 10, 2, 2048, True, 2816),
    "xl-refiner": ([384, 768, 1536, 1536], [0, 4, 4, 0], 4, 2, 1280, True, 2560),
}
PUBLISHED = {
    "1": STABLE_DIFFUSION_1,
    "2": dataclasses.replace(STABLE_DIFFUSION_2, sample_size=96, upcast_attention=True),
    "xl": STABLE_DIFFUSION_XL,
    "xl-refiner": STABLE_DIFFUSION_XL_REFINER,
}


@pytest.mark.parametrize("version", FULL)
def test_shapes_of_full_size_tell_the_published_config(version):
    shapes = ldm_states.unet(*FULL[version])
    tensors = unet_tensors({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()})
    assert read_unet(unet_config(tensors, version)) == PUBLISHED[version]
