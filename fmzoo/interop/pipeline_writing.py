"""Writing whole systems as folders that the pipelines of diffusers load."""

import dataclasses
from typing import Any

from etils import epath

from fmzoo import text
from fmzoo.errors import InputError
from fmzoo.interop import folders
from fmzoo.interop.components import write_component
from fmzoo.interop.pipelines import INDEX, PIPELINES, SCHEDULER, SD, UNUSED, XL
from fmzoo.interop.schedulers import scheduler_from_process
from fmzoo.models import Pretrained
from fmzoo.models.clip_text import ClipTextConfig
from fmzoo.models.dit import DiTConfig
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.text.files import write_bytes, write_json
from fmzoo.text.sentence_piece import SentencePieceTokenizer

SOLVERS = {"flow": "flow-euler", "edm": "euler"}  # of a process whose solver is not told; else ddim
DIFFUSERS_VERSION = "0.36.0"  # whose form of these files is written


def save(pretrained: Pretrained, folder: epath.PathLike) -> None:
    """Writes a system into a new folder that diffusers loads, completely or not at all.

    Raises:
      InputError: diffusers has no such pipeline or component, the folder holds something, or it cannot be written.
    """
    config = pretrained.config
    if not isinstance(config, TextToImageConfig):
        raise InputError(f"config is a {type(config).__name__}; a TextToImageConfig is needed for the format diffusers")
    name = _pipeline_of(config)
    pipeline = PIPELINES[name]
    parts = {pipeline.denoiser: ("denoiser", config.denoiser), "vae": ("autoencoder", config.autoencoder)}
    parts |= {part: (part, encoder) for part, encoder in config.encoders.items()}
    solver = config.solver or SOLVERS.get(config.process.schedule, "ddim")
    # In diffusers a DiT's pipeline drops the variance before its scheduler sees it.
    learned = config.process.learned_variance and not isinstance(config.denoiser, DiTConfig)
    scheduler = scheduler_from_process(dataclasses.replace(config.process, learned_variance=learned), solver)
    index: dict[str, Any] = {"_class_name": name, "_diffusers_version": DIFFUSERS_VERSION}
    with folders.new_folder(folder) as inside:
        for part, (ours, component) in parts.items():
            index[part] = list(write_component(inside / part, component, pretrained.params[ours]))
        for part in (part for part in pipeline.optional if part not in parts):
            index |= {part: [None, None], part.replace("text_encoder", "tokenizer"): [None, None]}
        for part, tokenizer in pretrained.tokenizer.tokenizers.items() if config.encoders else ():
            place = part.replace("text_encoder", "tokenizer")
            index[place] = ["transformers", _write_tokenizer(inside / place, tokenizer, config.encoders[part])]
        (inside / "scheduler").mkdir()
        write_json(inside / "scheduler" / SCHEDULER, scheduler)
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
        write_json(inside / INDEX, index | _rest_of_index(name, config))


def _pipeline_of(config: TextToImageConfig) -> str:
    """The class of diffusers that draws with a system.

    Raises:
      InputError: there is none.
    """
    if config.autoencoder is None:
        raise InputError("autoencoder is None; the pipelines of diffusers draw latents, so one is needed")
    painted = config.denoiser.in_channels > config.autoencoder.latent_channels
    kind = "Inpaint" if painted else "Img2Img" if config.family == "sdxl" and len(config.encoders) == 1 else ""
    stem = {"sd1": "StableDiffusion", "sd2": "StableDiffusion", "sdxl": "StableDiffusionXL", "sd3": "StableDiffusion3"}
    name = "DiTPipeline" if isinstance(config.denoiser, DiTConfig) else f"{stem.get(config.family)}{kind}Pipeline"
    pipeline = PIPELINES.get(name)
    known = pipeline and {*pipeline.needed} <= config.encoders.keys() <= {*pipeline.needed, *pipeline.optional}
    if not known:
        raise InputError(
            f"family {config.family!r} with encoders {list(config.encoders)} and a {type(config.denoiser).__name__} is "
            "no pipeline of diffusers; Stable Diffusion 1, 2, XL or 3, or a DiT is needed"
        )
    return name


def _write_tokenizer(folder: epath.Path, tokenizer: text.Tokenizer, encoder: Any) -> str:
    """Writes a tokenizer as transformers names its files, and tells the class that reads them."""
    tokenizer.save(folder)
    if isinstance(tokenizer, SentencePieceTokenizer):
        write_bytes(folder / "spiece.model", (folder / "tokenizer.model").read_bytes())
    return "CLIPTokenizer" if isinstance(encoder, ClipTextConfig) else "T5TokenizerFast"


def _rest_of_index(name: str, config: TextToImageConfig) -> dict[str, Any]:
    """What else `model_index.json` says: components that are not there, and options."""
    if PIPELINES[name] is SD:
        nothing = {part: [None, None] for part in UNUSED}
        return nothing | {"requires_safety_checker": False}
    if PIPELINES[name] is XL:
        rest: dict[str, Any] = {"force_zeros_for_empty_prompt": config.zero_empty_prompt}
        return rest | ({"requires_aesthetics_score": True} if "Img2Img" in name else {})
    return {}
