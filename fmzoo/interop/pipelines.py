"""Folders of whole systems in the format of diffusers: `model_index.json`, and a folder for each component."""

import dataclasses
from typing import Any

from etils import epath

from fmzoo import text
from fmzoo.errors import InputError, nearest
from fmzoo.interop import folders, single_file
from fmzoo.interop.components import build_component, read_component, write_component
from fmzoo.interop.schedulers import process_from_scheduler, scheduler_from_process, solver_from_scheduler
from fmzoo.models import Pretrained
from fmzoo.models.clip_text import ClipTextConfig
from fmzoo.models.denoiser import make_denoiser
from fmzoo.models.dit import DiTConfig
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.text.clip import ClipTokenizer
from fmzoo.text.files import read_json, write_bytes, write_json
from fmzoo.text.sentence_piece import SentencePieceTokenizer

INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
FLAX = "Flax"  # with which the names of classes begin in folders that diffusers wrote from JAX, up to 0.39
ENCODERS = "text_encoder", "text_encoder_2", "text_encoder_3"
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")  # which draw nothing
SOLVERS = {"flow": "flow-euler", "edm": "euler"}  # of a process whose solver is not told; else ddim
DIFFUSERS_VERSION = "0.36.0"  # whose form of these files is written


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What a class of pipelines is made of.

    Attributes:
      family: of `TextToImageConfig`; ``sd`` is 1 or 2.
      denoiser: the component's name.
      needed: the text encoders that it must have.
      optional: those that it may have.
    """

    family: str
    denoiser: str = "unet"
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


SD = Pipeline("sd", "unet", ENCODERS[:1])
XL = Pipeline("sdxl", "unet", ENCODERS[1:2], ENCODERS[:1])
SD3 = Pipeline("sd3", "transformer", ENCODERS[:2], ENCODERS[2:])
PIPELINES = {
    "StableDiffusionPipeline": SD,
    "StableDiffusionImg2ImgPipeline": SD,
    "StableDiffusionInpaintPipeline": SD,
    "StableDiffusionXLPipeline": XL,
    "StableDiffusionXLImg2ImgPipeline": XL,
    "StableDiffusionXLInpaintPipeline": XL,
    "StableDiffusion3Pipeline": SD3,
    "StableDiffusion3Img2ImgPipeline": SD3,
    "StableDiffusion3InpaintPipeline": SD3,
    "DiTPipeline": Pipeline("class", "transformer"),
}


def load(folder: epath.PathLike, dtype: Any = "float32") -> Pretrained:
    """Loads a folder that a pipeline of diffusers wrote; safety checkers and image encoders are left out.

    Args:
      folder: with `model_index.json` and a folder for each component; may be remote.
      dtype: what the parameters are stored in, whatever the files hold.

    Returns:
      The system: its config is a `TextToImageConfig`, its module the denoiser, its tokenizer a `PromptTokenizer`.

    Raises:
      InputError: the pipeline or a component is unknown, missing, damaged, or does not fit the others.
    """
    folder = epath.Path(folder)
    index, source = read_json(folder / INDEX), str(folder / INDEX)
    name = str(index.get("_class_name"))[:60].removeprefix(FLAX)
    if name not in PIPELINES:
        raise InputError(f"{source} is of pipeline {name!r}, which is not known; {nearest(name, PIPELINES)}")
    pipeline = PIPELINES[name]
    classes = _classes(index, pipeline, source)
    for component in (*classes, "scheduler"):
        if not (folder / component).is_dir():
            raise InputError(f"{folder} lacks the folder {component}, which a {name} needs")
    found = {part: read_component(folder / part, kind, dtype) for part, kind in classes.items()}
    if not (folder / "scheduler" / SCHEDULER).exists():
        raise InputError(f"{folder / 'scheduler'} lacks {SCHEDULER}, which a {name} needs")
    scheduler = read_json(folder / "scheduler" / SCHEDULER)
    scheduler |= {"_class_name": str(scheduler.get("_class_name")).removeprefix(FLAX)}
    options = {"zero_empty_prompt": index.get("force_zeros_for_empty_prompt", True) is not False}
    return _assemble(pipeline, found, scheduler, folder, options if pipeline is XL else {})


def load_single_file(path: epath.PathLike, dtype: Any = "float32") -> Pretrained:
    """Loads Stable Diffusion 1, 2 or XL from one safetensors file, which says nothing of tokenizers.

    Those are read from the folders ``tokenizer`` and ``tokenizer_2`` beside the file; without them the system has none.

    Raises:
      InputError: the file is damaged, or is none of these.
    """
    path = epath.Path(path)
    parts = single_file.read(path)
    scheduler = parts.pop("scheduler").config
    found = {
        part: build_component(
            values.get("_class_name") or values["architectures"][0], values, tensors, dtype, f"{path} ({part})"
        )
        for part, (values, tensors) in parts.items()
    }
    pipeline = XL if ENCODERS[1] in found else SD
    return _assemble(pipeline, found, scheduler, path.parent, {"zero_empty_prompt": True} if pipeline is XL else {})


def _classes(index: dict[str, Any], pipeline: Pipeline, source: str) -> dict[str, str]:
    """The class of each component that is read, by its name."""
    found = {}
    needed = (pipeline.denoiser, "vae", *pipeline.needed)
    for part, entry in index.items():
        named = isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)
        if part in (*needed, *pipeline.optional) and named:
            found[part] = entry[1].removeprefix(FLAX)
        elif named and part not in UNUSED and not part.startswith("tokenizer") and part != "scheduler":
            raise InputError(
                f"{source} has a component {part[:60]!r}, which {index['_class_name']} is not known to have"
            )
    if missing := [part for part in needed if part not in found]:
        raise InputError(f"{source} has no {missing[0]}; a {index['_class_name']} needs {', '.join(needed)}")
    return found


def _assemble(
    pipeline: Pipeline,
    found: dict[str, tuple[Any, Any]],
    scheduler: dict[str, Any],
    folder: epath.Path,
    options: dict[str, Any],
) -> Pretrained:
    """The system of components ``{name: (config, params)}``, with the tokenizers that the folder holds."""
    names = [name for name in ENCODERS if name in found]
    family = pipeline.family
    if family == "sd":  # the second version's tower is OpenCLIP's
        family = "sd2" if found[ENCODERS[0]][0].activation == "gelu" else "sd1"
    config = TextToImageConfig(
        denoiser=found[pipeline.denoiser][0],
        autoencoder=found["vae"][0],
        encoders={name: found[name][0] for name in names},
        process=process_from_scheduler(scheduler),
        family=family,
        solver=_solver(scheduler),
        **options,
    )
    params = {"denoiser": found[pipeline.denoiser][1], "autoencoder": found["vae"][1]}
    params |= {name: found[name][1] for name in names}
    return Pretrained(make_denoiser(config.denoiser), params, config, _tokenizer(config, folder))


def _solver(scheduler: dict[str, Any]) -> str | None:
    """The solver that the scheduler's class is; a form of one that is not known here leaves the choice open."""
    try:
        return solver_from_scheduler(scheduler)
    except InputError:
        return None


def _tokenizer(config: TextToImageConfig, folder: epath.Path) -> text.PromptTokenizer | None:
    tokenizers, lengths = {}, config.lengths
    for name, encoder in config.encoders.items():
        path = folder / name.replace("text_encoder", "tokenizer")
        if not path.is_dir():
            if (folder / INDEX).exists():
                raise InputError(f"{folder} lacks the folder {path.name}, which {name} needs")
            return None
        found = ClipTokenizer.load(path) if isinstance(encoder, ClipTextConfig) else text.load_tokenizer(path)
        if found is None:
            raise InputError(f"{path} holds no tokenizer; tokenizer.json or spiece.model is needed")
        tokenizers[name] = found
        longest = getattr(found, "config", {}).get("model_max_length")
        if isinstance(encoder, ClipTextConfig) and isinstance(longest, int) and longest > 0:
            lengths[name] = min(lengths[name], longest)
    return text.PromptTokenizer(tokenizers, lengths) if tokenizers else None


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
    scheduler = scheduler_from_process(config.process, solver)
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
