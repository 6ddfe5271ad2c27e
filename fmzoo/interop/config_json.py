"""Frozen dataclasses as JSON and back, whole and checked."""

import dataclasses
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fmzoo.errors import InputError, nearest

T = TypeVar("T")
TAG = "type"  # names the class where a field may hold one of several dataclasses


def to_json(config: Any) -> dict[str, Any]:
    """A config's fields, nested dataclasses and all, as what `json` writes.

    Tuples become lists; where a field may hold one of several dataclasses, the class is named under ``"type"``.

    Raises:
      InputError: a field holds something other than numbers, strings, booleans, None, tuples and dataclasses.
    """
    hints = get_type_hints(type(config))
    return {f.name: _encode(getattr(config, f.name), hints[f.name], f.name) for f in dataclasses.fields(config)}


def from_json(cls: type[T], values: Any, where: str = "") -> T:
    """A config of a class from what `to_json` gave.

    Args:
      cls: a dataclass.
      values: a JSON object; a field that it lacks has its default.
      where: the path of the object in the file, for messages.

    Returns:
      The config; each value has been checked against its field's type, and by the class.

    Raises:
      InputError: a key is unknown, a field without a default is missing, or a value is of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where or cls.__name__} is {_show(values)}; an object of {cls.__name__} is needed")
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in values:
        if name not in fields:
            raise InputError(f"{where or cls.__name__} has no field {name[:60]!r}; {nearest(name, fields)}")
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where or cls.__name__} lacks the field {name}")
    decoded = {name: _decode(value, hints[name], f"{where}.{name}".lstrip(".")) for name, value in values.items()}
    return cls(**decoded)


def _encode(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag = {TAG: type(value).__name__} if len(_classes(hint)) > 1 else {}
        return tag | to_json(value)
    if isinstance(value, tuple):
        return [_encode(item, Any, where) for item in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InputError(f"{where} is {_show(value)}, which a config file cannot hold; a finite number or text is needed")


def _decode(value: Any, hint: Any, where: str) -> Any:
    """The value as its field's type has it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(value, hint, where)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, where)
    if origin is Literal:
        found = [option for option in arguments if type(option) is type(value) and option == value]
        return found[0] if found else _refuse(value, "one of " + ", ".join(map(str, arguments)), where)
    if origin is tuple and isinstance(value, list):
        items = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(items) != len(value):
            return _refuse(value, f"a list of {len(items)}", where)
        return tuple(
            _decode(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, items, strict=True))
        )
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint in (bool, int, str, type(None)) and type(value) is hint:
        return value
    return _refuse(value, "a list" if origin is tuple else getattr(hint, "__name__", str(hint)), where)


def _decode_union(value: Any, hint: Any, where: str) -> Any:
    """The first of the union's types that takes the value; a tag says which dataclass."""
    options, classes = get_args(hint), _classes(hint)
    if value is None and type(None) in options:
        return None
    if len(classes) > 1 and isinstance(value, dict):
        names = {cls.__name__: cls for cls in classes}
        if (tag := value.get(TAG)) not in names:
            return _refuse(tag, "one of " + ", ".join(names), f"{where}.{TAG}")
        return from_json(names[tag], {k: v for k, v in value.items() if k != TAG}, where)
    if len(classes) == 1 and isinstance(value, dict):
        return from_json(classes[0], value, where)
    for option in options:
        try:
            return _decode(value, option, where)
        except InputError:
            continue
    return _refuse(value, " or ".join(getattr(o, "__name__", str(o)) for o in options), where)


def _classes(hint: Any) -> list[type]:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [option for option in options if dataclasses.is_dataclass(option)]


def _refuse(value: Any, accepted: str, where: str) -> Any:
    raise InputError(f"{where} is {_show(value)}; {accepted[:120]} is needed")


def _show(value: Any) -> str:
    return repr(value)[:60]
