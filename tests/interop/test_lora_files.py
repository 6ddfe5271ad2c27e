import dataclasses
import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fmzoo.diffusion import Process
from fmzoo.errors import InputError
from fmzoo.interop import clip_text, lora_files, safetensors, system_lora, unet
from fmzoo.interop.lora_files import Target
from fmzoo.models import Pretrained
from fmzoo.models.clip_text import ClipTextConfig
from fmzoo.models.lora import init_lora, merge
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.models.unet_config import UNetConfig

CONFIG = UNetConfig(
    channels=(8, 16), layers=(1, 1), transformer_layers=(1, 0), num_heads=(2, 2), context_dim=6, groups=4, sample_size=8
)
CLIP = ClipTextConfig(vocab_size=20, d_model=8, num_layers=3, num_heads=2, d_ff=16, context_length=5)
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LDM = "input_blocks_1_1_transformer_blocks_0"
FLAT = BLOCK.replace(".", "_")
RANK = 3


@pytest.fixture(scope="module")
def targets():
    return {
        "unet": Target(unet.unet_table(CONFIG), unet.unet_structure(CONFIG)),
        "text_encoder": Target(clip_text.TABLE, clip_text.structure(CLIP)),
    }


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


DOWN, UP = draw(RANK, 6), draw(8, RANK, seed=1)  # of a key of cross-attention
ALPHA = np.float32(6.0)
PATH = ("down_0", "transformer_0", "layer_0", "cross_attention", "key", "kernel")
STYLES = {
    "diffusers": (f"unet.{BLOCK}.attn2.to_k.lora_A.weight", f"unet.{BLOCK}.attn2.to_k.lora_B.weight"),
    "older": (f"unet.{BLOCK}.attn2.to_k.lora.down.weight", f"unet.{BLOCK}.attn2.to_k.lora.up.weight"),
    "oldest": (f"{BLOCK}.attn2.processor.to_k_lora.down.weight", f"{BLOCK}.attn2.processor.to_k_lora.up.weight"),
    "peft": (
        f"base_model.model.{BLOCK}.attn2.to_k.lora_A.weight",
        f"base_model.model.{BLOCK}.attn2.to_k.lora_B.weight",
    ),
    "kohya": (f"lora_unet_{FLAT}_attn2_to_k.lora_down.weight", f"lora_unet_{FLAT}_attn2_to_k.lora_up.weight"),
    "kohya, first code": (f"lora_unet_{LDM}_attn2_to_k.lora_down.weight", f"lora_unet_{LDM}_attn2_to_k.lora_up.weight"),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("scaled", [False, True])
def test_every_style_of_names_gives_the_same_adapter(tmp_path, targets, style, scaled):
    down, up = STYLES[style]
    tensors = {down: DOWN, up: UP}
    if scaled:
        start = down[: -len(".lora_down.weight")] if "lora_down" in down else f"unet.{BLOCK}.attn2.to_k"
        tensors[f"{start}.alpha"] = np.asarray(ALPHA)
    safetensors.write_file(tmp_path / "x.safetensors", tensors)
    found = flatten_dict(lora_files.load(tmp_path / "x.safetensors", targets)["unet"])
    assert found.keys() == {(*PATH, "a"), (*PATH, "b")}
    np.testing.assert_array_equal(found[*PATH, "a"], DOWN.T)
    np.testing.assert_allclose(found[*PATH, "b"], UP.T * (2 if scaled else 1), rtol=1e-6)


def params_of(target):
    flat = {path: draw(*shape, seed=i) for i, (path, shape) in enumerate(target.structure.shapes.items())}
    tree = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
        at[name] = leaf
    return tree


def test_merging_a_file_is_merging_its_adapters(tmp_path, targets):
    tensors = dict(zip(STYLES["older"], (DOWN, UP), strict=True))
    for layer, rank in ((0, 2), (2, 3)):  # the layers of a text encoder are stacked
        start = f"text_encoder.text_model.encoder.layers.{layer}.self_attn.q_proj"
        tensors |= {f"{start}.lora_A.weight": draw(rank, 8, seed=layer), f"{start}.lora_B.weight": draw(8, rank)}
    safetensors.write_file(tmp_path / "x.safetensors", tensors)
    adapters = lora_files.load(tmp_path / "x.safetensors", targets)
    params = {name: params_of(target) for name, target in targets.items()}
    found = lora_files.merge(tmp_path / "x.safetensors", params, targets)
    for name in targets:
        needed = merge(params[name], adapters[name])
        assert any(
            not np.array_equal(x, y)
            for x, y in zip(jax.tree.leaves(needed), jax.tree.leaves(params[name]), strict=True)
        )
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found[name], needed)
    kernel = found["text_encoder"]["layers"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(kernel[1], params["text_encoder"]["layers"]["attention"]["query"]["kernel"][1])


def test_convolutions_are_merged_and_are_no_adapters(tmp_path, targets):
    down, up = draw(2, 8, 3, 3), draw(8, 2, 1, 1)
    start = "lora_unet_down_blocks_0_resnets_0_conv2"
    tensors = {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up, f"{start}.alpha": np.float32(1.0)}
    safetensors.write_file(tmp_path / "x.safetensors", {k: np.asarray(v) for k, v in tensors.items()})
    with pytest.raises(InputError, match="down_blocks.0.resnets.0.conv2, which is no dense kernel"):
        lora_files.load(tmp_path / "x.safetensors", targets)
    params = params_of(targets["unet"])
    found = lora_files.merge(tmp_path / "x.safetensors", {"unet": params}, targets, scale=0.5)
    needed = np.einsum("orxy,rihw->hwio", up, down) * 0.25
    path = ("down_0", "resnet_0", "conv2", "kernel")
    changed = flatten_dict(found["unet"])[path] - flatten_dict(params)[path]
    np.testing.assert_allclose(changed, needed, atol=1e-5)


def test_what_is_written_is_read_back(tmp_path, targets):
    rng = np.random.default_rng(5)
    trees = {}
    for name, paths in {
        "unet": ["down_0/transformer_0/input", "up_0/transformer_1/layer_0/self_attention/out"],
        "text_encoder": ["layers/attention/query"],
    }.items():
        tree = {}
        for path in paths:
            *lead, inputs, outputs = targets[name].structure.shapes[f"{path}/kernel"]
            at = tree
            for part in (*path.split("/"), "kernel"):
                at = at.setdefault(part, {})
            at["a"] = rng.standard_normal((*lead, inputs, RANK)).astype(np.float32)
            at["b"] = rng.standard_normal((*lead, RANK, outputs)).astype(np.float32)
        trees[name] = tree
    lora_files.save(tmp_path / "x.safetensors", trees, targets, scale=2.0)
    found = lora_files.load(tmp_path / "x.safetensors", targets)
    doubled = jax.tree.map(lambda x: x, trees)
    for path, leaf in flatten_dict(doubled).items():
        read = flatten_dict(found)[path]
        np.testing.assert_array_equal(read, leaf * (2 if path[-1] == "b" else 1))
    lora_files.save_peft(tmp_path / "peft", trees["unet"], targets["unet"])
    found = lora_files.load(tmp_path / "peft", targets)["unet"]
    jax.tree.map(np.testing.assert_array_equal, found, trees["unet"])
    with pytest.raises(InputError, match="exists already"):
        lora_files.save(tmp_path / "x.safetensors", trees, targets)


def test_a_config_beside_the_weights_scales_them(tmp_path, targets):
    safetensors.write_file(tmp_path / "adapter_model.safetensors", dict(zip(STYLES["peft"], (DOWN, UP), strict=True)))
    for config, scale in [
        ({"r": 3, "lora_alpha": 6}, 2.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 3**0.5),
        ({"lora_alpha": 6, "alpha_pattern": {"attn2.to_k": 1}}, 1 / 3),
    ]:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        found = flatten_dict(lora_files.load(tmp_path, targets)["unet"])
        np.testing.assert_allclose(found[*PATH, "b"], UP.T * scale, rtol=1e-6)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6, "use_dora": True}))
    with pytest.raises(InputError, match="use_dora"):
        lora_files.load(tmp_path, targets)


