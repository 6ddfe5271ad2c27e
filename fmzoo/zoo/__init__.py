"""Published systems by name: their configs, where each figure comes from, what is public and what is assumed."""

from fmzoo.zoo import bloom, deepseek, gemma, gpt2, gptj, llama, mixture, olmo, opt, phi, pythia, qwen, smollm, xglm
from fmzoo.zoo.registry import Entry, entry, names, register

__all__ = [
    "Entry",
    "bloom",
    "deepseek",
    "entry",
    "gemma",
    "gpt2",
    "gptj",
    "llama",
    "mixture",
    "names",
    "olmo",
    "opt",
    "phi",
    "pythia",
    "qwen",
    "register",
    "smollm",
    "xglm",
]
