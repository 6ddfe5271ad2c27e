"""PEFT's adapters of a decoder: files have the names that transformers gives the weights of its family."""

from typing import Any

from etils import epath

from fmzoo.interop import huggingface, lora_files
from fmzoo.interop.lora_files import Target
from fmzoo.interop.structure import decoder_structure
from fmzoo.models import DecoderConfig

Tree = dict[str, Any]
ALONE = "decoder"  # what the network is called in sentences about files


def load(path: epath.PathLike, config: DecoderConfig, model_type: str | None = None) -> Tree:
    """Adapters for `fmzoo.models.join` and `merge` with scale 1.

    What is adapted is what the file has tensors for. A kernel that transformers holds as one and we as several, such as
    `c_attn` of GPT-2, gives each an adapter with the same ``a``.

    Args:
      path: a folder that PEFT wrote, or its safetensors file alone, whose scale is then 1; may be remote.
      config: of the decoder.
      model_type: the family whose names the file has; None is the first that computes the config.

    Raises:
      InputError: the file is damaged or for another model, or of a kind of LoRA that is not known here.
    """
    return lora_files.load(path, {ALONE: _target(config, model_type)}, ALONE)[ALONE]


def save(
    folder: epath.PathLike, adapters: Tree, config: DecoderConfig, scale: float = 1.0, model_type: str | None = None
) -> None:
    """Writes a folder that `peft.PeftModel.from_pretrained` reads over the base in transformers.

    Adapters of kernels that transformers holds as one become one adapter, of the sum of their ranks unless they share
    their ``a``.

    Args:
      folder: a folder that is not there or empty; may be remote.
      adapters: as `fmzoo.models.init_lora` makes them.
      config: of the decoder.
      scale: ``alpha / r``, what the adapters were joined with; it goes into ``lora_B``.
      model_type: as in `load`.

    Raises:
      InputError: as `lora_files.save_peft`.
    """
    lora_files.save_peft(folder, adapters, _target(config, model_type), scale, "CAUSAL_LM")


def _target(config: DecoderConfig, model_type: str | None) -> Target:
    family = huggingface.FAMILIES[model_type] if model_type else huggingface.write_config(config)[0]
    return Target(family.mapping(config), decoder_structure(config))
