"""Docstrings of platform/ and serve/: Markdown, numpydoc sections, a literal under what it documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted(path for root in ("platform", "serve") for path in (REPOSITORY / root).rglob("*.py"))
IDS = [str(path.relative_to(REPOSITORY)) for path in FILES]
FAULTS = {
    r"\AOf ": 'begins with "Of": say what it is',
    r"(?<!`)``(?!`)": "has double backticks: Markdown has single ones",
    r":(?:func|class|meth|mod|attr|param|returns?)\b[^`]*`": "has a Sphinx role: a name in backticks is enough",
    r"^ *(?:Args|Keyword Args):$": "has Google sections: numpydoc's are underlined",
}
PARAMETERS = re.compile(r"^( *)Parameters\n *-+\n(.*?)(?:\n *\w+\n *---|\Z)", re.MULTILINE | re.DOTALL)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string literal that stands alone, whatever it documents."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def faults(source: str) -> list[str]:
    """Return what is wrong with the docstrings of a file, with their lines."""
    found = [f"line {n}: #: comments, put the text under it" for n in comments(source)]
    for line, text in docstrings(source):
        found += [f"line {line}: {why}" for pattern, why in FAULTS.items() if re.search(pattern, text, re.MULTILINE)]
        if not text.strip()[:1].strip():
            found.append(f"line {line}: is empty")
        for indent, section in PARAMETERS.findall(text):
            names = re.findall(rf"^{indent}(\S.*)$", section, re.MULTILINE)
            wrong = [name for name in names if not re.fullmatch(r"\w+(, \w+)*", name)]
            found += [f"line {line}: {name!r} is no name of a parameter; its text goes below it" for name in wrong]
    return found


def comments(source: str) -> list[int]:
    """Return the lines with a comment that documents what follows it."""
    return [number for number, line in enumerate(source.splitlines(), 1) if re.match(r" *#:", line)]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_docstrings_are_of_one_dialect(path: Path) -> None:
    assert not faults(path.read_text())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('"""Of the base."""', "begins with"),
        ('x = 1\n"""Of x."""', "begins with"),
        ("#: samples seen\nx = 1", "#: comments"),
        ('def f():\n    """Return ``x``."""', "double backticks"),
        ('def f():\n    """See :func:`g`."""', "Sphinx role"),
        ('def f(x):\n    """Do.\n\n    Args:\n        x: what\n    """', "Google"),
        ('def f(x):\n    """Do.\n\n    Parameters\n    ----------\n    x : what\n    """', "no name of a parameter"),
        (
            'def f(x):\n    """Do.\n\n    Parameters\n    ----------\n    x\n        What.\n\n    Raises X.\n    """',
            "no name",
        ),
    ],
)
def test_what_is_wrong_is_seen(source: str, said: str) -> None:
    (found,) = faults(source)
    assert said in found
