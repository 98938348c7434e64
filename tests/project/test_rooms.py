"""The house: no room knows the rooms above it, names mean one thing, files and signatures stay short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks import house

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "platform" / "kdrift"
ROOMS = (
    "runs", "mri", "measures", "networks", "sde", "prior", "methods", "trust", "data", "recon", "training", "tuning",
    "evaluation", "commands",
)  # fmt: skip
"""Lowest first."""
ANYWHERE = ("notice", "__version__")
"""What every room may take from the root of the package."""
MOST_LINES = 320
LONG_SIGNATURES = {
    "platform/kdrift/methods/samplers/smrd.py: tuned_step",
    "platform/kdrift/mri/coils.py: espirit_maps",
    "platform/kdrift/recon/front_door.py: reconstruct",
    "platform/kdrift/recon/panel.py: panel_figure",
    "platform/kdrift/recon/reconstruct.py: reconstruct",
    "platform/kdrift/training/loop.py: fit",
}
"""Functions of more than eight parameters; the list only gets shorter."""


def imported(file: Path) -> Iterator[tuple[str, int]]:
    """What a file takes from kdrift, as `room` or name in the root, and the line; imports in functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "kdrift":
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdrift."):
            yield str(node.module).split(".")[1], node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("kdrift."):
                    yield alias.name.split(".")[1], node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports name their module in full"


def test_every_room_is_in_the_order() -> None:
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert found == set(ROOMS)
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    assert f"`{'` < `'.join(ROOMS)}`" in " ".join(page.split())


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_know_those_below_them(room: str) -> None:
    below = {*ROOMS[: ROOMS.index(room) + 1], *ANYWHERE}
    wrong = [
        f"{file.relative_to(REPOSITORY)}:{line} imports {name}"
        for file in sorted((PACKAGE / room).rglob("*.py"))
        for name, line in imported(file)
        if name not in below and not (room == "commands" and name == "cli")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_library_knows_nothing_of_the_service_but_for_its_command() -> None:
    for file in PACKAGE.rglob("*.py"):
        if "kdrift_serve" in file.read_text():
            assert file.relative_to(PACKAGE).as_posix() in ("commands/serve.py",), file


def test_few_files_lie_in_the_root() -> None:
    assert house.in_root(house.sources(REPOSITORY)) <= 8


def test_a_name_means_one_thing() -> None:
    assert sorted(house.same_names(house.sources(REPOSITORY))) == []


def test_files_are_short() -> None:
    long = {name: len(text.splitlines()) for name, text in house.sources(REPOSITORY).items()}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


def test_signatures_are_short() -> None:
    assert set(house.long_signatures(house.sources(REPOSITORY))) == LONG_SIGNATURES


def test_chains_are_asked_for_in_few_places() -> None:
    assert house.asking_places(house.sources(REPOSITORY)) <= 8


def test_tests_mirror_the_tree() -> None:
    folders = {path.name for path in (REPOSITORY / "tests").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders - {*ROOMS, "serve", "k8s", "project"} == {"__pycache__"} & folders
    stems = [path.stem for path in (REPOSITORY / "tests").rglob("*.py")]
    assert len(stems) == len(set(stems)), "two test files of one name: pytest imports one of them for both"


def test_the_table_of_rooms_names_what_there_is() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"^\| \[?`(\w+)`", page, re.MULTILINE))
    assert named == {*ROOMS, "serve"}
