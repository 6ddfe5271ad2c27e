"""Every name of fmzoo, option and command that the page on migrating gives is there."""

import dataclasses
import functools
import importlib
import pathlib
import re

import pytest

from fmzoo.cli import COMMANDS
from fmzoo.stages import PretrainConfig

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "migrating.md").read_text()
SPANS = re.findall(r"`([^`\n]+)`", PAGE)
ROOMS = "data|diffusion|evals|generate|interop|models|objectives|parallel|stages|text|train|zoo"
NAME = re.compile(rf"(?<![\w./:])(?:fmzoo\.(?:load|save|convert)|(?:fmzoo\.)?(?:{ROOMS})\.\w+)\b")
OURS = " ".join(line.strip(" |").split(" | ")[-1] for line in PAGE.splitlines() if line.startswith("| "))


def resolve(name: str) -> object:
    """What a dotted name of the page stands for."""
    whole = name.removeprefix("fmzoo.").split(".")
    return functools.reduce(getattr, whole, importlib.import_module("fmzoo"))


def has_field(config: object, path: list[str]) -> bool:
    """Whether a config has a field at a path of options."""
    for name in path:
        if name not in {field.name for field in dataclasses.fields(config)}:
            return False
        config = getattr(config, name)
    return True


def test_names_exist():
    names = {name for span in SPANS for name in NAME.findall(span)}
    assert len(names) > 20
    for name in sorted(names):
        assert resolve(name) is not None, name


def test_options_exist():
    options = set(re.findall(r"`--([\w.-]+)", OURS)) - {"workdir"}
    assert len(options) > 35
    missing = [o for o in sorted(options) if not has_field(PretrainConfig(), o.replace("-", "_").split("."))]
    assert not missing


def test_commands_exist():
    commands = {m for span in SPANS for m in re.findall(r"^fmzoo (\w+)", span)}
    assert commands >= {"pretrain", "zoo"}
    assert commands <= COMMANDS.keys()


def test_a_wrong_name_is_found():
    with pytest.raises(AttributeError):
        resolve("fmzoo.generate.beam")
    assert not has_field(PretrainConfig(), ["model", "emb_dim"])
