"""Configuration: strict keys with suggestions, typed values, dotted overrides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kdrift.runs.config import flatten, load_config, parse, parse_override, to_dict
from kdrift.runs.hint import suggest


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str = "a"
    inner: Inner = field(default_factory=Inner)


def test_yaml_overrides_and_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: b\ninner:\n  sizes: [3]\n")
    config = load_config(Outer, path, ["inner.rate=1e-3"])
    assert config == Outer("b", Inner(1e-3, (3,)))
    assert to_dict(config) == {"name": "b", "inner": {"rate": 1e-3, "sizes": [3]}}
    assert flatten(to_dict(config))["inner.rate"] == 1e-3


def test_unknown_keys_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'inner.rat', did you mean 'rate'"):
        parse(Outer, {"inner": {"rat": 1}})
    assert suggest("zzz", ["alpha", "beta"]) == "; known: alpha, beta"


def test_wrong_values_name_key_and_value(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"inner.rate: .* got 'fast'"):
        parse(Outer, {"inner": {"rate": "fast"}})
    with pytest.raises(ValueError, match=r"inner: .* got 3"):
        parse(Outer, {"inner": 3})
    for values, sentence in (
        ({"inner": {"rate": True}}, "inner.rate: expected a number, got true"),
        ({"inner": {"sizes": [1, False]}}, "inner.sizes: .* got .1, false"),
        ({"name": True}, "name: expected .*str.*, got true"),
    ):
        with pytest.raises(ValueError, match=sentence):
            parse(Outer, values)
    with pytest.raises(ValueError, match="key=value"):
        parse_override("rate")
    with pytest.raises(ValueError, match="not a section"):
        load_config(Outer, None, ["name.x=1", "name=b", "name.y=2"])
    broken = tmp_path / "b.yaml"
    broken.write_text("a: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_config(Outer, broken)


def test_a_value_that_is_no_yaml_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"'a=\[': the value is no YAML: "):
        parse_override("a=[")
