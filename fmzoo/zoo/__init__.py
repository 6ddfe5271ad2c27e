"""Published systems by name: their configs, where each figure comes from, what is public and what is assumed."""

from fmzoo.zoo import gemma, gpt2, llama, qwen
from fmzoo.zoo.registry import Entry, entry, names, register

__all__ = ["Entry", "entry", "gemma", "gpt2", "llama", "names", "qwen", "register"]
