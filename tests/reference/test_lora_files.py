"""LoRA files against diffusers and PEFT: what both read computes the same, and they read what we write."""

import json

import jax
import numpy as np
import pytest

from fmzoo.interop import lora_files, unet
from fmzoo.interop.lora_files import Target
from fmzoo.interop.mapping import to_ours
from fmzoo.models.lora import join
from fmzoo.models.unet import UNet

pytestmark = pytest.mark.reference
SIZES = {
    "block_out_channels": (8, 16), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "layers_per_block": 1, "attention_head_dim": 2,
    "cross_attention_dim": 6, "norm_num_groups": 4, "sample_size": 8,
}  # fmt: skip
LAYERS = ["to_k", "to_q", "to_v", "to_out.0", "ff.net.0.proj", "proj_in"]
RANK, TOLERANCE = 3, 1e-4


@pytest.fixture(scope="module")
def networks():
    """diffusers' U-Net, ours with the same weights, an input, and what the network computes without LoRA."""
    import diffusers
    import torch

    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(**SIZES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config = unet.read_unet(json.loads(model.to_json_string()))
    target = Target(unet.unet_table(config), unet.unet_structure(config))
    params = to_ours(*target, {name: x.numpy() for name, x in model.state_dict().items()})
    rng = np.random.default_rng(0)
    inputs = (rng.standard_normal((2, 4, 8, 6)), np.array([3.0, 700.0]), rng.standard_normal((2, 5, 6)))
    inputs = tuple(x.astype(np.float32) for x in inputs)
    apply = jax.jit(UNet(config).apply)

    def ours(params):
        sample, times, context = inputs
        return np.asarray(apply({"params": params}, sample.transpose(0, 2, 3, 1), times, context)).transpose(0, 3, 1, 2)

    def theirs(model):
        with torch.no_grad():
            return model(*(torch.from_numpy(x) for x in inputs)).sample.numpy()

    return model, target, params, ours, theirs


def adapted(model, name="default", **options):
    """A copy of the model with random LoRA weights in it."""
    import copy

    import peft
    import torch

    model = copy.deepcopy(model)
    model.add_adapter(peft.LoraConfig(r=RANK, target_modules=LAYERS, init_lora_weights=False, **options), name)
    torch.manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval()


def test_files_of_diffusers_load(networks, tmp_path):
    import diffusers
    import peft

    model, target, params, ours, theirs = networks
    changed = adapted(model, lora_alpha=2 * RANK)
    layers = peft.get_peft_model_state_dict(changed)
    metadata = {"r": RANK, "lora_alpha": 2 * RANK}
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path, layers, unet_lora_adapter_metadata=metadata)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    needed = theirs(changed)
    assert np.abs(needed - theirs(model)).max() > 0.1
    adapters = lora_files.load(file, {"unet": target})["unet"]
    np.testing.assert_allclose(ours(join(params, adapters)), needed, atol=TOLERANCE)
    merged = lora_files.merge(file, {"unet": params}, {"unet": target})["unet"]
    np.testing.assert_allclose(ours(merged), needed, atol=TOLERANCE)


def test_files_of_kohya_load(networks, tmp_path):
    """diffusers' own reading of kohya's names, alphas and convolutions, against ours."""
    import copy

    import safetensors.torch
    import torch
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    model, target, params, ours, theirs = networks
    torch.manual_seed(2)
    tensors = {}
    for module, weight in [(n.removesuffix(".weight"), x) for n, x in model.state_dict().items()]:
        if not module.endswith((*LAYERS, "resnets.0.conv1")) or weight.ndim < 2:
            continue
        start, tail = f"lora_unet_{module.replace('.', '_')}", (1, 1) if weight.ndim == 4 else ()
        tensors[f"{start}.lora_down.weight"] = 0.2 * torch.randn(RANK, *weight.shape[1:])
        tensors[f"{start}.lora_up.weight"] = 0.2 * torch.randn(weight.shape[0], RANK, *tail)
        tensors[f"{start}.alpha"] = torch.tensor(2.0)
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    changed = copy.deepcopy(model)
    state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(tensors)
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, changed)
    needed = theirs(changed.eval())
    assert np.abs(needed - theirs(model)).max() > 0.1
    merged = lora_files.merge(tmp_path / "x.safetensors", {"unet": params}, {"unet": target})["unet"]
    np.testing.assert_allclose(ours(merged), needed, atol=TOLERANCE)


def test_diffusers_and_peft_load_what_we_write(networks, tmp_path):
    import copy

    import diffusers
    import peft
    import safetensors.torch

    model, target, params, ours, theirs = networks
    layers = peft.get_peft_model_state_dict(adapted(model, lora_alpha=RANK))
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path / "theirs", layers)
    adapters = lora_files.load(tmp_path / "theirs" / "pytorch_lora_weights.safetensors", {"unet": target})["unet"]
    needed = ours(join(params, adapters, 0.5))
    lora_files.save(tmp_path / "x.safetensors", {"unet": adapters}, {"unet": target}, scale=0.5)
    changed = copy.deepcopy(model)
    changed.load_lora_adapter(safetensors.torch.load_file(tmp_path / "x.safetensors"), prefix="unet")
    np.testing.assert_allclose(theirs(changed.eval()), needed, atol=TOLERANCE)
    lora_files.save_peft(tmp_path / "peft", adapters, target, scale=0.5)
    wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "peft").eval()
    np.testing.assert_allclose(theirs(wrapped), needed, atol=TOLERANCE)