GOOD = dict(zip(STYLES["diffusers"], (DOWN, UP), strict=True))
START = f"unet.{BLOCK}.attn2.to_k"
BAD = {
    "empty": ({}, "holds no LoRA weights"),
    "half": ({f"{START}.lora_A.weight": DOWN}, "have no up matrix"),
    "other names": (GOOD | {f"{START}.dora_scale": UP}, "no LoRA matrix"),
    "other layer": ({k.replace("attn2", "attn3"): v for k, v in GOOD.items()}, "which the unet does not have"),
    "other component": ({k.replace("unet.", "text_encoder_2."): v for k, v in GOOD.items()}, "is for text_encoder_2"),
    "shape": (GOOD | {f"{START}.lora_A.weight": draw(RANK, 7)}, "do not give"),
    "ranks": (GOOD | {f"{START}.lora_A.weight": draw(RANK + 1, 6)}, "do not give"),
    "dtype": (GOOD | {f"{START}.lora_A.weight": np.ones((RANK, 6), np.int32)}, "floating-point numbers are needed"),
    "scale": (GOOD | {f"{START}.alpha": np.asarray(np.float32("nan"))}, "a finite number is needed"),
    "alpha": (GOOD | {f"{START}.alpha": np.ones(2, np.float32)}, "alpha"),
    "twice": (GOOD | dict(zip(STYLES["kohya"], (DOWN, UP), strict=True)), "twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_understood_is_refused(tmp_path, targets, name):
    tensors, message = BAD[name]
    safetensors.write_file(tmp_path / "x.safetensors", tensors)
    with pytest.raises(InputError, match=message) as error:
        lora_files.load(tmp_path / "x.safetensors", targets)
    assert len(str(error.value).replace(str(tmp_path), "")) < 300


def test_a_system_is_adapted_by_diffusers_names(tmp_path, targets):
    denoiser = dataclasses.replace(CONFIG, context_dim=CLIP.d_model)
    config = TextToImageConfig(denoiser, None, {"text_encoder": CLIP}, Process(), "sd1")
    params = {"denoiser": params_of(Target(unet.unet_table(denoiser), unet.unet_structure(denoiser)))}
    params |= {"text_encoder": params_of(targets["text_encoder"])}
    adapters = init_lora(jax.random.key(0), params, RANK, r"(cross_|^text_encoder.*)attention/(query|value)")
    adapters = jax.tree.map(lambda x: x + 0.5, adapters)
    system_lora.save(tmp_path / "x.safetensors", adapters, config, scale=2.0)
    names = {name.partition(".")[0] for name in safetensors.read_file(tmp_path / "x.safetensors")}
    assert names == {"unet", "text_encoder"}
    needed = merge(params, adapters, 2.0)
    found = merge(params, system_lora.load(tmp_path / "x.safetensors", config))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, needed)
    pretrained = Pretrained(None, params, config)
    found = system_lora.merge(pretrained, tmp_path / "x.safetensors").params
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, needed)
