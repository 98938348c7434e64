"""The documentation site: it builds strictly, knows every page and module, and loads nothing from other hosts."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import kdrift
from kdrift.notice import RESEARCH_ONLY

REPOSITORY = Path(__file__).resolve().parents[2]
LOADING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """What a page loads by itself; links to follow are not meant."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get(LOADING.get(tag, ""))
        if target and dict(attrs).get("rel") != "canonical":
            self.found.append(target)


@pytest.mark.slow
def test_nothing_comes_from_other_hosts(site: Path) -> None:
    outside = re.compile(r"^(?:https?:)?//")
    for page in site.rglob("*.html"):
        parser = Loaded()
        parser.feed(page.read_text())
        assert parser.found, page
        assert [target for target in parser.found if outside.match(target)] == [], page
        assert "mermaid" not in page.read_text(), "the theme would fetch it"
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", sheet.read_text()) == [], sheet


@pytest.mark.slow
def test_every_module_is_in_the_reference(site: Path) -> None:
    spec = importlib.util.spec_from_file_location("site_hooks", REPOSITORY / "docs" / "site_hooks.py")
    assert spec
    assert spec.loader
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    pages = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    rooms = [path.name for path in (REPOSITORY / "platform" / "kdrift").iterdir() if (path / "__init__.py").is_file()]
    for room in (*(f"kdrift.{name}" for name in rooms if name not in ("commands", "configs")), "kdrift_serve"):
        for module in hooks.modules(room):
            assert f'id="{module}"' in pages, f"{module} is in no page of docs/reference"


@pytest.mark.slow
def test_the_pages_say_what_kdrift_is_for(site: Path) -> None:
    assert RESEARCH_ONLY in (site / "index.html").read_text()
    assert RESEARCH_ONLY.rstrip(".") in (REPOSITORY / "README.md").read_text()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == kdrift.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
