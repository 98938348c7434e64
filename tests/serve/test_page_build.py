"""The built page in the package is that of its sources, and small."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kdrift_serve.routes import PAGE

ROOT = Path(__file__).parents[2]
SOURCES, BUILT = ROOT / "serve" / "page", ROOT / "serve" / "kdrift_serve" / "page"
MOST_BYTES = 150_000


def test_the_page_is_whole_and_small() -> None:
    assert sorted(path.name for path in BUILT.iterdir()) == sorted(PAGE)
    assert sum(path.stat().st_size for path in BUILT.iterdir()) < MOST_BYTES
    page = (BUILT / "index.html").read_text()
    assert "{{ research only }}" in page
    assert not re.search(r"<script(?![^>]* src=)|<style|style=", page), "the page's own headers forbid it"


def test_packages_in_the_page_are_pinned_and_have_their_licences() -> None:
    wanted = json.loads((SOURCES / "package.json").read_text())
    locked = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    licences = (BUILT / "licences.txt").read_text()
    for kind in ("dependencies", "devDependencies"):
        for name, version in wanted[kind].items():
            assert locked[f"node_modules/{name}"]["version"] == version
    for name, version in wanted["dependencies"].items():
        assert f"{name} {version} (MIT)" in licences
    assert all("integrity" in each for name, each in locked.items() if name)


@pytest.mark.slow
def test_a_build_of_the_sources_is_what_is_committed(tmp_path: Path) -> None:
    npx = shutil.which("npx")
    if npx is None or not (SOURCES / "node_modules").is_dir():
        pytest.skip("needs Node.js and the packages of the page: make page")
    subprocess.run([npx, "tsc"], cwd=SOURCES, check=True, timeout=300)
    command = [npx, "vite", "build", "--outDir", str(tmp_path / "page"), "--emptyOutDir"]
    subprocess.run(command, cwd=SOURCES, check=True, timeout=300, capture_output=True)
    for path in sorted(BUILT.iterdir()):
        assert (tmp_path / "page" / path.name).read_bytes() == path.read_bytes(), f"{path.name}: run make page"
