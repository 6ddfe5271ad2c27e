"""Whole systems against diffusers: what its pipelines save draws the same here, and what is saved here the same there.

Both compute in float32 and round to 8 bits, so that a value between two of them may fall either way; the networks'
rounding errors grow over the steps, which the second level of tolerance is for.
"""

import dataclasses

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo import generate
from fmzoo.text import PromptTokenizer
from tests.text.test_clip import write_vocabulary

pytestmark = pytest.mark.reference
TOLERANCE, CONTRAST = 2, 20  # of 255
VOCABULARY, LENGTH = 520, 11
PROMPTS, NEGATIVE = ["a cat and a dog", "12 small red houses, near the sea and under a tall tree"], "blurred"
STEPS, SCALE, SIZE = 5, 4.0, (24, 16)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULERS = {
    "sd1": ("PNDMScheduler", BETAS | {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "sd2": ("DDIMScheduler", BETAS | {"prediction_type": "v_prediction", "clip_sample": False,
                                      "set_alpha_to_one": False}),
    "sdxl": ("EulerDiscreteScheduler", BETAS | {"timestep_spacing": "leading"}),
    "sd3": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
}  # fmt: skip
SOLVERS = {"sd1": "plms", "sd2": "ddim", "sdxl": "euler", "sd3": "flow-euler"}


def tower(width, activation, projection=None, eos=VOCABULARY - 1):
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=LENGTH, hidden_act=activation, projection_dim=projection or 1,
        eos_token_id=eos, bos_token_id=VOCABULARY - 2, pad_token_id=1,
    )  # fmt: skip
    return transformers.CLIPTextModelWithProjection(config) if projection else transformers.CLIPTextModel(config)


def clip_tokenizer(folder, pad):
    import transformers

    folder.mkdir(parents=True)
    write_vocabulary(folder, pad_token=pad, model_max_length=LENGTH)
    return transformers.CLIPTokenizer.from_pretrained(folder)


def autoencoder(channels, **options):
    import diffusers

    return diffusers.AutoencoderKL(
        block_out_channels=[8, 16], latent_channels=channels, norm_num_groups=4, layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, **options,
    )  # fmt: skip


def unet(context, **options):
    import diffusers

    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=[16, 32], norm_num_groups=8, layers_per_block=1, cross_attention_dim=context,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        attention_head_dim=2, **options,
    )  # fmt: skip


def scheduler(family):
    import diffusers

    name, options = SCHEDULERS[family]
    return getattr(diffusers, name)(**options)


def stable_diffusion(family, folder):
    import diffusers

    gelu = family == "sd2"
    return diffusers.StableDiffusionPipeline(
        vae=autoencoder(4),
        text_encoder=tower(12, "gelu" if gelu else "quick_gelu", eos=2 if not gelu else VOCABULARY - 1),
        tokenizer=clip_tokenizer(folder / "tokens", "!" if gelu else "<|endoftext|>"),
        unet=unet(12, use_linear_projection=gelu),
        scheduler=scheduler(family),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(family, folder):
    import diffusers

    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    return diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(4, scaling_factor=0.13025),
        text_encoder=tower(12, "quick_gelu", eos=2),
        text_encoder_2=tower(20, "gelu", 14),
        tokenizer=clip_tokenizer(folder / "tokens", "<|endoftext|>"),
        tokenizer_2=clip_tokenizer(folder / "tokens_2", "!"),
        unet=unet(
            32, use_linear_projection=True, projection_class_embeddings_input_dim=14 + 6 * 8,
            transformer_layers_per_block=[1, 2], **added,
        ),
        scheduler=scheduler(family),
        add_watermarker=False,
    )  # fmt: skip


def t5_tokenizer():
    import transformers

    pieces = ["▁", *"abcdefghijklmnopqrstuvwxyz0123456789,", "▁a", "▁cat", "▁and", "▁the"]
    vocabulary = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    vocabulary += [(piece, -1.0 - 0.1 * i) for i, piece in enumerate(pieces)]
    return transformers.T5TokenizerFast(vocab=vocabulary, extra_ids=0)


def stable_diffusion_3(family, folder):
    import diffusers
    import transformers

    t5 = transformers.T5Config(
        vocab_size=64, d_model=40, d_kv=8, d_ff=30, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8, in_channels=6, out_channels=6, num_layers=2, attention_head_dim=8, num_attention_heads=3,
            joint_attention_dim=40, caption_projection_dim=24, pooled_projection_dim=24, pos_embed_max_size=8,
            qk_norm="rms_norm",
        ),
        scheduler=scheduler(family),
        vae=autoencoder(6, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=tower(12, "quick_gelu", 10),
        text_encoder_2=tower(20, "gelu", 14),
        text_encoder_3=transformers.T5EncoderModel(t5),
        tokenizer=clip_tokenizer(folder / "tokens", "<|endoftext|>"),
        tokenizer_2=clip_tokenizer(folder / "tokens_2", "!"),
        tokenizer_3=t5_tokenizer(),
    )  # fmt: skip


