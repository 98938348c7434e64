"""Files and folders appear whole or not at all, and no other module renames anything into place."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kdrift.cli import main
from kdrift.runs.files import (
    put_folder,
    read_json,
    refuse_address,
    whole_file,
    whole_folder,
    write_json,
    write_text,
    write_yaml,
)

ROOT = Path(__file__).resolve().parents[2]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_new_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "image.nii.gz"
    with whole_file(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(UnicodeEncodeError), whole_file(path) as temporary:
        temporary.write_text("half" * 10_000 + "\ud800")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_has_its_mode_whatever_its_writer_made(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for asked, got in ((0o644, 0o644), (0o600, 0o600), (0o666, 0o644)):
            with whole_file(tmp_path / "a", mode=asked) as temporary:
                temporary.unlink()
                os.close(os.open(temporary, os.O_CREAT, 0o777))
            assert mode(tmp_path / "a") == got
        os.umask(0o077)
        write_text(tmp_path / "b", "")
        assert mode(tmp_path / "b") == 0o600
    finally:
        os.umask(before)


def test_writers_at_once_leave_one_of_their_files(tmp_path: Path) -> None:
    texts = [f"{number} " * 20_000 for number in range(8)]
    threads = [threading.Thread(target=write_text, args=(tmp_path / "a.txt", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.txt").read_text() in texts
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_killed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"whole": 1})
    killed = (
        "import os, sys; from kdrift.runs.files import whole_file\n"
        "with whole_file(sys.argv[1]) as path: path.write_text('{'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", killed, tmp_path / "a.json"]).returncode == -9
    assert read_json(tmp_path / "a.json") == {"whole": 1}


def test_a_folder_is_new_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "prior"
    with whole_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("first")
        (temporary / "inner" / "file").chmod(0o600)
        assert not path.exists()
    assert mode(path / "inner") == mode(path)
    assert mode(path / "inner" / "file") == mode(path) & 0o666
    with pytest.raises(ValueError, match="prior exists already"), whole_folder(path):
        pass
    with pytest.raises(RuntimeError, match="stop"), whole_folder(path, replace=True) as temporary:
        raise RuntimeError("stop")
    assert (path / "inner" / "file").read_text() == "first"
    with whole_folder(path, replace=True) as temporary:
        (temporary / "file").write_text("second")
    assert (path / "file").read_text() == "second"
    assert list(path.iterdir()) == [path / "file"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_comes_back_where_the_new_one_cannot_be_put(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(FileNotFoundError):
        put_folder(tmp_path / "absent", tmp_path / "old", replace=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]


def test_yaml_keeps_its_order_and_json_is_read_back(tmp_path: Path) -> None:
    write_yaml(tmp_path / "a.yaml", {"b": 1, "a": [1, 2]})
    assert (tmp_path / "a.yaml").read_text() == "b: 1\na:\n- 1\n- 2\n"
    write_json(tmp_path / "a.json", {"b": None})
    assert read_json(tmp_path / "a.json") == {"b": None}
    assert read_json(tmp_path / "none.json") == {}


def renames(tree: ast.AST) -> list[int]:
    """Return the lines of a module that put a file or folder in its place."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, node.func.value
        of_path = len(node.args) == 1 and not node.keywords  # str.replace takes two, dataclasses.replace keywords
        replaces = name == "replace" and (of_path or (isinstance(owner, ast.Name) and owner.id == "os"))
        if replaces or name in ("rename", "renames", "move", "mkstemp", "NamedTemporaryFile"):
            found.append(node.lineno)
    return found


def test_no_other_module_writes_atomically() -> None:
    callers = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("platform", "serve", "jobs", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != ROOT / "platform/kdrift/runs/files.py"
        for line in renames(ast.parse(path.read_text()))
    ]
    assert callers == []
    own = ast.parse((ROOT / "platform/kdrift/runs/files.py").read_text())
    assert len(renames(own)) == 6, "the test sees what it looks for"


@pytest.mark.parametrize("path", ["s3://bucket/x", "gs:/bucket/x", "/tmp/s3:/bucket", Path("abfs://c@a/x")])
def test_an_address_is_no_folder(path: str | Path) -> None:
    with pytest.raises(ValueError, match=r"--out .* is an address; expected a folder"):
        refuse_address(path, "--out")


@pytest.mark.parametrize("path", ["runs/x", "/a:b/c", "s3:", "x.zarr", ".", ""])
def test_a_folder_is_no_address(path: str) -> None:
    refuse_address(path, "--out")


def test_no_verb_writes_into_a_folder_named_s3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    with contextlib.chdir(tmp_path / "here"):
        assert main(["config", "init", "train/tiny", "--out", "s3://bucket/x"]) == 1
        assert re.search(r"--out s3://?bucket/x is an address", capsys.readouterr().err)
        for words in (["reconstruct", "a.h5"], ["evaluate", "--config", "phantom"], ["train", "--config", "tiny"],
                      ["phantom"], ["simulate", "a.nii"], ["import-checkpoint", "a.pth"]):  # fmt: skip
            assert main([*words, "--out", "nonsense://bucket/x"]) in (1, 2)
        assert main(["evaluate", "--config", "phantom", "--set", "out=nonsense://bucket/x"]) in (1, 2)
        assert not list(Path().iterdir())
