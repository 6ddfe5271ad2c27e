"""Loading whole systems: folders of diffusers, `model_index.json` and one for each component, and single files."""

import dataclasses
from typing import Any

from etils import epath

from fmzoo import text
from fmzoo.diffusion import Process
from fmzoo.errors import InputError, nearest
from fmzoo.interop import single_file
from fmzoo.interop.components import build_component, read_component
from fmzoo.interop.schedulers import process_from_scheduler, solver_from_scheduler
from fmzoo.models import Pretrained
from fmzoo.models.clip_text import ClipTextConfig
from fmzoo.models.denoiser import make_denoiser
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.text.clip import ClipTokenizer
from fmzoo.text.files import read_json

INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
FLAX = "Flax"  # with which the names of classes begin in folders that diffusers wrote from JAX, up to 0.39
ENCODERS = "text_encoder", "text_encoder_2", "text_encoder_3"
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")  # which draw nothing


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


def load_single_file(
    path: epath.PathLike, dtype: Any = "float32", *, average: bool = False, prediction: str | None = None
) -> Pretrained:
    """Loads Stable Diffusion 1, 2 or XL from one safetensors file, which says nothing of tokenizers.

    Those are read from the folders ``tokenizer`` and ``tokenizer_2`` beside the file; without them the system has none.
    ``average`` and ``prediction`` are those of `single_file.read`.

    Raises:
      InputError: the file is damaged, or is none of these.
    """
    path = epath.Path(path)
    parts = single_file.read(path, average=average, prediction=prediction)
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
        process=_process(scheduler, found[pipeline.denoiser][0], found["vae"][0]),
        family=family,
        solver=_solver(scheduler),
        **options,
    )
    params = {"denoiser": found[pipeline.denoiser][1], "autoencoder": found["vae"][1]}
    params |= {name: found[name][1] for name in names}
    return Pretrained(make_denoiser(config.denoiser), params, config, _tokenizer(config, folder))


def _process(scheduler: dict[str, Any], denoiser: Any, autoencoder: Any) -> Process:
    """What the scheduler says, and that the variance is learned where the denoiser has the channels for it.

    Raises:
      InputError: the scheduler asks for a learned variance, and the denoiser has none.
    """
    process, channels = process_from_scheduler(scheduler), autoencoder.latent_channels
    learned = denoiser.out_channels == 2 * channels
    if process.learned_variance and not learned:
        raise InputError(
            f"the scheduler's variance_type is 'learned_range' and the denoiser has {denoiser.out_channels} "
            f"out_channels; {2 * channels} are needed for a variance beside {channels} channels"
        )
    return dataclasses.replace(process, learned_variance=learned)


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