MAKERS = {"sd1": stable_diffusion, "sd2": stable_diffusion, "sdxl": stable_diffusion_xl, "sd3": stable_diffusion_3}


def reference(family, folder):
    """A pipeline with random weights, of which the prompt moves the picture and the picture has contrast."""
    import torch

    pipeline = MAKERS[family](family, folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(len(family) + ord(family[-1]))
    networks = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    for name, module in networks.items():
        module.eval()  # a new T5 would drop out
        for path, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.data = (1.0 if "norm" in path and path.endswith("weight") else 0.0) + 0.1 * noise
            else:
                fan_in = 1 if "embedding.weight" in path or "shared" in path else parameter[0].numel()
                parameter.data = scale_of(name, path) * fan_in**-0.5 * noise
    return pipeline


def scale_of(name, path):
    """Wider where a prompt comes in and where a picture comes out."""
    if any(part in path for part in ("attn2", "add_embedding", "context_embedder", "text_embedder")):
        return 2.0
    return 0.6 if "decoder.conv_out" in path else 1.0


def draw_reference(pipeline, latents, negative=NEGATIVE):
    import torch

    pictures = pipeline(
        prompt=PROMPTS,
        negative_prompt=None if negative is None else [negative] * len(PROMPTS),
        latents=torch.tensor(latents).permute(0, 3, 1, 2),
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        height=SIZE[0],
        width=SIZE[1],
        output_type="np",
    ).images
    return np.rint(pictures * 255).astype(np.uint8)


def draw(pretrained, family, latents, negative=NEGATIVE):
    return generate.images(
        pretrained, PROMPTS, jax.random.key(0), solver=SOLVERS[family], steps=STEPS, guidance_scale=SCALE,
        negative=negative, latents=latents,
    )  # fmt: skip


def difference(one, other):
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn.t accept a copy:DeprecationWarning")  # of diffusers
@pytest.mark.filterwarnings("ignore:prompt of:UserWarning")  # the second prompt is meant to be too long
@pytest.mark.parametrize("family", MAKERS)
def test_pictures_are_those_of_diffusers_both_ways(family, tmp_path):
    import diffusers

    pipeline = reference(family, tmp_path)
    pipeline.save_pretrained(tmp_path / "theirs")
    ours = fmzoo.load(tmp_path / "theirs")
    assert ours.config.family == family
    channels = ours.config.autoencoder.latent_channels
    latents = np.random.default_rng(5).standard_normal((1, SIZE[0] // 2, SIZE[1] // 2, channels)).astype(np.float32)
    latents = np.repeat(latents, len(PROMPTS), axis=0)
    theirs = draw_reference(pipeline, latents)
    assert min(picture.std() for picture in theirs) > CONTRAST
    assert difference(*theirs) > CONTRAST
    assert difference(draw(ours, family, latents), theirs) <= TOLERANCE

    fmzoo.save(ours, tmp_path / "ours", format="diffusers")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert type(again) is type(pipeline)
    again.set_progress_bar_config(disable=True)
    assert difference(draw_reference(again, latents), theirs) <= TOLERANCE
    assert fmzoo.load(tmp_path / "ours").config == ours.config

    without = draw_reference(pipeline, latents, None)
    assert difference(without, theirs) > TOLERANCE
    assert difference(draw(ours, family, latents, None), without) <= TOLERANCE
    for error, wrong in planted_errors(ours).items():
        negative = None if error == "zeros" else NEGATIVE
        expected = without if error == "zeros" else theirs
        assert difference(draw(wrong, family, latents, negative), expected) > TOLERANCE, error


def planted_errors(ours):
    """Systems with one mistake each that no compilation is needed for."""
    lengths = ours.tokenizer.lengths
    found = {}
    for name in list(lengths)[:2]:
        changed = PromptTokenizer(ours.tokenizer.tokenizers, lengths | {name: lengths[name]})
        wrong = changed.tokenizers[name]
        copied = type(wrong)(*wrong.__reduce__()[1])
        copied.pad_id = 7
        changed.tokenizers[name] = copied
        found[f"pad of {name}"] = dataclasses.replace(ours, tokenizer=changed)
    if ours.config.family == "sdxl":
        config = dataclasses.replace(ours.config, zero_empty_prompt=False)
        found["zeros"] = dataclasses.replace(ours, config=config)
    return found
