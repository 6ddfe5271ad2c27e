"""Stable Diffusion in a single safetensors file, as its first code wrote it: version 1, 2, XL, and XL's refiner.

Such a file holds no config. The version shows in the names, the sizes in the shapes, so that what is read here is what
a folder of diffusers would hold: for each component its config and its tensors.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from fmzoo.errors import InputError
from fmzoo.interop import safetensors
from fmzoo.interop.ldm_configs import Version, autoencoder_config, scheduler_config, text_config, unet_config
from fmzoo.interop.ldm_names import autoencoder_tensors, open_clip_tensors, unet_tensors

UNET, AVERAGE, AUTOENCODER = "model.diffusion_model.", "model_ema.", "first_stage_model."
OTHERS = {  # what else single files hold, by a part of a name
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "Flux",
    "control_model.": "a ControlNet",
    "lora_": "LoRA weights",
    "edm_mean": "Playground 2.5",
}


class TextTower(NamedTuple):
    """Where a file holds a text encoder: the prefix of its names, and whose names follow."""

    prefix: str
    open_clip: bool


TEXT_TOWERS: dict[Version, dict[str, TextTower]] = {
    "1": {"text_encoder": TextTower("cond_stage_model.transformer.", False)},
    "2": {"text_encoder": TextTower("cond_stage_model.model.", True)},
    "xl": {
        "text_encoder": TextTower("conditioner.embedders.0.transformer.", False),
        "text_encoder_2": TextTower("conditioner.embedders.1.model.", True),
    },
    "xl-refiner": {"text_encoder_2": TextTower("conditioner.embedders.0.model.", True)},
}
IGNORED = re.compile(  # buffers of the noise schedule, of training, and constants
    r"model_ema\..*|betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)*alphas_cumprod(_prev)?|log_one_minus_alphas_cumprod"
    r"|sqrt_one_minus_alphas_cumprod|posterior_\w+|lvlb_weights|scale_factor|logvar|global_step|denoiser\.\w+"
    r"|v_pred|ztsnr|first_stage_model\.(loss|model_ema)\..*|.*\.(logit_scale|attn_mask|position_ids)"
)


class Component(NamedTuple):
    """A part of a system: its config, as diffusers or transformers writes it, and its tensors by their names there."""

    config: dict[str, Any]
    tensors: Mapping[str, Any]


def read(path: epath.PathLike, *, average: bool = False, prediction: str | None = None) -> dict[str, Component]:
    """The components of a single file; tensors are read from it when `numpy.asarray` asks for them.

    Args:
      path: of a safetensors file; may be remote.
      average: take the moving average of the U-Net's weights.
      prediction: `epsilon` or `v_prediction`; None is what the version was published with, which for 2 is the latter,
        but for its inpainting (the file does not tell 2-base, which needs `epsilon`, from 2).

    Returns:
      ``unet``, ``vae``, ``text_encoder``, ``text_encoder_2``, as far as the version has them, and ``scheduler``.

    Raises:
      InputError: the file is damaged, is none of these versions, or holds a tensor that none of them has.
    """
    path = epath.Path(path)
    tensors = safetensors.read_file(path)
    version = detect(tensors, str(path))
    found = _with_average(tensors, path) if average else tensors
    towers = TEXT_TOWERS[version]
    _refuse_others(tensors, [UNET, AUTOENCODER, *(tower.prefix for tower in towers.values())], path)
    denoiser = unet_tensors(_below(found, UNET))
    coder = autoencoder_tensors(_below(tensors, AUTOENCODER))
    components = {
        "unet": Component(unet_config(denoiser, version), denoiser),
        "vae": Component(autoencoder_config(coder, version), coder),
    }
    components |= {name: _text_encoder(tensors, tower, version) for name, tower in towers.items()}
    if prediction not in (None, "epsilon", "v_prediction"):
        raise InputError(f"prediction is {str(prediction)[:40]!r}; epsilon, v_prediction or None is needed")
    if "v_pred" in tensors:  # a mark that some models of XL's kind bear
        prediction = prediction or "v_prediction"
    if components["unet"].config["in_channels"] > components["vae"].config["latent_channels"]:
        prediction = prediction or "epsilon"  # all that paint in
    scheduler = scheduler_config(version, prediction, zero_terminal_snr="ztsnr" in tensors)
    return components | {"scheduler": Component(scheduler, {})}


def detect(tensors: Mapping[str, Any], source: str = "the file") -> Version:
    """The version of Stable Diffusion whose text encoders a file holds.

    Raises:
      InputError: it holds something else, or lacks the U-Net or the autoencoder.
    """
    for part, what in OTHERS.items():
        if any(part in name for name in tensors):
            raise InputError(
                f"{source} holds {what}, which is not read from a single file; Stable Diffusion 1, 2 or XL is needed, "
                "or a folder of diffusers"
            )
    prefixes = {version: [t.prefix for t in towers.values()] for version, towers in TEXT_TOWERS.items()}
    starts = [any(name.startswith(start) for name in tensors) for start in (UNET, AUTOENCODER)]
    for version in ("xl", "1", "2", "xl-refiner"):
        if all(starts) and all(any(name.startswith(start) for name in tensors) for start in prefixes[version]):
            return version
    raise InputError(
        f"{source} does not hold {UNET}*, {AUTOENCODER}* and a text encoder, which a single file of Stable Diffusion "
        "1, 2 or XL has"
    )


def _below(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    chosen = {name: tensor for name, tensor in tensors.items() if not IGNORED.fullmatch(name)}
    return {name.removeprefix(prefix): tensor for name, tensor in chosen.items() if name.startswith(prefix)}


def _with_average(tensors: Mapping[str, Any], path: epath.Path) -> dict[str, Any]:
    """The file's tensors with the U-Net's averages in their place; their names have lost all dots but the first."""
    found = dict(tensors)
    for name in tensors:
        if name.startswith(UNET):
            averaged = AVERAGE + name.removeprefix("model.").replace(".", "")
            if averaged not in tensors:
                raise InputError(f"average is True and {path} has no {averaged[:80]}; a file with averages is needed")
            found[name] = tensors[averaged]
    return found


def _text_encoder(tensors: Mapping[str, Any], tower: TextTower, version: Version) -> Component:
    inside = _below(tensors, tower.prefix)
    if tower.open_clip:
        inside = open_clip_tensors(inside, projected=version != "2")
    return Component(text_config(inside, "gelu" if tower.open_clip else "quick_gelu"), inside)


def _refuse_others(tensors: Mapping[str, Any], prefixes: list[str], path: epath.Path) -> None:
    for name in sorted(tensors):
        if not name.startswith(tuple(prefixes)) and not IGNORED.fullmatch(name):
            raise InputError(f"{path} has a tensor {name[:80]!r}, which no version of Stable Diffusion has")
