"""What a client asks for: the options of a request over HTTP, as JSON or YAML, or the name of a preset."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from kdrift.runs.hint import one_line, suggest
from kdrift_serve.job_request import doubled, from_query
from kdrift_serve.mrd.messages import Refused
from kdrift_serve.problems import Problem

KINDS = ("mean", "std", "lower", "upper")
"""The images that there are of a slice, in the order in which they are sent."""
DEFAULT = "default"
SCAN_NAME = "mrd.h5"
"""What a scan is called at the service, where its options give it no name."""
LONGEST_QUERY = 12 << 10
"""Bytes: all headers of a request have 16 KiB."""
_PRESET = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Asked:
    """The options of a scan."""

    query: str
    """Those of the HTTP request, as its query."""
    images: tuple[str, ...] | None
    """Which of `KINDS` are sent; None: mean and, of a method that samples, standard deviation."""


def read_options(text: str, where: str = "the configuration") -> Asked:
    """Return what a configuration asks for; an empty one asks for the defaults.

    Besides the options of a request there is `images`, a list of `KINDS`. Raises `Refused` for what is neither JSON nor
    YAML, keys that there are not or are there twice, and values that cannot be.
    """
    values = _mapping(text.strip(), where)
    images = values.pop("images", None)
    if images is not None:
        if not isinstance(images, list) or not images or not set(map(str, images)) <= set(KINDS):
            raise Refused(f"{where}: images is {_shown(images)}, expected a list of {', '.join(KINDS)}")
        images = tuple(kind for kind in KINDS if kind in images)
    for key in ("path", "example"):
        if key in values:
            raise Refused(f"{where}: {key} is given, though the data are what is sent: leave it out")
    output = values.get("output", "h5")
    values |= {
        "name": values.get("name", SCAN_NAME),
        "output": f"{output},ismrmrd" if isinstance(output, str) else output,
    }
    try:
        items = [(str(key), json.dumps(value)) for key, value in values.items()]
        from_query(items)
    except (TypeError, RecursionError):
        raise Refused(f"{where} holds what JSON cannot hold, such as a date") from None
    except Problem as problem:
        raise Refused(f"{where}: {problem.detail}") from None
    query = urlencode(items)
    if len(query) > LONGEST_QUERY:
        raise Refused(f"{where} is too long: {len(query)} bytes as the query of a request, at most {LONGEST_QUERY}")
    return Asked(query, images)


def read_preset(name: str, folder: str | None) -> Asked:
    """Return what the preset of a name asks for; `default` needs no file.

    A suffix as of `default.xml`, which Gadgetron's clients send, means nothing. Raises `Refused` for an unknown name.
    """
    stem = re.sub(r"\.(xml|yaml|yml|json)$", "", name.strip()) or DEFAULT
    there = sorted(path.stem for path in Path(folder).expanduser().glob("*.yaml")) if folder is not None else []
    if stem in there and _PRESET.fullmatch(stem) and folder is not None:
        return read_options((Path(folder).expanduser() / f"{stem}.yaml").read_text(), f"preset {stem}")
    if stem == DEFAULT:
        return read_options("")
    raise Refused(f"there is no preset {stem[:80]!r}{suggest(stem, [*there, DEFAULT])}")


def _mapping(text: str, where: str) -> dict[str, Any]:
    if text.startswith("<"):
        raise Refused(f"{where} is XML, as a Gadgetron takes it: expected JSON or YAML, such as {{plan: {{seed: 1}}}}")
    try:
        if text.startswith("{"):
            try:
                found = json.loads(text, object_pairs_hook=_once)
            except json.JSONDecodeError:  # a flow mapping of YAML, perhaps
                found = yaml.load(text, _Strict)
        else:
            found = yaml.load(text, _Strict) if text else {}
    except yaml.YAMLError as error:
        raise Refused(f"{where} is neither JSON nor YAML: {one_line(error)[:200]}") from None
    except RecursionError:
        raise Refused(f"{where} is nested too deeply") from None
    except ValueError as error:
        raise Refused(f"{where}: {one_line(error)[:200]}") from None
    if not isinstance(found, dict):
        raise Refused(f"{where} is {_shown(found)}, expected keys and values, such as {{plan: {{seed: 1}}}}")
    return found


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    twice = doubled(key for key, _ in pairs)
    if twice is not None:
        raise ValueError(f"{twice!r} is given twice")
    return dict(pairs)


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) < 60 else f"{repr(value)[:60]}..."


class _Strict(yaml.SafeLoader):
    """YAML without aliases, which make much of little, and without keys that come twice; 1e-3 is a number."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name): write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        try:
            return _once(
                [(self.construct_object(key, True), self.construct_object(value, True)) for key, value in node.value]
            )
        except TypeError:
            raise yaml.YAMLError("a key is a list or a mapping: expected words") from None


_Strict.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
