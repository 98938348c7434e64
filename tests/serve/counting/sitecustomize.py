"""Writes a line to the file `$KDRIFT_CALLS` for each call of what a job should do once; every process loads it."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

COUNTED = {"kdrift.recon.plan": "Plan.resolve", "kdrift.recon.acquisition": "load_acquisition"}


def counted(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with open(os.environ["KDRIFT_CALLS"], "a") as file:
            file.write(f"{name}\n")
        return call(*args, **kwargs)

    return wrapper


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of `COUNTED` as they are, and wraps what is counted when they have run."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname not in COUNTED:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_wrap(module: ModuleType) -> None:
                run(module)
                *parents, name = COUNTED[fullname].split(".")
                owner = functools.reduce(getattr, parents, module)
                setattr(owner, name, counted(getattr(owner, name), name))

            spec.loader.exec_module = run_and_wrap  # type: ignore[method-assign]
        return spec


if "KDRIFT_CALLS" in os.environ:
    sys.meta_path.insert(0, Finder())
