"""What is said of a model without its weights."""

import json

import pytest

from fmzoo import models, zoo
from fmzoo.errors import InputError
from fmzoo.stages import describe


def test_a_name_of_the_zoo():
    found = describe("gpt2-124m")
    assert found.config == zoo.entry("gpt2-124m").config()
    assert found.parameters == 124_439_808
    assert found.weight_bytes == 4 * found.parameters
    assert found.training_bytes == 4 * found.weight_bytes
    assert found.training_flops == 3 * found.forward_flops == models.flops_per_token(found.config, 1024)
    assert found.cache_bytes == 12 * 1024 * 2 * 768 * 4 + 1024 * 4  # keys and values, and the position of each slot
    assert found.steps == ()


def test_a_folder_of_transformers(tmp_path):
    attributes = {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 99, "max_position_embeddings": 64,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(attributes))
    found = describe(tmp_path)
    assert "llama" in found.source
    assert found.config.d_model == 32
    assert found.parameters == models.parameter_count(found.config)


@pytest.mark.parametrize(
    ("name", "said"), [("gpt3", "gpt2-"), ("", "config.json"), ("no/such/folder", "no run folder")]
)
def test_what_is_none(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        describe(name)
