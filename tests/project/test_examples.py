"""Examples of README and docs run: every block marked `<!-- run -->`, in the order of its page, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
MARKED = re.compile(r"^<!-- run -->\n```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN = [page for page in PAGES if MARKED.search(page.read_text())]


def programs(language: str, text: str) -> list[list[str]]:
    """Return what is run for a block: Python as it stands, or its `kdrift` commands one by one."""
    if language == "python":
        return [[sys.executable, "-c", text]]
    lines = [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]
    assert all(words[0] == "kdrift" for words in lines), f"only kdrift commands are run, got {text!r}"
    return [[sys.executable, "-m", *words] for words in lines]


AT_ONCE = ("README.md", "library.md")
"""The others take a minute each, and go by similar commands."""


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=() if page.name in AT_ONCE else pytest.mark.slow) for page in RUN]
)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    source = os.pathsep.join(str(REPOSITORY / folder) for folder in ("platform", "serve"))
    for language, text in MARKED.findall(page.read_text()):
        for program in programs(language, text):
            environment = {
                **os.environ,
                "PYTHONPATH": source,
                "OMP_NUM_THREADS": "1",
            }  # a busy machine waits for threads
            done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{page.name}: {text}\n{done.stderr}"


def test_the_first_steps_are_among_them() -> None:
    assert {"README.md", "getting_started.md", "reconstruct.md"} <= {page.name for page in RUN}
