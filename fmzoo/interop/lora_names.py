"""The names in files of LoRA weights: those of PEFT, of diffusers old and new, and of kohya's scripts.

All say the same: for a layer, a tensor ``down [r, in]``, a tensor ``up [out, r]``, and perhaps a number ``alpha``.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fmzoo.errors import InputError
from fmzoo.interop.ldm_names import ldm_module

DOTTED = {"unet.": "unet", "transformer.": "transformer", "text_encoder.": "text_encoder"}
DOTTED |= {"text_encoder_2.": "text_encoder_2", "text_encoder_3.": "text_encoder_3"}
FLAT = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
PEFT = "base_model.model."
ENDINGS = {
    r"\.lora_A(\.default)?\.weight": "down",
    r"\.lora_B(\.default)?\.weight": "up",
    r"\.(lora|lora_linear_layer)\.down\.weight": "down",
    r"\.(lora|lora_linear_layer)\.up\.weight": "up",
    r"\.lora_down\.weight": "down",
    r"\.lora_up\.weight": "up",
    r"\.alpha": "alpha",
}
PROCESSOR = re.compile(r"(.+)\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight")  # diffusers up to 0.16


@dataclasses.dataclass
class Pair:
    """What a file holds for one layer.

    Attributes:
      module: the layer's name in the file.
      tensors: by ``down``, ``up`` and perhaps ``alpha``.
    """

    module: str
    tensors: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_pairs(tensors: Mapping[str, Any], alone: str) -> dict[str, list[Pair]]:
    """A file's pairs by diffusers' name of the component that they are for.

    Args:
      tensors: of the file, by name.
      alone: the component, where the names do not tell one, as in PEFT's files; one that no system has is the only one.

    Raises:
      InputError: a name is none of LoRA's, or a layer has only one of the two tensors.
    """
    found: dict[tuple[str, str], Pair] = {}
    for name, tensor in tensors.items():
        full, kind = _split(name)
        component, module = _component(full, alone)
        pair = found.setdefault((component, module), Pair(module))
        if kind in pair.tensors:
            raise InputError(f"the LoRA weights of {module[:80]} stand there twice; once is needed")
        pair.tensors[kind] = tensor
    result: dict[str, list[Pair]] = {}
    for (component, module), pair in found.items():
        if missing := {"down", "up"} - pair.tensors.keys():
            raise InputError(f"the LoRA weights of {module[:80]} have no {missing.pop()} matrix; both are needed")
        result.setdefault(component, []).append(pair)
    return result


def _split(name: str) -> tuple[str, str]:
    """The layer's name, and which of its tensors it is."""
    if found := PROCESSOR.fullmatch(name):
        return f"{found[1]}.{found[2]}{'.0' if found[2] == 'to_out' else ''}", found[3]
    for ending, kind in ENDINGS.items():
        if found := re.search(ending + r"\Z", name):
            return name[: found.start()], kind
    raise InputError(f"tensor {name[:80]!r} is no LoRA matrix; names as PEFT, diffusers or kohya give are needed")


def _component(full: str, alone: str) -> tuple[str, str]:
    full = full.removeprefix(PEFT)
    if alone not in DOTTED.values():
        return alone, full
    for prefix, component in (DOTTED | FLAT).items():
        if full.startswith(prefix):
            return component, full.removeprefix(prefix)
    return alone, full


def spellings(modules: Iterable[str], renames: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """Every way in which a file may name the layers of a network, with the names that the mapping has.

    Args:
      modules: names such as ``down_blocks.0.attentions.0.proj_in``.
      renames: those of the mapping: beginnings that a file may have, and what they stand for.
    """
    modules = list(modules)
    numbers = [int(m[1]) for module in modules if (m := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", module))]
    found = {}
    for module in modules:
        ways = [module, *(a + module.removeprefix(b) for a, b in renames if module.startswith(b))]
        if numbers and (ldm := ldm_module(module, 1 + max(numbers))):
            ways.append(ldm)
        for way in ways:
            found |= {way: module, way.replace(".", "_"): module}
    return found
