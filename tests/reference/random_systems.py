"""Whole systems of diffusers with random weights, of which a prompt moves the picture and the picture has contrast."""

import numpy as np

from tests.text.test_clip import write_vocabulary

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
    "class": ("DDIMScheduler", {"clip_sample": False, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}),
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


def stable_diffusion(family, folder, paints=False):
    """Version 1 or 2; with ``paints`` its U-Net also reads a mask and a masked picture."""
    import diffusers

    gelu = family == "sd2"
    cls = diffusers.StableDiffusionInpaintPipeline if paints else diffusers.StableDiffusionPipeline
    return cls(
        vae=autoencoder(4),
        text_encoder=tower(12, "gelu" if gelu else "quick_gelu", eos=2 if not gelu else VOCABULARY - 1),
        tokenizer=clip_tokenizer(folder / "tokens", "!" if gelu else "<|endoftext|>"),
        unet=unet(12, use_linear_projection=gelu, in_channels=9 if paints else 4),
        scheduler=scheduler(family),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(family, folder, refines=False):
    """The base, or the refiner: with one tower, and told an aesthetic score in place of a size."""
    import diffusers

    context, numbers = (20, 5) if refines else (32, 6)
    common = {
        "vae": autoencoder(4, scaling_factor=0.13025),
        "text_encoder_2": tower(20, "gelu", 14),
        "tokenizer_2": clip_tokenizer(folder / "tokens_2", "!"),
        "unet": unet(
            context, use_linear_projection=True, projection_class_embeddings_input_dim=14 + numbers * 8,
            transformer_layers_per_block=[1, 2], addition_embed_type="text_time", addition_time_embed_dim=8,
        ),
        "scheduler": scheduler(family),
        "add_watermarker": False,
    }  # fmt: skip
    if refines:
        nothing = {"text_encoder": None, "tokenizer": None}
        return diffusers.StableDiffusionXLImg2ImgPipeline(**common, **nothing, requires_aesthetics_score=True)
    first = {
        "text_encoder": tower(12, "quick_gelu", eos=2),
        "tokenizer": clip_tokenizer(folder / "tokens", "<|endoftext|>"),
    }
    return diffusers.StableDiffusionXLPipeline(**common, **first)


def t5_tokenizer():
    import transformers

    pieces = ["▁", *"abcdefghijklmnopqrstuvwxyz0123456789,", "▁a", "▁cat", "▁and", "▁the"]
    vocabulary = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    vocabulary += [(piece, -1.0 - 0.1 * i) for i, piece in enumerate(pieces)]
    return transformers.T5TokenizerFast(vocab=vocabulary, extra_ids=0)


def stable_diffusion_3(family, folder, channels=6):
    import diffusers
    import transformers

    t5 = transformers.T5Config(
        vocab_size=64, d_model=40, d_kv=8, d_ff=30, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8, in_channels=channels, out_channels=channels, num_layers=2, attention_head_dim=8,
            num_attention_heads=3, joint_attention_dim=40, caption_projection_dim=24, pooled_projection_dim=24,
            pos_embed_max_size=8, qk_norm="rms_norm",
        ),
        scheduler=scheduler(family),
        vae=autoencoder(
            channels, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5
        ),
        text_encoder=tower(12, "quick_gelu", 10),
        text_encoder_2=tower(20, "gelu", 14),
        text_encoder_3=transformers.T5EncoderModel(t5),
        tokenizer=clip_tokenizer(folder / "tokens", "<|endoftext|>"),
        tokenizer_2=clip_tokenizer(folder / "tokens_2", "!"),
        tokenizer_3=t5_tokenizer(),
    )  # fmt: skip


def classes(family, folder):
    """A DiT, whose output is of twice the channels: a variance that its pipeline does not use."""
    import diffusers

    del folder
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8, num_attention_heads=3,
    )  # fmt: skip
    return diffusers.DiTPipeline(transformer, autoencoder(4), scheduler(family))


MAKERS = {
    "sd1": stable_diffusion, "sd2": stable_diffusion, "sdxl": stable_diffusion_xl, "sd3": stable_diffusion_3,
    "class": classes,
}  # fmt: skip


def reference(family, folder, **changes):
    """A pipeline with random weights, of which the prompt moves the picture and the picture has contrast."""
    import torch

    pipeline = MAKERS[family](family, folder, **changes)
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
    if family == "class":  # all blocks of a published DiT hold the same embeddings
        first, *others = pipeline.transformer.transformer_blocks
        for block in others:
            block.norm1.emb.load_state_dict(first.norm1.emb.state_dict())
    return pipeline


def scale_of(name, path):
    """Wider where a prompt comes in and where a picture comes out."""
    if any(part in path for part in ("attn2", "add_embedding", "context_embedder", "text_embedder")):
        return 2.0
    return 0.6 if "decoder.conv_out" in path else 1.0


def draw_reference(pipeline, latents, negative=NEGATIVE, **settings):
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
        **settings,
    ).images
    return to_bytes(pictures)


def to_bytes(pictures):
    return np.rint(pictures * 255).astype(np.uint8)


def difference(one, other):
    return int(np.abs(one.astype(int) - other.astype(int)).max())
