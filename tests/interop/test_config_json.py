"""Configs as JSON: whole, checked, and refused where a file says something else."""

import dataclasses
import json
from typing import Literal

import pytest

from fmzoo import zoo
from fmzoo.errors import InputError
from fmzoo.interop.config_json import from_json, to_json
from fmzoo.models import DecoderConfig, RopeConfig, replace


@dataclasses.dataclass(frozen=True)
class Adam:
    rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Muon:
    rate: float = 1e-2
    steps: int = 5


@dataclasses.dataclass(frozen=True)
class Config:
    name: str
    optimizer: Adam | Muon = Adam()
    backup: Adam | None = None
    layers: tuple[str, ...] = ()
    betas: tuple[float, float] = (0.9, 0.95)
    limit: int | None = None
    mixed: int | str = 1
    kind: Literal["a", "b", 3] = "a"
    flag: bool = False


@pytest.mark.parametrize(
    "config",
    [
        Config("x"),
        Config("x", Muon(steps=7), Adam(0.5), ("a", "b"), (0.5, 0.25), 3, "text", 3, True),
        Config("x", mixed=4, limit=0),
    ],
)
def test_what_is_written_reads_back(config):
    again = from_json(Config, json.loads(json.dumps(to_json(config))))
    assert again == config
    assert isinstance(again.layers, tuple)


@pytest.mark.parametrize("name", ["gpt2-124m", "gemma3-4b", "llama3.1-8b"])
def test_model_configs_read_back(name):
    config = replace(zoo.entry(name).config(), attention__window=5, local_rope=RopeConfig(theta=3.0))
    assert from_json(DecoderConfig, json.loads(json.dumps(to_json(config)))) == config


def test_a_class_is_named_only_where_there_is_a_choice():
    assert to_json(Config("x", Muon(), Adam())) == {
        "name": "x",
        "optimizer": {"type": "Muon", "rate": 1e-2, "steps": 5},
        "backup": {"rate": 1e-3},
        "layers": [],
        "betas": [0.9, 0.95],
        "limit": None,
        "mixed": 1,
        "kind": "a",
        "flag": False,
    }


def test_fields_that_a_file_lacks_have_their_defaults():
    assert from_json(Config, {"name": "x", "optimizer": {"type": "Muon", "steps": 9}}) == Config("x", Muon(steps=9))


def test_a_whole_number_is_a_float_too():
    rate = from_json(Adam, {"rate": 1}).rate
    assert rate == 1.0
    assert isinstance(rate, float)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "Config lacks the field name"),
        ([], r"Config is \[\]; an object of Config is needed"),
        ({"name": "x", "limits": 1}, "Config has no field 'limits'; the nearest are limit"),
        ({"name": 1}, "name is 1; str is needed"),
        ({"name": "x", "flag": 1}, "flag is 1; bool is needed"),
        ({"name": "x", "limit": True}, "limit is True; int or NoneType is needed"),
        ({"name": "x", "limit": 1.5}, "limit is 1.5; int or NoneType is needed"),
        ({"name": "x", "kind": "c"}, "kind is 'c'; one of a, b, 3 is needed"),
        ({"name": "x", "layers": "ab"}, "layers is 'ab'; a list is needed"),
        ({"name": "x", "layers": ["a", 1]}, r"layers\[1\] is 1; str is needed"),
        ({"name": "x", "betas": [0.9]}, r"betas is \[0.9\]; a list of 2 is needed"),
        ({"name": "x", "betas": [0.9, float("nan")]}, r"betas\[1\] is nan; float is needed"),
        ({"name": "x", "backup": {"rte": 1.0}}, "backup has no field 'rte'; the nearest are rate"),
        ({"name": "x", "optimizer": {"rate": 1.0}}, "optimizer.type is None; one of Adam, Muon is needed"),
        ({"name": "x", "optimizer": {"type": "Lion"}}, "optimizer.type is 'Lion'; one of Adam, Muon is needed"),
        ({"name": "x", "optimizer": {"type": "Muon", "steps": "5"}}, "optimizer.steps is '5'; int is needed"),
    ],
    ids=range(16),
)
def test_what_does_not_fit_is_refused_by_its_path(values, sentence):
    with pytest.raises(InputError, match=sentence):
        from_json(Config, values)


def test_the_class_checks_its_values():
    with pytest.raises(InputError, match="num_layers is 0; a number above 0 is needed"):
        from_json(DecoderConfig, {"num_layers": 0})


@pytest.mark.parametrize("value", [float("inf"), {"a": 1}, b"x", object])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(InputError, match="mixed is .*, which a config file cannot hold"):
        to_json(Config("x", mixed=value))
