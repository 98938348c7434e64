"""Options of a command line from typed dataclasses: names, types, defaults and help come from their fields."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from cyclopts import Group, Parameter

from kdrift.runs.field_docs import field_docs

PLAIN = (str, int, float, bool, Path)
"""Types that an option of the command line can have, besides a choice of words."""


class Misuse(ValueError):
    """A command that says less, more or other than the verb can take; the exit status is 2."""


def signature_of(*classes: type) -> Callable[..., None]:
    """Return a function with the fields of dataclasses as its parameters, for cyclopts to read.

    Fields that are not `kw_only` are positional. What a field's docstring says is the help.
    """
    parameters = []
    for cls in classes:
        hints, docs = typing.get_type_hints(cls, include_extras=True), field_docs(cls)
        for each in dataclasses.fields(cls):
            default = _default(each)
            told = Parameter(help=_help(docs.get(each.name, "")), show_default=_is_shown(default))
            parameters.append(
                inspect.Parameter(
                    each.name,
                    inspect.Parameter.KEYWORD_ONLY if each.kw_only else inspect.Parameter.POSITIONAL_ONLY,
                    default=default,
                    annotation=Annotated[hints[each.name], told],
                )
            )

    def command(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("only its signature is used")

    parameters.sort(key=lambda parameter: parameter.kind)
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def options_of(
    cls: type,
    group: Group,
    *,
    names: Mapping[str, str] | None = None,
    choices: Mapping[str, Collection[str]] | None = None,
    free: Collection[str] = (),
    omit: Collection[str] = (),
    repeated: Collection[str] = (),
    negatives: Mapping[str, str] | None = None,
) -> Any:
    """Return a type of options with an option for each field of a dataclass, to be a field of a verb's `Options`.

    Its value is a mapping of the fields that were given to their values, so that all else is left to the dataclass.
    An option is called as its field, without `num_`; `names` says otherwise. A field with `choices` takes nothing else,
    unless it is `free`. A field whose type no option can have must be in `omit`; of a union of several types the first
    that an option can have is taken. Those of texts that are lists with commas are in `repeated`: they can be given
    several times, see `joined`. A field that is true, false or None has the options `--NAME` and `--not-NAME`, or what
    `negatives` says.
    """
    annotations: dict[str, Any] = {}
    hints, docs = typing.get_type_hints(cls), field_docs(cls)
    for each in dataclasses.fields(cls):
        if each.name in omit:
            continue
        name = (names or {}).get(each.name, each.name.removeprefix("num_")).replace("_", "-")
        default = _default(each)
        shown = f" [default: {default}]" if _is_shown(default) else ""
        known = (choices or {}).get(each.name)
        hint: Any = Literal[tuple(known)] if known else _option_type(hints[each.name], f"{cls.__name__}.{each.name}")
        hint = hint | str if each.name in free else hint
        negative = (negatives or {}).get(each.name, f"--not-{name}") if hint is bool and default is None else ()
        help_ = _help(docs.get(each.name, "")) + shown
        hint = tuple[str, ...] if each.name in repeated else hint
        told = Parameter(name=f"--{name}", negative=negative, help=help_, required=False)
        annotations[each.name] = Annotated[hint, told]
    made = TypedDict(f"{cls.__name__}Options", annotations, total=False)  # type: ignore[misc]
    return Annotated[made, Parameter(name="*", group=group)]


def joined(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the texts of those that were given several times joined by commas."""
    return {name: ",".join(value) if isinstance(value, tuple) else value for name, value in given.items()}


def refuse_beside_config(options: Any, allowed: Collection[str]) -> None:
    """Raise Misuse for options beside `--config`, `--set` and the fields `allowed`: one file says all of a run."""
    hints = typing.get_type_hints(type(options), include_extras=True)
    for each in dataclasses.fields(options):
        value, name, hint = getattr(options, each.name), each.name, hints[each.name]
        if name in ("config", "set", *allowed) or value == _default(each):
            continue
        if isinstance(value, Mapping):
            name = next(iter(value))
            hint = typing.get_type_hints(typing.get_args(hint)[0], include_extras=True)[name]
        written = _written(name, hint, keyword=each.kw_only is True)
        raise Misuse(f"--config says all of it: leave {written} out, or change the value with --set KEY=VALUE")


def _written(name: str, hint: Any, *, keyword: bool) -> str:
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, Parameter) and part.name:
            return str(next(iter(part.name)))
    return f"--{name.replace('_', '-')}" if keyword else name.upper()


def _help(text: str) -> str:
    """Return the docstring of a field as help: no value of a file or of Python can be written as an option."""
    return re.sub(r"\b(?:null|None): ", "default: ", text)


def _default(each: dataclasses.Field[Any]) -> Any:
    if each.default is not dataclasses.MISSING:
        return each.default
    if each.default_factory is not dataclasses.MISSING:
        return each.default_factory()
    return inspect.Parameter.empty


def _is_shown(default: Any) -> bool:
    empty = default in ((), {}, "") or default is None or default is False or default is inspect.Parameter.empty
    return not empty


def _option_type(hint: Any, where: str) -> Any:
    """Return the type of a field as that of an option: the first of a union that one can have."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    for kind in typing.get_args(hint) if union else (hint,):
        if kind in PLAIN or typing.get_origin(kind) is Literal:
            return kind
    raise TypeError(f"{where} is of type {hint}: no option can be, put it into omit")
