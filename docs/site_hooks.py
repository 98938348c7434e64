"""What the site adds to its pages: the modules of a room, files of the repository, the notice of the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = {"kdrift": REPOSITORY / "platform", "kdrift_serve": REPOSITORY / "serve"}
ROOM = re.compile(r"^\{\{ room: ([\w.]+) \}\}$", re.MULTILINE)
INCLUDE = re.compile(r"^\{\{ include: (\w+\.md) \}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `{{ room: PACKAGE }}` by the reference of its modules, `{{ include: FILE.md }}` and `{{ notice }}`."""
    markdown = INCLUDE.sub(lambda found: included(found[1]), markdown)
    return ROOM.sub(lambda found: reference(found[1]), markdown).replace("{{ notice }}", notice())


def included(name: str) -> str:
    """Return a page of the repository's root as it reads from docs/project."""
    text = (REPOSITORY / name).read_text().replace("](docs/", "](../")
    return re.sub(r"\]\(([A-Z]+\.md)", lambda found: f"]({found[1].lower()}", text)


def reference(package: str) -> str:
    """Return the directives of all modules of a package, its own first."""
    return "\n\n".join(f"::: {module}" for module in modules(package))


def modules(package: str) -> list[str]:
    """Return the dotted names of a package and of all public modules below it."""
    root = ROOTS[package.partition(".")[0]]
    folder = root / package.replace(".", "/")
    if not folder.is_dir():
        raise ValueError(f"no room {package}: {folder.relative_to(REPOSITORY)} is not there")
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not any(part.startswith("_") and part != "__init__" for part in parts):
            found.append(name)
    return sorted(found)


def notice() -> str:
    """Return the sentence of `kdrift.notice`, read without importing the package."""
    tree = ast.parse((ROOTS["kdrift"] / "kdrift" / "notice.py").read_text())
    values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    return str(ast.literal_eval(values[0]))
