"""Systems that draw: Stable Diffusion by component, Imagen and DALL-E 2 as far as published, Midjourney not at all."""

import dataclasses

from fmzoo.models import ClipTextConfig
from fmzoo.models.autoencoder import SD3_AUTOENCODER, SD_AUTOENCODER, SDXL_AUTOENCODER
from fmzoo.models.clip_text import CLIP_L14, OPENCLIP_BIGG14, OPENCLIP_H14
from fmzoo.models.mmdit import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM
from fmzoo.models.t5 import T5_XXL
from fmzoo.models.unet_config import STABLE_DIFFUSION_1, STABLE_DIFFUSION_2, STABLE_DIFFUSION_XL
from fmzoo.zoo.systems import Drawing, Fact, Part, System, register_system

_CLIP_L = Part("CLIP ViT-L/14 text tower", CLIP_L14, 123_060_480)
_CLIP_H = Part("OpenCLIP ViT-H/14 text tower, 23 layers", OPENCLIP_H14, 340_387_840)
_CLIP_G = Part("OpenCLIP ViT-bigG/14 text tower", OPENCLIP_BIGG14, 694_659_840)
_T5 = Part("T5-XXL 1.1 encoder", T5_XXL, 4_762_310_656)
_THREE = (
    Part("autoencoder, 16 channels", SD3_AUTOENCODER, 83_819_683),
    Part("CLIP ViT-L/14 text tower, projected", dataclasses.replace(CLIP_L14, projection=768), 123_650_304),
    _CLIP_G,
    _T5,
)
_SD = Part("autoencoder, 4 channels", SD_AUTOENCODER, 83_653_863)
_SDXL = Part("autoencoder, 4 channels", SDXL_AUTOENCODER, 83_653_863)
_FILES = "config.json of each component in the released repository; counts from the shapes, equal to the release's"

