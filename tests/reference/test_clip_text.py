"""CLIP's text tower and its tokenizer against transformers, both ways.

Two float32 implementations add in other orders; the tolerance of 1e-4 of the largest value leaves room for that, and
every planted error must exceed it in the same comparison.
"""

import dataclasses

import jax
import numpy as np
import pytest

from fmzoo.interop import clip_text, folders, to_ours, to_theirs
from fmzoo.models.clip_text import ClipText
from fmzoo.text import prompt_rows
from fmzoo.text.clip import ClipTokenizer
from fmzoo.text.files import read_json, write_json
from tests.text.test_clip import write_vocabulary

pytestmark = pytest.mark.reference
TOLERANCE = 1e-4

CASES = {
    "legacy-quick": (False, {"vocab_size": 61, "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 3,
                             "num_attention_heads": 3, "max_position_embeddings": 13, "eos_token_id": 2}),
    "eos-gelu": (False, {"vocab_size": 53, "hidden_size": 40, "intermediate_size": 34, "num_hidden_layers": 2,
                         "num_attention_heads": 5, "max_position_embeddings": 9, "eos_token_id": 52,
                         "hidden_act": "gelu", "layer_norm_eps": 1e-4}),
    "projected": (True, {"vocab_size": 71, "hidden_size": 28, "intermediate_size": 90, "num_hidden_layers": 4,
                         "num_attention_heads": 2, "max_position_embeddings": 17, "eos_token_id": 70,
                         "hidden_act": "gelu", "projection_dim": 19}),
}  # fmt: skip


def reference(name):
    import torch
    import transformers

    projected, options = CASES[name]
    config = transformers.CLIPTextConfig(**options, bos_token_id=0, pad_token_id=1)
    cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    torch.manual_seed(len(name))
    model = cls._from_config(config, attn_implementation="eager").eval()
    for path, parameter in model.named_parameters():
        wide = (1.5 if "q_proj" in path or "k_proj" in path else 1.0) * parameter.shape[-1] ** -0.5
        scale = 0.3 if parameter.ndim == 1 or "embedding" in path else wide
        mean = 1.0 if "norm" in path and path.endswith("weight") else 0.0
        parameter.data = mean + scale * torch.randn(parameter.shape)
    return model


def tokens_for(config):
    """Rows with an end in the middle and pads after it, of which some are the end again."""
    ids = np.random.default_rng(3).integers(3, config.vocab_size - 1, (3, config.max_position_embeddings))
    for row, end in enumerate((2, 5, config.max_position_embeddings - 1)):
        ids[row, end] = config.vocab_size - 1
        ids[row, end + 1 :] = (config.vocab_size - 1, 0, 1)[row]
    return ids


def run_reference(model, tokens):
    import torch

    with torch.no_grad():
        out = model(torch.tensor(tokens), output_hidden_states=True)
    pooled = out.text_embeds if "text_embeds" in out else out.pooler_output
    found = {"last": out.last_hidden_state, "penultimate": out.hidden_states[-2], "pooled": pooled}
    return {name: array.numpy() for name, array in found.items()}


def run_ours(config, params, tokens):
    run = jax.jit(ClipText(config).apply, compiler_options={"xla_backend_optimization_level": 0})
    return {name: np.asarray(array) for name, array in run({"params": params}, tokens).items()}


def agree(ours, theirs):
    return {name: bool(np.abs(ours[name] - a).max() <= TOLERANCE * np.abs(a).max()) for name, a in theirs.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_output_agrees_and_no_planted_error_does(name, tmp_path):
    model = reference(name)
    model.save_pretrained(tmp_path)
    config = clip_text.read_config(read_json(tmp_path / "config.json"))
    tensors = folders.read_tensors(tmp_path)
    params = to_ours(clip_text.TABLE, clip_text.structure(config), tensors)
    tokens = tokens_for(model.config)
    theirs = run_reference(model, tokens)
    assert min(array.std() for array in theirs.values()) > 0.3
    assert all(agree(run_ours(config, params, tokens), theirs).values())

    other = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[config.activation]
    planted = {
        "activation": (dataclasses.replace(config, activation=other), params),
        "epsilon": (dataclasses.replace(config, epsilon=config.epsilon * 100), params),
        "swapped norms": (config, swapped(params)),
    }
    for error, (wrong, weights) in planted.items():
        assert not any(agree(run_ours(wrong, weights, tokens), theirs).values()), error
    wrong = dataclasses.replace(config, eos_id=5 if config.eos_id is None else 4)
    assert agree(run_ours(wrong, params, tokens), theirs) == {"last": True, "penultimate": True, "pooled": False}

    again = to_theirs(clip_text.TABLE, clip_text.structure(config), params)
    with_new_names = {f"text_model.{n}" if not n.startswith("text_") else n: t for n, t in tensors.items()}
    assert again.keys() == with_new_names.keys()
    assert all(np.array_equal(again[n], np.asarray(with_new_names[n])) for n in again)


def swapped(params):
    layers = dict(params["layers"])
    layers["attention_norm"], layers["mlp_norm"] = layers["mlp_norm"], layers["attention_norm"]
    return {**params, "layers": layers}


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_what_is_written(name, tmp_path):
    model = reference(name)
    model.save_pretrained(tmp_path / "theirs")
    config = clip_text.read_config(read_json(tmp_path / "theirs/config.json"))
    params = to_ours(clip_text.TABLE, clip_text.structure(config), folders.read_tensors(tmp_path / "theirs"))
    (tmp_path / "ours").mkdir()
    folders.write_tensors(tmp_path / "ours", to_theirs(clip_text.TABLE, clip_text.structure(config), params))
    write_json(tmp_path / "ours/config.json", clip_text.write_config(config))
    assert clip_text.read_config(read_json(tmp_path / "ours/config.json")) == config
    again, information = type(model).from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(information.values())
    tokens = tokens_for(model.config)
    ours, theirs = run_reference(again.eval(), tokens), run_reference(model, tokens)
    assert all(np.array_equal(ours[n], theirs[n]) for n in theirs)


TEXTS = [
    "a Cat and a DOG", "", "  two\t spaces\n", "it's 1984, isn't it?", "né ÉÈ ﬁ ½ 猫😀", "<|startoftext|> x", "a" * 40,
]  # fmt: skip


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_tokens_are_those_of_transformers(pad, tmp_path):
    import transformers

    write_vocabulary(tmp_path, pad_token=pad)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "fast")
    (tmp_path / "slow").mkdir()
    ClipTokenizer.load(tmp_path).save(tmp_path / "slow")
    expected = [theirs(text, add_special_tokens=False).input_ids for text in TEXTS]
    for folder in (tmp_path, tmp_path / "fast", tmp_path / "slow"):
        ours = ClipTokenizer.load(folder)
        found = [ours.encode(text) for text in TEXTS]
        assert found[:-2] + found[-1:] == expected[:-2] + expected[-1:]
        assert ours.decode(found[0]) == theirs.decode(expected[0])
    rows = theirs(TEXTS[:3], padding="max_length", max_length=40, truncation=True).input_ids
    assert prompt_rows(ours, TEXTS[:3], 40).tolist() == rows
    with pytest.warns(UserWarning, match="over the 5"):
        assert prompt_rows(ours, TEXTS[3:4], 7).tolist() == theirs(TEXTS[3:4], max_length=7, truncation=True).input_ids
    again = transformers.CLIPTokenizer.from_pretrained(tmp_path / "slow")
    assert [again(text).input_ids for text in TEXTS] == [theirs(text).input_ids for text in TEXTS]
    assert again.pad_token_id == theirs.pad_token_id
