"""Strict loading of YAML and plain mappings into frozen dataclasses.

Every configuration of kdrift is a dataclass that stands beside what it configures. An unknown key is an error that
suggests the nearest known one; values are checked against the annotations.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from kdrift.runs.hint import one_line, suggest

T = TypeVar("T")
_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
"""What checks the values of a class; to make it costs ten times what a check does."""


def parse(cls: type[T], values: Mapping[str, Any], where: str = "configuration") -> T:
    """Build the dataclass `cls` from a nested mapping.

    Raises ValueError for an unknown key (the nearest known key is suggested) or a value of the wrong type or range.
    """
    _check_keys(cls, values, where, "")
    try:
        parsed: T = _adapter(cls).validate_python(dict(values))
        return parsed
    except ValidationError as error:
        first = error.errors()[0]
        place = ": ".join(filter(None, (where, ".".join(str(part) for part in first["loc"]))))
        if first["type"] == "missing":
            raise ValueError(f"{place} is missing") from None
        if first["type"] == "value_error":  # a sentence of ours
            raise ValueError(f"{place}: {first['ctx']['error']}") from None
        raise ValueError(f"{place}: {first['msg']}, got {first['input']!r}") from None


def load_config(cls: type[T], path: str | Path | None, overrides: Iterable[str] = ()) -> T:
    """Read one complete YAML file (or none: all defaults), apply dotted `key=value` overrides, and parse it."""
    values = {} if path is None else read_yaml(path)
    apply_overrides(values, overrides)
    return parse(cls, values, str(path or "configuration"))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of keys and values, {} where it is empty. Raises ValueError for any other content."""
    try:
        loaded = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise ValueError(f"{path}: expected a mapping of keys to values, got {type(loaded).__name__}")
    return loaded or {}


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> None:
    """Set dotted `key=value` overrides in nested mappings."""
    apply_settings(values, dict(map(parse_override, overrides)))


def apply_settings(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Set values in nested mappings by their dotted keys."""
    for key, value in settings.items():
        *parents, last = key.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ValueError(f"cannot set {key}: {parent} is not a section")
        section[last] = value


def parse_override(text: str) -> tuple[str, Any]:
    """Split `key=value`; the value is read as YAML, so `lr=1e-3`, `flip=true` and `betas=[0.9,0.99]` are typed."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"expected key=value, got {text!r}")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r}: the value is no YAML: {one_line(error)}") from None
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-3 as a string
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    return key.strip(), parsed


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain mappings, lists and scalars (what YAML and JSON can hold)."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys, as MLflow parameters want them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _check_keys(cls: Any, values: Any, where: str, prefix: str) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: {prefix.rstrip('.') or '(root)'}: expected a mapping, got {values!r}")
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{where}: unknown key {prefix + str(key)!r}{suggest(str(key), known)}")
        held = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(each, bool) for each in held) and not _takes_bool(hints[key]):
            raise ValueError(f"{where}: {prefix}{key}: expected {_shown(hints[key])}, got {str(value).lower()}")
        inner = [hints[key], *typing.get_args(hints[key])]
        keyed = typing.get_origin(hints[key]) is dict and isinstance(value, Mapping)
        parts = value.items() if keyed else enumerate(value) if isinstance(value, (list, tuple)) else [("", value)]
        for name, part in parts:
            for hint in inner:
                if dataclasses.is_dataclass(hint) and isinstance(part, Mapping):
                    _check_keys(hint, part, where, f"{prefix}{key}." + (f"{name}." if name != "" else ""))


def _takes_bool(hint: Any) -> bool:
    """Whether an annotation has true and false among its values: numbers have not, though Python takes them for 1 and
    0."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return any(isinstance(each, bool) for each in parts)
    if parts:
        return any(_takes_bool(each) for each in parts)
    return hint in (bool, object, Any)


def _shown(hint: Any) -> str:
    """Return a type in words."""
    if hint is int:
        return "a whole number"
    return "a number" if hint is float else str(hint).replace("None", "null")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
