"""How each family of systems makes conditions of its encoders' outputs, and which parts do not fit together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.diffusion import Process
from fmzoo.errors import InputError
from fmzoo.models.autoencoder import AutoencoderConfig
from fmzoo.models.clip_text import ClipText, ClipTextConfig
from fmzoo.models.mmdit import MMDiTConfig
from fmzoo.models.t5 import T5Config, T5Encoder
from fmzoo.models.text_to_image import TextToImageConfig, encode_prompts
from fmzoo.models.unet_config import UNetConfig

SMALL = ClipTextConfig(vocab_size=20, d_model=8, num_layers=2, num_heads=2, d_ff=12, context_length=5, projection=3)
WIDE = dataclasses.replace(SMALL, d_model=12, projection=4)
T5 = T5Config(vocab_size=20, d_model=24, num_layers=1, num_heads=2, head_dim=4, d_ff=12, num_buckets=8, max_distance=9)
AUTOENCODER = AutoencoderConfig(channels=(8, 8), norm_groups=4)
SIZES = {"sample_size": 8, "channels": (8, 16), "transformer_layers": (1, 0), "layers": (1, 1), "num_heads": (2, 2)}
FLOW = Process(schedule="flow", prediction="velocity")
ROWS = jnp.asarray([[18, 3, 5, 19, 19], [18, 2, 7, 4, 19]], jnp.int32)


def unet(width):
    return UNetConfig(**SIZES, context_dim=width, groups=4)


def system(family, encoders, denoiser, **options):
    process = FLOW if family == "sd3" else Process()
    return TextToImageConfig(denoiser, AUTOENCODER, encoders, process, family, **options)


def parameters(encoders):
    kinds = {ClipTextConfig: ClipText, T5Config: T5Encoder}
    return {
        name: jax.jit(kinds[type(encoder)](encoder).init)(jax.random.key(len(name)), ROWS)["params"]
        for name, encoder in encoders.items()
    }


MMDIT = MMDiTConfig(in_channels=4, out_channels=4, num_layers=2, num_heads=2, head_dim=4, context_features=24)


@pytest.fixture(scope="module")
def towers():
    encoders = {"text_encoder": SMALL, "text_encoder_2": WIDE, "text_encoder_3": T5}
    params = parameters(encoders)
    modules = {"text_encoder": ClipText(SMALL), "text_encoder_2": ClipText(WIDE), "text_encoder_3": T5Encoder(T5)}
    return encoders, params, {name: modules[name].apply({"params": params[name]}, ROWS) for name in modules}


def test_the_first_versions_hear_the_last_state(towers):
    encoders, params, said = towers
    config = system("sd1", {"text_encoder": SMALL}, unet(8))
    told = encode_prompts(config, params, {"text_encoder": ROWS})
    assert told.keys() == {"context"}
    np.testing.assert_array_equal(told["context"], said["text_encoder"]["last"])


def test_xl_hears_both_penultimate_states_and_the_second_pooled(towers):
    encoders, params, said = towers
    two = {name: encoders[name] for name in ("text_encoder", "text_encoder_2")}
    config = system("sdxl", two, unet(20))
    told = encode_prompts(config, params, dict.fromkeys(two, ROWS))
    np.testing.assert_array_equal(told["context"][..., :8], said["text_encoder"]["penultimate"])
    np.testing.assert_array_equal(told["context"][..., 8:], said["text_encoder_2"]["penultimate"])
    np.testing.assert_array_equal(told["pooled"], said["text_encoder_2"]["pooled"])
    refiner = system("sdxl", {"text_encoder_2": WIDE}, unet(12))
    np.testing.assert_array_equal(
        encode_prompts(refiner, params, {"text_encoder_2": ROWS})["context"], told["context"][..., 8:]
    )


def test_the_third_version_hears_towers_widened_by_zeros_then_t5(towers):
    encoders, params, said = towers
    told = encode_prompts(system("sd3", encoders, MMDIT), params, dict.fromkeys(encoders, ROWS))
    assert told["context"].shape == (2, 10, 24)
    np.testing.assert_array_equal(told["context"][:, :5, 8:20], said["text_encoder_2"]["penultimate"])
    assert not np.any(told["context"][:, :5, 20:])
    np.testing.assert_array_equal(told["context"][:, 5:], said["text_encoder_3"])
    pooled = np.concatenate([said[name]["pooled"] for name in ("text_encoder", "text_encoder_2")], axis=-1)
    np.testing.assert_array_equal(told["pooled"], pooled)


def test_zeros_stand_where_there_is_no_t5(towers):
    encoders, params, _ = towers
    two = {name: encoders[name] for name in ("text_encoder", "text_encoder_2")}
    config = system("sd3", two, MMDIT, t5_length=7)
    told = encode_prompts(config, params, dict.fromkeys(two, ROWS))
    assert told["context"].shape == (2, 12, 24)
    assert not np.any(told["context"][:, 5:])


def test_a_system_is_hashable_and_knows_how_much_each_encoder_reads():
    config = system("sd3", {"a": SMALL, "b": WIDE, "c": T5}, MMDIT, t5_length=9)
    assert config.lengths == {"a": 5, "b": 5, "c": 9}
    assert hash(config) == hash(dataclasses.replace(config))
    assert config == dataclasses.replace(config, t5_length=9)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: system("sd1", {"a": SMALL}, unet(9)), "encoders are 8 wide and the denoiser reads a context_dim of 9"),
        (lambda: system("sd1", {}, unet(8)), "only class has none"),
        (lambda: system("sd1", {"a": T5}, unet(24)), "encoders hold a T5 in a system of family 'sd1'"),
        (lambda: system("sd4", {"a": SMALL}, unet(8)), "family is 'sd4'; one of sd1"),
        (
            lambda: system("sd1", {"a": SMALL}, dataclasses.replace(unet(8), in_channels=5)),
            "in_channels 5 and the autoencoder latent_channels 4",
        ),
        (
            lambda: system("sd3", {"a": SMALL, "c": T5}, dataclasses.replace(MMDIT, context_features=28)),
            "reads context_features of 28",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_told(make, sentence):
    with pytest.raises(InputError, match=sentence) as told:
        make()
    assert len(str(told.value)) < 300


def test_a_denoiser_may_take_a_mask_and_a_picture_beside_the_latents():
    assert system("sd1", {"a": SMALL}, dataclasses.replace(unet(8), in_channels=9)).denoiser.in_channels == 9
