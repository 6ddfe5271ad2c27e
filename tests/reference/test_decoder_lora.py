"""PEFT's adapters over decoders of transformers: every logit with what PEFT writes, and with what PEFT reads of ours.

The tolerance is that of `test_transformers_parity`; adapters whose scale is off by a twentieth must exceed it.
"""

import dataclasses

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo import models
from tests.reference import test_dense_families, test_mixture_families, test_transformers_parity
from tests.reference.test_transformers_parity import agrees, run_ours, run_reference, tokens_for

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # which PEFT reads
]

LENGTH = 11
ROOMS = (test_transformers_parity, test_dense_families, test_mixture_families)
NAMES = (
    "gpt2-plain", "llama-plain", "phi-plain", "phi3-window", "gpt_neox-plain", "gptj-plain", "gpt_neo-plain",
    "opt-narrow", "bloom-three", "xglm-plain", "olmo2-grouped", "smollm3-fourth", "mixtral-window",
)  # fmt: skip


def reference(name):
    """The model of transformers under random weights, the same at each call."""
    return next(room for room in ROOMS if name in room.CASES).reference(name)


def adapted(name):
    """What PEFT makes of it: adapters of every layer that it takes, or of some; two ranks and two alphas."""
    import peft
    import torch

    index = NAMES.index(name)
    some = {"llama-plain": r".*(q|v|down)_proj", "mixtral-window": [f"{letter}_proj" for letter in "qkvo"]}
    config = peft.LoraConfig(
        r=3, lora_alpha=5, use_rslora=index % 2 == 1, target_modules=some.get(name, "all-linear"),
        rank_pattern={r".*\.1\..*": 2}, alpha_pattern={r".*\.1\..*": 3}, fan_in_fan_out="gpt2" in name,
        layers_to_transform=[1] if name == "mixtral-window" else None, task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(reference(name), config).eval()
    generator = torch.Generator().manual_seed(index)
    for path, weight in model.named_parameters():
        if "lora_B" in path:
            weight.data = 0.5 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_every_logit_agrees_both_ways(name, tmp_path):
    import peft

    reference(name).save_pretrained(tmp_path / "base")
    model = adapted(name)
    model.save_pretrained(tmp_path / "theirs")
    tokens = tokens_for(model.config, LENGTH)
    ours, plain = fmzoo.load(tmp_path / "base", adapter=tmp_path / "theirs"), run_reference(reference(name), tokens)
    theirs = run_reference(model, tokens)
    assert np.abs(theirs - plain).max() > 0.1 * np.abs(plain).max()
    assert agrees(run_ours(ours, tokens), theirs)
    base, adapters = models.separate(ours.params)
    wrong = dataclasses.replace(ours, params=models.join(base, adapters, 1.05))
    assert not agrees(run_ours(wrong, tokens), theirs)

    made = models.init_lora(jax.random.key(0), base, 2, "attention|mlp")
    rng = np.random.default_rng(1)
    made = jax.tree.map(lambda leaf: (0.3 * rng.standard_normal(leaf.shape)).astype(np.float32), made)
    other = dataclasses.replace(ours, params=models.join(base, made, 0.5))
    fmzoo.save(other, tmp_path / "ours", format="peft")
    wrapped = peft.PeftModel.from_pretrained(reference(name), tmp_path / "ours").eval()
    needed = run_ours(other, tokens)
    assert not agrees(needed, plain)
    assert agrees(run_reference(wrapped, tokens), needed)
