"""How tidy the house is, counted: `python -m benchmarks.house [CHECKOUT ...]` prints a column for each checkout.

Counts what git tracks in `platform` and `serve`; an older checkout beside this one gives before and after.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

MOST_PARAMETERS = 8
ASKS = re.compile(r"by_coil|independent_coils|smaps\.ndim|smaps is None")
ATOMIC = ("replace", "rename", "mkstemp", "mkdtemp")


def sources(checkout: Path) -> dict[str, str]:
    """Return the tracked Python files of platform and serve with their text."""
    listed = subprocess.run(
        ["git", "ls-files", "platform/*.py", "serve/*.py"], cwd=checkout, capture_output=True, text=True, check=True
    )
    return {name: (checkout / name).read_text() for name in listed.stdout.split()}


def in_root(files: dict[str, str]) -> int:
    return sum(re.fullmatch(r"platform/kdrift/[^/]+\.py", name) is not None for name in files)


def code_lines(files: dict[str, str]) -> int:
    """Lines with code: neither blank, nor comment, nor docstring."""
    count = 0
    for text in files.values():
        tree = ast.parse(text)
        prose: set[int] = set()
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        lines = enumerate(text.splitlines(), 1)
        count += sum(bool(line.strip()) and not line.strip().startswith("#") and n not in prose for n, line in lines)
    return count


def all_lines(files: dict[str, str]) -> int:
    return sum(len(text.splitlines()) for text in files.values())


def long_signatures(files: dict[str, str]) -> list[str]:
    """Functions with more parameters than a reader holds."""
    found = []
    for name, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len([a for a in arguments if a.arg not in ("self", "cls")]) > MOST_PARAMETERS:
                    found.append(f"{name}: {node.name}")
    return found


def asking_places(files: dict[str, str]) -> int:
    """Lines that ask what a chain or a map set is."""
    return sum(bool(ASKS.search(line)) for text in files.values() for line in text.splitlines())


def atomic_callers(files: dict[str, str]) -> list[str]:
    """Calls of what files are written atomically with, outside of the module that does it."""
    return [
        f"{name}:{node.lineno}"
        for name, text in files.items()
        if not name.endswith("runs/files.py")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and _moves_a_file(node)
    ]


def _moves_a_file(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in ATOMIC:
        return False
    owner = call.func.value
    if isinstance(owner, ast.Name) and owner.id in ("os", "tempfile"):
        return True
    return call.func.attr in ("replace", "rename") and len(call.args) == 1 and not call.keywords  # a Path's


def same_names(files: dict[str, str]) -> Iterator[str]:
    """Names that several modules have, but for packages, entry points and the command of a job's name."""
    stems: dict[str, list[str]] = {}
    for name in files:
        if "/commands/" not in name and not Path(name).stem.startswith("__"):
            stems.setdefault(Path(name).stem, []).append(name)
    yield from (stem for stem, places in stems.items() if len(places) > 1)


COUNTS: dict[str, Callable[[dict[str, str]], int]] = {
    "files in the package root": in_root,
    "lines of platform and serve": all_lines,
    "lines of code of these": code_lines,
    f"functions with more than {MOST_PARAMETERS} parameters": lambda files: len(long_signatures(files)),
    "places that ask what a chain or a map set is": asking_places,
    "callers of atomic writing outside of its module": lambda files: len(atomic_callers(files)),
    "names that several modules have": lambda files: len(list(same_names(files))),
    "files of more than 300 lines": lambda files: sum(len(text.splitlines()) > 300 for text in files.values()),
}


def main() -> None:
    checkouts = [Path(argument) for argument in sys.argv[1:]] or [Path(__file__).resolve().parents[1]]
    counted = [sources(checkout) for checkout in checkouts]
    for what, count in COUNTS.items():
        print(f"{what:<52}" + "".join(f"{count(files):>10}" for files in counted))
    for name in (*long_signatures(counted[-1]), *atomic_callers(counted[-1])):
        print(f"  {name}")


if __name__ == "__main__":
    main()
