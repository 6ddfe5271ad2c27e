"""GGUF against transformers and llama.cpp: real weights, and each architecture under random ones.

Both compute from a float32 file what we compute, to rounding (llama.cpp with its cache in float32), but for Gemma's
GELU, which llama.cpp reads from a table in float16. A planted error (rows of queries in another order) must exceed each
tolerance ten times.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from etils import epath

import fmzoo
from fmzoo import generate, zoo
from fmzoo.interop import gguf_files, packages
from fmzoo.interop.gguf_format import Tensor, block_size, read_file, write_file
from fmzoo.models import RopeConfig, replace
from fmzoo.text import ByteTokenizer, render
from tests.interop.test_gguf_files import CONFIGS, GEMMA, LLAMA, WINDOWS, pretrained

pytestmark = pytest.mark.reference

NAME = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
PROMPTS = (
    QUESTION, "Name three colours.", "Write a haiku about the sea.", "What is 12 times 12?", "Who wrote Hamlet?",
    "Explain gravity to a child.", "Translate 'good morning' into Spanish.", "List the planets.", "def add(a, b):",
    "Tell me a joke about cats.", "What is water made of?", "Summarise: the cat sat on the mat.", "1, 2, 3,",
    "Why is the sky blue?", "naïve café déjà vu", "How do I boil an egg?", "日本の首都は?", "What year did WW2 end?",
    "Give me a synonym of 'happy'.", "Is 7 a prime number?",
)  # fmt: skip
AT_MOST, LOOSER, BY_TABLE = 1e-3, 1e-4, 5e-3


@functools.cache
def ours():
    return fmzoo.load(NAME)


@functools.cache
def theirs():
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(file().parent), gguf_file=file().name, dtype="float32"
    )
    return model.eval()


def file():
    return packages.locate(zoo.entry(NAME).package, NAME)


def ask(question):
    turns = [{"role": "user", "content": question}]
    return render(ours().chat_template, turns, ours().tokenizer, add_generation_prompt=True, train_on="none").tokens


def run_theirs(model, rows):
    import torch

    with torch.no_grad():
        return [model(torch.tensor([row])).logits[0].numpy() for row in rows]


def run_ours(model, rows):
    length = max(map(len, rows))
    tokens = np.array([[*row, *[0] * (length - len(row))] for row in rows])
    logits = jax.jit(lambda params, tokens: model.module.apply({"params": params}, tokens))(model.params, tokens)
    return [np.asarray(found[: len(row)]) for found, row in zip(logits, rows, strict=True)]


@functools.cache
def question_and_prompts():
    """The tokens of a question, then of the prompts as they stand, and our logits for each."""
    rows = [ask(QUESTION), *(ours().tokenizer.encode(prompt) for prompt in PROMPTS)]
    return rows, run_ours(ours(), rows)


def test_real_weights_give_the_logits_of_transformers():
    rows, found = question_and_prompts()
    for logits, expected in zip(found, run_theirs(theirs(), rows), strict=True):
        assert np.abs(logits - expected).max() <= AT_MOST


def test_64_greedy_tokens_are_those_of_transformers():
    """The likeliest token after each of ours, by transformers in one pass, is our next one, ties excused."""
    rows = [ask(prompt) for prompt in PROMPTS[:10]]
    answers = generate.text(ours(), rows, jax.random.key(0), temperature=0.0, max_new_tokens=64)
    assert "Paris" in answers[0].text
    wholes = [[*row, *answer.tokens] for row, answer in zip(rows, answers, strict=True)]
    for row, answer, logits in zip(rows, answers, run_theirs(theirs(), wholes), strict=True):
        assert len(answer.tokens) == 64 or answer.ended_by == "id"
        steps = logits[len(row) - 1 : -1]
        chosen = steps[np.arange(len(steps)), answer.tokens]
        assert (chosen >= steps.max(axis=1) - AT_MOST).all()


def test_tokens_are_those_of_transformers():
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(file().parent), gguf_file=file().name)
    for prompt in PROMPTS:
        assert ours().tokenizer.encode(prompt) == tokenizer.encode(prompt, add_special_tokens=False)
        turns = [{"role": "user", "content": prompt}]
        expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert ask(prompt) == expected


GEMMA3 = replace(GEMMA, **WINDOWS | {"pattern": ("local",) * 5 + ("global",)}, attention__qk_norm="head", num_layers=7)
GEMMA3 = replace(GEMMA3, rope__theta=1e6, local_rope=RopeConfig(1e4))
BY_TRANSFORMERS = {  # with what it takes its own defaults for: heads of 128 and 256, caps
    "llama": LLAMA,
    "qwen2": CONFIGS["qwen2"],
    "qwen3": replace(LLAMA, attention__qk_norm="head", attention__head_dim=128),
    "gemma2": replace(CONFIGS["gemma2"], attention__head_dim=256, logit_softcap=30.0),
    "gemma3": replace(GEMMA3, attention__head_dim=256),
}
BY_LLAMA_CPP = CONFIGS | {
    "qwen3": replace(CONFIGS["qwen3"], rope=RopeConfig(1e6)),
    "yarn": replace(LLAMA, rope=RopeConfig(scaling="yarn", factor=4.0, original_context=16)),
    "gemma3": GEMMA3,
}
TOKENS = np.random.default_rng(3).integers(0, 128, 19).tolist()


def random_model(config):
    """Weights of the size that training begins with, norms near one."""
    model = pretrained(config, ByteTokenizer())
    params = jax.tree.map(lambda leaf: leaf * 0.15, model.params)
    params["embed"][128:] = 0.0  # half a character and eos, never the likeliest, since llama.cpp would not tell of them
    if "head" in params:
        params["head"][:, 128:] = 0.0
    offset = 0.0 if config.norm.unit_offset else 1.0
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + offset if path[-1].key == "scale" else leaf, params
    )
    return dataclasses.replace(model, params=params)


def spoiled(path):
    """A file whose queries have the rows of their heads in another order."""
    metadata, tensors = read_file(path)
    whole = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    for name in whole:
        if ".attn_q.weight" in name:
            heads = whole[name].reshape(4, 2, -1, whole[name].shape[1])
            whole[name] = heads.swapaxes(1, 2).reshape(whole[name].shape)
    write_file(path.parent / "spoiled.gguf", metadata, {name: ("F32", array) for name, array in whole.items()})
    return path.parent / "spoiled.gguf"


@pytest.mark.parametrize("name", BY_TRANSFORMERS)
def test_transformers_computes_the_same_from_our_file(name, tmp_path):
    import transformers

    model = random_model(BY_TRANSFORMERS[name])
    gguf_files.save(model, tmp_path / "model.gguf", "F32")
    found = run_ours(model, [TOKENS])[0]
    for written, same in ((tmp_path / "model.gguf", True), (spoiled(tmp_path / "model.gguf"), False)):
        other = transformers.AutoModelForCausalLM.from_pretrained(
            str(tmp_path), gguf_file=written.name, dtype="float32"
        )
        off = np.abs(found - run_theirs(other.eval(), [TOKENS])[0]).max() / np.abs(found).max()
        assert (off <= 1e-4) == same
        assert off > 1e-2 or same


def llama_cpp(path):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.port = str(path), 256, 1, 0
    params.cpuparams.n_threads, params.warmup, params.verbosity = 1, False, 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(params)


def next_log_probs(path, tokens, count=20):
    answer = llama_cpp(path).handle_completions(
        {"prompt": tokens, "max_tokens": 1, "temperature": 0, "logprobs": count, "cache_prompt": False}
    )
    found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {entry["id"]: entry["logprob"] for entry in found}


@pytest.mark.parametrize("name", BY_LLAMA_CPP)
def test_llama_cpp_computes_the_same_from_our_file(name, tmp_path):
    model = random_model(BY_LLAMA_CPP[name])
    gguf_files.save(model, tmp_path / "model.gguf", "F32")
    expected = np.asarray(jax.nn.log_softmax(run_ours(model, [TOKENS])[0][-1]))
    files = tmp_path / "model.gguf", spoiled(tmp_path / "model.gguf")
    found, wrong = (next_log_probs(path, TOKENS) for path in files)
    limit = BY_TABLE if name.startswith("gemma") else LOOSER
    assert max(abs(expected[i] - value) for i, value in found.items()) < limit
    assert max(abs(expected[i] - value) for i, value in wrong.items()) > 10 * limit


def test_llama_cpp_answers_from_what_we_write(tmp_path):
    fmzoo.save(ours(), tmp_path / "model.gguf", "gguf")
    answer = llama_cpp(tmp_path / "model.gguf").handle_chat_completions(
        {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 16}
    )
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_llama_cpp_reads_what_we_write_in_8_bits(tmp_path):
    """It rounds activations to 8 bits too, so that near ties may fall otherwise."""
    fmzoo.save(ours(), tmp_path / "model.gguf", "gguf-q8_0")
    rows, logits = question_and_prompts()
    expected, found = jax.nn.log_softmax(logits[0][-1]), next_log_probs(tmp_path / "model.gguf", rows[0], 5)
    assert max(abs(expected[i] - value) for i, value in found.items()) < 0.5


def test_k_quants_are_those_of_transformers(tmp_path):
    """Its own arithmetic in torch, on random blocks; the scales are kept finite."""
    import torch
    from transformers.integrations.gguf import dequant

    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q4_0": (0,)}
    for encoding, places in halves.items():
        numbers, size = block_size(encoding)
        blocks = np.random.default_rng(0).integers(0, 256, (8, size)).astype(np.uint8)
        for place in places:
            blocks[:, place : place + 2] = np.full((8, 1), 0.01, np.float16).view(np.uint8)
        (tmp_path / encoding).write_bytes(blocks.tobytes())
        found = np.asarray(Tensor(epath.Path(tmp_path / encoding), encoding, (8, numbers), 0))
        number = getattr(dequant, f"GGML_{encoding}")
        expected = dequant.dequantize(torch.from_numpy(blocks.reshape(-1)), number).numpy()
        np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-6, atol=1e-6)