register_system(
    System(
        name="stable-diffusion",
        title="Stable Diffusion 1.x, 2.x, XL, 3 and 3.5",
        made_by="CompVis, Runway, Stability AI",
        count="published: 860M, 865M and 2.6B of the U-Nets of 1.x, 2.x and XL, 2B of 3, 2.5B and 8.1B of 3.5",
        public="weights under their licences, architecture, code, the papers' settings",
        unpublished="which pictures each release was trained on, in full",
        assumed="nothing in the architecture; counts leave out the fixed table of positions, 226M in 3.5 Medium",
        stand_in="itself: `fmzoo.load` reads folders of diffusers and single files",
        facts=(
            Fact("parameters of the U-Nets of 1.4 and 1.5, 2.0 and 2.1, XL", "860M, 865M, 2.6B",
                 "arXiv 2307.01952, table 1"),
            Fact("parameters of 3.5 Large and Medium", "8.1B and 2.5B",
                 "Stability AI, Introducing Stable Diffusion 3.5, 22 October 2024"),
            Fact("noise of 1.x, 2.x and XL", "1,000 steps, betas 0.00085 to 0.012, linear in their roots",
                 "scheduler_config.json of the releases"),
            Fact("what the U-Net predicts", "noise; velocity in 2.x at 768 pixels",
                 "scheduler_config.json of the releases"),
            Fact("what XL is told besides the text", "size, crop and target size, 6 numbers of 256 sinusoids each",
                 "arXiv 2307.01952, section 2.2"),
            Fact("training of 3", "rectified flow, time steps logit-normal", "arXiv 2403.03206, section 3.1"),
            Fact("shift of the time steps of 3", "3.0", "scheduler_config.json of the releases"),
        ),
        drawings=(
            Drawing("stable-diffusion-1.5", (Part("U-Net", STABLE_DIFFUSION_1, 859_520_964), _SD, _CLIP_L), _FILES),
            Drawing("stable-diffusion-2.1", (Part("U-Net", STABLE_DIFFUSION_2, 865_910_724), _SD, _CLIP_H), _FILES),
            Drawing("stable-diffusion-xl",
                    (Part("U-Net", STABLE_DIFFUSION_XL, 2_567_463_684), _SDXL, _CLIP_L, _CLIP_G), _FILES),
            Drawing("stable-diffusion-3-medium", (Part("MMDiT", SD3_MEDIUM, 2_028_328_000), *_THREE), _FILES),
            Drawing("stable-diffusion-3.5-medium", (Part("MMDiT", SD35_MEDIUM, 2_243_171_520), *_THREE), _FILES),
            Drawing("stable-diffusion-3.5-large", (Part("MMDiT", SD35_LARGE, 8_056_627_520), *_THREE), _FILES),
        ),
    )
)  # fmt: skip
_IMAGEN = "arXiv 2205.11487"
register_system(
    System(
        name="imagen",
        title="Imagen",
        made_by="Google Research",
        count="published: 2B, 600M and 400M of the three U-Nets, 4.6B of the text encoder",
        public="sizes and settings of all three U-Nets, the text encoder with its weights, the sampler",
        unpublished="weights of the U-Nets, code, 460M of its 860M pictures",
        assumed="the text encoder's 4.6B are the 4.76B that its released weights hold",
        stand_in="a U-Net in pixels; Imagen's own, with the text among the keys of self-attention, are not written",
        facts=(
            Fact("parameters of the three U-Nets", "2B at 64 pixels, 600M to 256, 400M to 1,024",
                 f"{_IMAGEN}, section 3"),
            Fact("base U-Net", "512 channels times 1, 2, 3, 4; 3 residual blocks; heads of 64; attention at 32, 16, 8",
                 f"{_IMAGEN}, appendix F"),
            Fact("U-Nets that enlarge", "channels 128, 256, 512, 1,024; 2, 4, 8, 8 residual blocks; 8 heads",
                 f"{_IMAGEN}, appendix F"),
            Fact("noise", "cosine, cosine, linear, in continuous time", f"{_IMAGEN}, appendix F"),
            Fact("batch and steps", "2,048 for 2.5M steps each", f"{_IMAGEN}, appendix F"),
            Fact("learning rate", "1e-4 after 10,000 steps of warm-up; Adafactor, then Adam twice",
                 f"{_IMAGEN}, appendix F"),
            Fact("captions left out in training", "10 %", f"{_IMAGEN}, section 3"),
            Fact("zero-shot FID-30K on COCO", "7.27", f"{_IMAGEN}, table 1"),
        ),
        drawings=(Drawing("imagen-text-encoder", (_T5,), f"{_IMAGEN}, section 2.1; the released T5 1.1 XXL"),),
    )
)  # fmt: skip
_UNCLIP = "arXiv 2204.06125"
_GLIDE_TEXT = ClipTextConfig(
    vocab_size=50_257, d_model=2048, num_layers=24, num_heads=32, d_ff=8192, context_length=256, activation="gelu"
)
register_system(
    System(
        name="dalle-2",
        title="DALL-E 2 (unCLIP)",
        made_by="OpenAI",
        count="published for the paper's models: 1B, 3.5B, 700M and 300M; none for the product's",
        public="sizes and settings of the paper's prior, decoder and two models that enlarge",
        unpublished="weights, code, data; the product's models, which are of other, similar sizes",
        assumed="GPT-2's vocabulary of 50,257 and a feed-forward width of 8,192 in the decoder's text encoder",
        stand_in="a U-Net in pixels; the U-Nets of the paper, which resize in residual blocks, are not written",
        facts=(
            Fact("diffusion prior", "1B: 24 layers of width 2,048 with 32 heads, 256 tokens of text",
                 f"{_UNCLIP}, table 3"),
            Fact("decoder at 64 pixels", "3.5B: 512 channels times 1, 2, 3, 4; depth 3; attention at 32, 16, 8",
                 f"{_UNCLIP}, table 3"),
            Fact("64 to 256 pixels", "700M: 320 channels times 1, 2, 3, 4; depth 3; no attention",
                 f"{_UNCLIP}, table 3"),
            Fact("256 to 1,024 pixels", "300M: 192 channels times 1, 1, 2, 2, 4, 4; depth 2; no attention",
                 f"{_UNCLIP}, table 3"),
            Fact("batch of prior, decoder and the two others", "4,096, 2,048, 1,024, 512", f"{_UNCLIP}, table 3"),
            Fact("iterations", "600K, 800K, 1M, 1M", f"{_UNCLIP}, table 3"),
            Fact("learning rate", "1.1e-4, 1.2e-4, 1.2e-4, 1.0e-4", f"{_UNCLIP}, table 3"),
            Fact("left out in training the decoder", "CLIP's embedding 10 %, the caption 50 %",
                 f"{_UNCLIP}, section 2.1"),
            Fact("what the prior predicts", "the picture's embedding itself, by squared error",
                 f"{_UNCLIP}, section 2.2"),
        ),
        drawings=(
            Drawing("dalle-2-text-encoder", (Part("the decoder's text encoder", _GLIDE_TEXT, 1_312_053_248),),
                    f"{_UNCLIP}, table 3; part of the decoder's 3.5B"),
        ),
    )
)  # fmt: skip
register_system(
    System(
        name="midjourney",
        title="Midjourney",
        made_by="Midjourney, Inc.",
        count="not published",
        public="nothing but the product: no paper, no sizes, no statement on data",
        unpublished="everything that a config or a recipe would need",
        assumed="nothing; no architecture is claimed",
        stand_in="none claimed; `stable-diffusion-xl` and `stable-diffusion-3.5-large` are open and for the same use",
        facts=(),
    )
)
