"""The names of Stable Diffusion's first code (latent-diffusion, then SGM) as those of diffusers and transformers.

The numbering differs: there a U-Net's blocks are counted through, here they are counted within a level, and the
decoder's levels are counted from the other end. OpenCLIP holds queries, keys and values in one tensor and its last
projection transposed.
"""

import re
from collections.abc import Mapping
from typing import Any

from fmzoo.errors import InputError
from fmzoo.interop.views import View, as_linear, part, transposed

Tensors = Mapping[str, Any]  # anything with a shape that numpy.asarray reads, by name
OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
AUTOENCODER_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
OPEN_CLIP_OUTER = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
PARAMETER = r"\.(weight|bias)"


def unet_layers(names: Any) -> int:
    """How many residual blocks a level has going down: the first downsampling comes after so many, or there is none."""
    numbers = [int(m[1]) for name in names if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.", name))]
    blocks = [int(m[1]) for name in names if (m := re.match(r"input_blocks\.(\d+)\.", name))]
    count = min(numbers) - 1 if numbers else max(blocks, default=0)
    if count < 1:
        raise InputError("the U-Net's input_blocks have no residual block before the first downsampling; one is needed")
    return count


def unet_name(name: str, layers: int) -> str | None:
    """The name in diffusers of a U-Net's tensor, given `unet_layers`; None if there is none."""
    module, _, parameter = name.rpartition(".")
    if module in OUTER:
        return f"{OUTER[module]}.{parameter}"
    if found := re.fullmatch(r"middle_block\.([012])\.(.+)", name):
        kind, number = ("attentions", 0) if found[1] == "1" else ("resnets", int(found[1]) // 2)
        return _in_block(f"mid_block.{kind}.{number}", found[2])
    found = re.fullmatch(r"(input|output)_blocks\.(\d+)\.([012])\.(.+)", name)
    if found is None:
        return None
    going_up, number, rest = found[1] == "output", int(found[2]), found[4]
    block, layer = divmod(number if going_up else number - 1, layers + 1)
    theirs = f"{'up' if going_up else 'down'}_blocks.{block}"
    if sampling := re.fullmatch(r"conv" + PARAMETER if going_up else r"op" + PARAMETER, rest):
        return f"{theirs}.{'up' if going_up else 'down'}samplers.0.conv.{sampling[1]}"
    return _in_block(f"{theirs}.{'attentions' if found[3] == '1' else 'resnets'}.{layer}", rest)


def _in_block(theirs: str, rest: str) -> str | None:
    """The names of a transformer are the same; those of a residual block are not."""
    if ".attentions." in theirs:
        return f"{theirs}.{rest}"
    module, _, parameter = rest.rpartition(".")
    return f"{theirs}.{RESNET[module]}.{parameter}" if module in RESNET else None


def ldm_module(module: str, layers: int) -> str | None:
    """The name in latent-diffusion of a layer of diffusers' U-Net: `unet_name` the other way, samplings left out."""
    outer = {theirs: ours for ours, theirs in OUTER.items()}
    if module in outer:
        return outer[module]
    found = re.fullmatch(r"(mid_block|(?:down|up)_blocks\.(\d+))\.(resnets|attentions)\.(\d+)\.(.+)", module)
    if found is None:
        return None
    place, level, kind, number, rest = found.groups()
    if kind == "resnets":
        rest = {theirs: ours for ours, theirs in RESNET.items()}.get(rest)
    if rest is None:
        return None
    if place == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{rest}"
    block = int(level) * (layers + 1) + int(number)
    start = f"input_blocks.{block + 1}" if place.startswith("down") else f"output_blocks.{block}"
    return f"{start}.{int(kind == 'attentions')}.{rest}"


def unet_tensors(tensors: Tensors) -> dict[str, Any]:
    """A U-Net's tensors by their names in diffusers, given those without their prefix.

    Raises:
      InputError: a name is not known.
    """
    layers = unet_layers(tensors)
    return _translated(tensors, lambda name: unet_name(name, layers), "U-Net")


def autoencoder_tensors(tensors: Tensors) -> dict[str, Any]:
    """An autoencoder's tensors by their names in diffusers, its attention as dense kernels.

    Raises:
      InputError: a name is not known.
    """
    levels = 1 + max((int(m[1]) for name in tensors if (m := re.match(r"decoder\.up\.(\d+)\.", name))), default=0)
    found = _translated(tensors, lambda name: _autoencoder_name(name, levels), "autoencoder")
    dense = re.compile(r".*\.attentions\.0\.to_.*weight")
    return {name: as_linear(x) if dense.fullmatch(name) and len(x.shape) == 4 else x for name, x in found.items()}


def _autoencoder_name(name: str, levels: int) -> str | None:
    if found := re.fullmatch(r"(encoder|decoder)\.mid\.attn_1\.(\w+)" + PARAMETER, name):
        inner = AUTOENCODER_ATTENTION.get(found[2])
        return inner and f"{found[1]}.mid_block.attentions.0.{inner}.{found[3]}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid\.block_([12])\.(.+)", name):
        return f"{found[1]}.mid_block.resnets.{int(found[2]) - 1}.{_shortcut(found[3])}"
    if found := re.fullmatch(r"encoder\.down\.(\d+)\.(block\.(\d+)|downsample)\.(.+)", name):
        inner = f"downsamplers.0.{found[4]}" if found[3] is None else f"resnets.{found[3]}.{_shortcut(found[4])}"
        return f"encoder.down_blocks.{int(found[1])}.{inner}"
    if found := re.fullmatch(r"decoder\.up\.(\d+)\.(block\.(\d+)|upsample)\.(.+)", name):
        inner = f"upsamplers.0.{found[4]}" if found[3] is None else f"resnets.{found[3]}.{_shortcut(found[4])}"
        return f"decoder.up_blocks.{levels - 1 - int(found[1])}.{inner}"
    if found := re.fullmatch(r"(encoder|decoder)\.norm_out" + PARAMETER, name):
        return f"{found[1]}.conv_norm_out.{found[2]}"
    outer = re.fullmatch(r"((encoder|decoder)\.conv_(in|out)|quant_conv|post_quant_conv)" + PARAMETER, name)
    return name if outer else None


def _shortcut(name: str) -> str:
    return name.replace("nin_shortcut", "conv_shortcut")


def open_clip_tensors(tensors: Tensors, *, projected: bool) -> dict[str, Any]:
    """The tensors of OpenCLIP's text tower by their names in transformers.

    Args:
      tensors: without their prefix.
      projected: the whole tower and its projection; else, as Stable Diffusion 2 has it, all layers but the last.

    Raises:
      InputError: a name is not known, or a tensor has a shape that cannot be.
    """
    numbers = [int(m[1]) for name in tensors if (m := re.match(r"transformer\.resblocks\.(\d+)\.", name))]
    unused = None if projected else max(numbers, default=0)
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        if name == "text_projection":
            found |= {"text_projection.weight": transposed(tensor)} if projected else {}
        elif name in OPEN_CLIP_OUTER:
            found[OPEN_CLIP_OUTER[name]] = tensor
        elif layer is None:
            raise InputError(f"the text encoder has a tensor {name[:80]!r}, which is not known here")
        elif int(layer[1]) != unused:
            found |= _open_clip_layer(f"text_model.encoder.layers.{int(layer[1])}", layer[2], tensor)
    return found


def _open_clip_layer(theirs: str, name: str, tensor: Any) -> dict[str, Any]:
    if joined := re.fullmatch(r"attn\.in_proj_(weight|bias)", name):
        if not tensor.shape or tensor.shape[0] % 3:
            raise InputError(f"tensor {name} has shape {tuple(tensor.shape)}; three equal parts are needed")
        parts: list[View] = [part(tensor, i, 3) for i in range(3)]
        return {f"{theirs}.self_attn.{x}_proj.{joined[1]}": y for x, y in zip("qkv", parts, strict=True)}
    module, _, parameter = name.rpartition(".")
    if module not in OPEN_CLIP_LAYER:
        raise InputError(f"the text encoder has a tensor {name[:80]!r} in a layer, which is not known here")
    return {f"{theirs}.{OPEN_CLIP_LAYER[module]}.{parameter}": tensor}


def _translated(tensors: Tensors, translate: Any, what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        new = translate(name)
        if new is None or new in found:
            raise InputError(f"the {what} has a tensor {name[:80]!r}, which is not known here")
        found[new] = tensor
    return found
