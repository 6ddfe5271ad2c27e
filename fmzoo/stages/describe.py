"""What a model is and what it costs, from its config alone."""

from typing import NamedTuple

from etils import epath

from fmzoo import models, train, zoo
from fmzoo.errors import InputError, nearest
from fmzoo.interop import config_json, gguf_files, hub, huggingface, image_runs
from fmzoo.pretrained import is_run
from fmzoo.text.files import read_json


class Description(NamedTuple):
    """A model in figures; nothing was allocated to get them.

    Attributes:
      source: what was described, and of what kind it is.
      config: of the decoder.
      parameters: exact.
      active: those that one token goes through: all of them, but for a mixture of experts.
      forward_flops: a token at the full context, by the formula of `fmzoo.models.flops_per_token`.
      training_flops: the same, with the backward pass.
      cache_bytes: of one sequence of the full context, in the compute dtype.
      weight_bytes: of the parameters in float32.
      training_bytes: of parameters, gradients and Adam's two moments in float32; activations come on top.
      steps: of the complete checkpoints, for a run.
    """

    source: str
    config: models.DecoderConfig
    parameters: int
    active: int
    forward_flops: float
    training_flops: float
    cache_bytes: int
    weight_bytes: int
    training_bytes: int
    steps: tuple[int, ...] = ()


def describe(source: epath.PathLike) -> Description:
    """Describes a run folder, a folder of transformers, a GGUF file or a name of the zoo; no weights are needed.

    Raises:
      InputError: the source is none of these, or its config is damaged or of an unknown family.
    """
    kind, config = read_config(source)
    length, parameters = config.context_length, models.parameter_count(config)
    return Description(
        source=f"{source} ({kind})",
        config=config,
        parameters=parameters,
        active=models.active_parameter_count(config),
        forward_flops=models.flops_per_token(config, length, training=False),
        training_flops=models.flops_per_token(config, length),
        cache_bytes=models.cache_bytes(config, 1, length),
        weight_bytes=4 * parameters,
        training_bytes=16 * parameters,
        steps=tuple(train.complete_steps(train.locate(source) / "checkpoints")) if kind == "run" else (),
    )


def read_config(source: epath.PathLike) -> tuple[str, models.DecoderConfig]:
    """What kind of source it is, and the decoder's config.

    Raises:
      InputError: as in `describe`.
    """
    path = train.locate(source)
    if hub.is_name(str(source)) and not path.exists():
        path = hub.fetch(str(source), weights=False)
    if is_run(path):
        values = read_json(path / "config.json")
        if values.get("stage") in image_runs.STAGES:
            raise InputError(f"source {path} is a run of images, which its report.md describes; one of text is needed")
        return "run", config_json.from_json(models.DecoderConfig, values.get("model"), "model")
    if (path / "config.json").exists():
        family, config = huggingface.read_config(read_json(path / "config.json"), str(path / "config.json"))
        return f"{family.model_type}, in the format of transformers", config
    file = gguf_files.find(path) if path.is_dir() else path
    if file is not None and file.suffix == gguf_files.ENDING and file.exists():
        architecture, config = gguf_files.read_config(file)
        return f"{architecture}, a GGUF file", config
    if str(source) in zoo.names():
        return zoo.entry(str(source)).system, zoo.entry(str(source)).config()
    if path.exists():
        raise InputError(f"{path} holds no config.json; a run folder or one in the format of transformers is needed")
    raise InputError(
        f"source {str(source)[:80]!r} is no run folder, no path and no name of the zoo; "
        f"{nearest(str(source), zoo.names())}"
    )
