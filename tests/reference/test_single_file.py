"""Single files of Stable Diffusion: names and values as diffusers' own conversion gives them."""

import types

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo.generate import images
from fmzoo.interop import safetensors, single_file
from tests.interop.ldm_states import state
from tests.reference.random_systems import (
    CONTRAST,
    LENGTH,
    NEGATIVE,
    PROMPTS,
    SCALE,
    SIZE,
    STEPS,
    TOLERANCE,
    VOCABULARY,
    clip_tokenizer,
    difference,
    draw_reference,
)

pytestmark = pytest.mark.reference
TOWERS = {  # in diffusers' conversion: the component, the prefix, and whether OpenCLIP's names follow
    "1": [("text_encoder", "cond_stage_model.transformer.", False)],
    "2": [("text_encoder", "cond_stage_model.model.", True)],
    "xl": [
        ("text_encoder", "conditioner.embedders.0.transformer.", False),
        ("text_encoder_2", "conditioner.embedders.1.model.", True),
    ],
    "xl-refiner": [("text_encoder_2", "conditioner.embedders.0.model.", True)],
}


@pytest.mark.parametrize("version", TOWERS)
def test_components_equal_those_of_diffusers(tmp_path, version):
    import torch
    from diffusers.loaders import single_file_utils as theirs

    arrays = state(version, np.random.default_rng(1))
    safetensors.write_file(tmp_path / "x.safetensors", arrays)
    found = single_file.read(tmp_path / "x.safetensors")
    checkpoint = {name: torch.from_numpy(x) for name, x in arrays.items()}
    needed = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(checkpoint), found["unet"].config),
        "vae": theirs.convert_ldm_vae_checkpoint(dict(checkpoint), found["vae"].config),
    }
    for name, prefix, open_clip in TOWERS[version]:
        if open_clip:
            model = types.SimpleNamespace(config=types.SimpleNamespace(hidden_size=None))
            needed[name] = theirs.convert_open_clip_checkpoint(model, dict(checkpoint), prefix)
        else:
            needed[name] = theirs.convert_ldm_clip_checkpoint(dict(checkpoint), prefix)
    for name, tensors in needed.items():
        assert found[name].tensors.keys() == tensors.keys()
        for tensor, value in tensors.items():
            ours = found[name].tensors[tensor]
            assert tuple(ours.shape) == tuple(value.shape)
            np.testing.assert_array_equal(np.asarray(ours), value.numpy())


@pytest.mark.parametrize("version", TOWERS)
def test_configs_build_models_of_diffusers_with_these_weights(tmp_path, version):
    import diffusers
    import torch

    safetensors.write_file(tmp_path / "x.safetensors", state(version, np.random.default_rng(1)))
    found = single_file.read(tmp_path / "x.safetensors")
    for name, cls in {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}.items():
        model = cls.from_config(found[name].config)
        tensors = {key: torch.from_numpy(np.asarray(x).copy()) for key, x in found[name].tensors.items()}
        model.load_state_dict(tensors)  # all of them and no others
    scheduler = found["scheduler"].config
    made = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
    assert made.config.prediction_type == ("v_prediction" if version == "2" else "epsilon")


@pytest.mark.parametrize("version", TOWERS)
def test_versions_are_those_of_diffusers(version):
    """diffusers looks for one tensor each; the tiny files are too small to have some of them."""
    from diffusers.loaders import single_file_utils as theirs

    names = {"1": "v1", "2": "v2", "xl": "xl_base", "xl-refiner": "xl_refiner"}
    arrays = state(version, np.random.default_rng(1))
    shape = (8, 1024) if version == "2" else (8, 64)
    mark = theirs.CHECKPOINT_KEY_NAMES[names[version]]
    assert theirs.infer_diffusers_model_type({**arrays, mark: np.zeros(shape)}) == names[version]
    assert single_file.detect(arrays) == version


def settled(arrays):
    """Weights that leave the size of features as it is, wider where a prompt comes in and narrower where all ends."""

    def settle(name, x):
        if x.ndim < 2:
            return (1 if name.endswith("weight") else 0) + 0.1 * x
        scale = 2.0 if "attn2" in name or "label_emb" in name else 1.0
        scale = 0.6 if "decoder.conv_out" in name or "diffusion_model.out.2" in name else scale
        fan_in = 1 if "embedding" in name else x[0].size
        return (scale * fan_in**-0.5 * x).astype(np.float32)

    return {name: np.asarray(settle(name, x), np.float32) for name, x in arrays.items()}


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn.t accept a copy:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:prompt of:UserWarning")
@pytest.mark.parametrize("version", ["1", "2", "xl"])
def test_a_file_draws_what_diffusers_draws_of_it(tmp_path, version):
    import diffusers

    arrays = settled(state(version, np.random.default_rng(2), VOCABULARY, LENGTH))
    safetensors.write_file(tmp_path / "x.safetensors", arrays)
    for name, pad in {"tokenizer": "!" if version == "2" else "<|endoftext|>", "tokenizer_2": "!"}.items():
        clip_tokenizer(tmp_path / name, pad)
    ours = fmzoo.load(tmp_path / "x.safetensors")
    fmzoo.save(ours, tmp_path / "configs", format="diffusers")
    cls = diffusers.StableDiffusionXLPipeline if version == "xl" else diffusers.StableDiffusionPipeline
    theirs = cls.from_single_file(str(tmp_path / "x.safetensors"), config=str(tmp_path / "configs"))
    theirs.set_progress_bar_config(disable=True)
    latents = np.random.default_rng(5).standard_normal((1, SIZE[0] // 2, SIZE[1] // 2, 4)).astype(np.float32)
    latents = np.repeat(latents, len(PROMPTS), axis=0)
    needed = draw_reference(theirs, latents)
    assert min(picture.std() for picture in needed) > CONTRAST
    assert difference(*needed) > CONTRAST
    drawn = images(
        ours, PROMPTS, jax.random.key(0), solver=ours.config.solver, steps=STEPS, guidance_scale=SCALE,
        negative=NEGATIVE, latents=latents,
    )  # fmt: skip
    assert difference(drawn, needed) <= TOLERANCE
