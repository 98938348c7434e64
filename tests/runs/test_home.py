"""Outputs at URLs: the working folder and its mirror, one writer, a server that goes away, other machines."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdrift.runs import home, lease, mirror
from kdrift.runs import remote as remote_module
from kdrift.runs.home import at_home, working_folder
from kdrift.runs.remote import Remote, is_url
from s3_helpers import Server


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def silent(line: str) -> None:
    raise AssertionError(line)


def write(folder: Path, **contents: str) -> None:
    for name, content in contents.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".{path.name}-x").write_text(content)
        path.with_name(f".{path.name}-x").replace(path)


def run_at(url: str, work: Callable[[Path], None], echo: Callable[[str], None] = silent) -> None:
    with at_home(url, what="run", echo=echo) as found:
        work(found.folder)


@pytest.mark.parametrize("path", ["s3://bucket/x", "gs://b", "memory://x", "abfs://c@a/x"])
def test_what_is_a_url(path: str) -> None:
    assert is_url(path)


@pytest.mark.parametrize("path", ["runs/x", "/s3:/x", "s3:x", "file:///tmp/x", Path("a://b")])
def test_what_is_none(path: str | Path) -> None:
    assert not is_url(path)


def test_a_path_is_worked_in_itself(tmp_path: Path) -> None:
    for out in (tmp_path / "x", str(tmp_path / "x"), f"file://{tmp_path}/x"):
        with at_home(out, what="run", echo=silent) as found:
            assert (found.folder, found.url, found.name) == (tmp_path / "x", None, str(tmp_path / "x"))
    with pytest.raises(ValueError, match="is an address"), at_home(Path("s3://b/x"), what="run", echo=silent):
        pass


def test_all_that_is_whole_arrives_and_the_working_folder_goes(server: Server, url: str) -> None:
    with at_home(url, what="run", echo=silent) as found:
        write(found.folder, metrics="no suffix", a__b="1", a__metrics__json="2")
        (found.folder / ".a-0123456789ab").write_text("half")
        (found.folder / "ray").mkdir()
        (found.folder / "ray" / "x").write_text("of this machine")
        (found.folder / "log.jsonl").write_text('{"a": 1}\n{"b"')
        until(lambda: "a/b" in server.names(url))
        (found.folder / ".partial").mkdir()
        (found.folder / ".partial" / "1.npz").write_text("kept")
        assert found.shown(found.folder / "a") == f"{url}/a"
    assert server.shown(url) == [".partial/1.npz", "a/b", "a/metrics/json", "log.jsonl", "metrics"]
    assert server.read(f"{url}/log.jsonl") == b'{"a": 1}\n', "a line that is not whole is not sent"
    assert not (working_folder(url) / "files").exists()


def test_lines_and_errors_name_the_url(url: str) -> None:
    def failing(folder: Path) -> None:
        raise ValueError(f"{folder}/a cannot be")

    with pytest.raises(ValueError, match=f"^{url}/a cannot be"):
        run_at(url, failing)
    said: list[str] = []
    with at_home(url, what="run", echo=silent) as found:
        found.telling(said.append)(f"written: {found.folder}/a")
    assert said == [f"written: {url}/a"]


def test_what_is_deleted_here_is_deleted_there_and_nothing_else(server: Server, url: str) -> None:
    server.write(f"{url}/of-another", b"stays")
    with at_home(url, what="run", echo=silent) as found:
        assert not list(found.folder.iterdir()), "not a run: it is not fetched"
        write(found.folder, old="1", new="1")
        until(lambda: "new" in server.names(url))
        (found.folder / "old").unlink()
        until(lambda: "old" not in server.names(url))
        (found.folder / "new").unlink()
    assert server.shown(url) == ["of-another"]


def test_a_run_goes_on_on_another_machine(server: Server, url: str, elsewhere: Callable[[], None]) -> None:
    def failing(folder: Path) -> None:
        write(folder, checkpoint="1", **{"a__deep": "2"})
        raise KeyError

    with pytest.raises(KeyError):
        run_at(url, failing)
    here = working_folder(url) / "files"
    assert (here / "checkpoint").is_file(), "what failed goes on from the working folder"
    elsewhere()
    with at_home(url, what="run", echo=silent) as found:
        assert found.folder != here
        assert (found.folder / "checkpoint").read_text() == "1"
        assert (found.folder / "a/deep").read_text() == "2"
        write(found.folder, checkpoint="3")
        (found.folder / "a/deep").unlink()
    assert server.shown(url) == ["checkpoint"]
    assert server.read(f"{url}/checkpoint") == b"3"


def test_the_machine_before_takes_what_another_has_made_since(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[], None], tmp_path: Path
) -> None:
    with at_home(url, what="run", echo=silent, keep=True) as found:
        write(found.folder, log="1")
    elsewhere()
    with at_home(url, what="run", echo=silent) as found:
        write(found.folder, log="2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (working_folder(url) / "files" / "unsent").write_text("x")
    said: list[str] = []
    with at_home(url, what="run", echo=said.append) as found:
        assert (found.folder / "log").read_text() == "2"
        assert not (found.folder / "unsent").exists()
    assert len(said) == 1
    assert "has changed elsewhere" in said[0]
    assert [path.name for path in working_folder(url).glob("left-*/unsent")], "it is kept aside"


def test_a_voucher_comes_last_and_goes_first(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever instant a reader or a crash picks, a metrics.json there speaks for what is there."""
    calls: list[str] = []
    for name in ("write", "send", "delete"):
        now: Callable[..., None] = getattr(Remote, name)

        def noted(self: Remote, *words: object, name: str = name, done: Callable[..., None] = now) -> None:
            last = str(words[0] if name != "send" else words[1])
            if not last.startswith("."):
                calls.append(f"{name} {last}")
            done(self, *words)

        monkeypatch.setattr(Remote, name, noted)
    monkeypatch.setattr(mirror, "ROUND_S", 60.0)
    with at_home(url, what="run", echo=silent, keep=True) as found:
        write(found.folder, **{"v__metrics.json": "1", "v__reconstruction.h5": "1", "v__batch.json": "1"})
    assert calls == ["send v/reconstruction.h5", "write v/metrics.json", "write v/batch.json"]
    calls.clear()
    with at_home(url, what="run", echo=silent) as found:
        (found.folder / "v/batch.json").unlink()
        write(found.folder, **{"v__reconstruction.h5": "2", "v__metrics.json": "2"})
    assert calls == [
        "delete v/metrics.json", "delete v/batch.json", "send v/reconstruction.h5", "write v/metrics.json",
    ]  # fmt: skip


def test_a_voucher_waits_for_its_new_version(server: Server, url: str) -> None:
    """A result that has been replaced is not vouched for by the report on the one before."""
    with at_home(url, what="run", echo=silent) as found:
        write(found.folder, **{"v__reconstruction.h5": "1"})
        write(found.folder, **{"v__metrics.json": "1"})
        until(lambda: "v/metrics.json" in server.names(url))
        write(found.folder, **{"v__reconstruction.h5": "2"})
        until(lambda: server.read(f"{url}/v/reconstruction.h5") == b"2")
        time.sleep(0.3)
        assert "v/metrics.json" not in server.names(url)
        write(found.folder, **{"v__metrics.json": "2"})
        until(lambda: "v/metrics.json" in server.names(url))
        assert server.read(f"{url}/v/metrics.json") == b"2"


def test_a_database_arrives_before_what_names_its_runs(server: Server, url: str) -> None:
    with at_home(url, what="run", echo=silent) as found:
        with sqlite3.connect(found.folder / "mlflow.db") as database:
            database.execute("CREATE TABLE runs (artifact_uri TEXT)")
        database.close()
        write(found.folder, other="1")
        until(lambda: "other" in server.names(url))
        assert "mlflow.db" not in server.names(url), "MLflow may still be making its tables"
        write(found.folder, **{"run.json": "{}"})
        until(lambda: "run.json" in server.names(url))
        assert "mlflow.db" in server.names(url)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//x", ".x"])
def test_no_object_is_fetched_to_where_it_does_not_belong(name: str) -> None:
    assert not mirror.is_sent(name)


def test_two_writers_are_refused(url: str, elsewhere: Callable[[], None]) -> None:
    with at_home(url, what="run", echo=silent) as found:
        write(found.folder, log="1")
        with pytest.raises(ValueError, match=f"another batch on this machine is writing to {url}"):
            at_home(url, what="batch", echo=silent).__enter__()
        elsewhere()
        said: list[str] = []
        with pytest.raises(ValueError, match=rf"another batch is writing to {url}: .* on .*, process \d+; wait"):
            at_home(url, what="batch", echo=said.append).__enter__()
        assert len(said) == 1
        assert "is in use by" in said[0]


def test_a_lease_that_was_left_is_taken_over(
    server: Server, url: str, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with at_home(url, what="run", echo=silent, keep=True) as found:
        write(found.folder, log="1")
    left = {**server.read_json(f"{url}/{lease.LEASE}"), "open": True}  # as if it had been killed
    server.write(f"{url}/{lease.LEASE}", json.dumps(left).encode())
    elsewhere()
    said: list[str] = []
    with at_home(url, what="run", echo=said.append) as found:
        assert (found.folder / "log").read_text() == "1"
    assert len(said) == 2
    assert "has not been heard of" in said[1]
    server.write(f"{url}/{lease.LEASE}", json.dumps(left).encode())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with at_home(url, what="run", echo=silent):
        pass  # its own predecessor is gone, as the folder's lock says: nothing to wait for


@pytest.mark.parametrize("conditional", [True, False])
def test_of_two_who_find_a_place_free_one_gets_it(
    server: Server, url: str, conditional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has looked before the first wrote. A storage without conditions tells the first, who looks again."""
    if not conditional:
        monkeypatch.setattr(remote_module, "CONDITIONAL", frozenset())
    for before in (None, "an older lease"):
        if before is not None:
            server.write(f"{url}/{lease.LEASE}", json.dumps({"session": before, "open": False}).encode())
        said: list[str] = []
        first, second = (lease.Lease(Remote(url), token, said.append) for token in "ab")
        found = second._read()
        assert first.take("run") == before
        monkeypatch.setattr(second, "_read", lambda found=found: found)
        if conditional:
            with pytest.raises(ValueError, match=r"another run is writing to .*, process \d+; wait for it to end"):
                second.take("run")
            assert first.holds()
            first.release()
            assert not server.read_json(f"{url}/{lease.LEASE}")["open"]
        else:
            assert second.take("run") == before
            until(lambda first=first: first.lost)
            assert "has taken" in said[0]
            monkeypatch.undo()
            second.release()
            return


def test_a_server_that_knows_no_conditions_is_written_to_all_the_same(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    remote, tried = Remote(url), list[str]()

    def refusing(method: str, **words: object) -> None:
        tried.append(method)
        cause = ClientError({"Error": {"Code": "NotImplemented", "Message": "If-None-Match"}}, method)
        raise NotImplementedError("a header implies functionality that is not implemented") from cause

    monkeypatch.setattr(remote._files, "call_s3", refusing)
    assert not remote.write_if("x", b"1", "")
    assert (server.read(f"{url}/x"), tried) == (b"1", ["put_object"])


def test_who_has_lost_the_lease_sends_nothing_more(server: Server, url: str) -> None:
    said: list[str] = []

    def overtaken(folder: Path) -> None:
        server.write(f"{url}/{lease.LEASE}", json.dumps({"session": "other", "open": True, "who": "eve"}).encode())
        until(lambda: bool(said))
        write(folder, log="1")

    with pytest.raises(OSError, match="another run has taken it over"):
        run_at(url, overtaken, said.append)
    assert said == [f"note: eve has taken {url} over: nothing more is sent there"]
    assert server.shown(url) == []
    assert server.read_json(f"{url}/{lease.LEASE}")["session"] == "other"


def test_a_server_that_goes_away_stops_nothing(server: Server, url: str) -> None:
    said: list[str] = []
    with at_home(url, what="run", echo=said.append) as found:
        write(found.folder, before="1")
        until(lambda: "before" in server.names(url))
        server.stop()
        write(found.folder, during="2")
        until(lambda: bool(said))
        server.start()
        until(lambda: "during" in server.names(url))
    assert "does not take what is written" in said[0]
    assert "takes what is written again" in said[1]
    assert server.shown(url) == ["before", "during"]


def test_what_could_not_be_sent_is_kept_and_sent_later(server: Server, url: str) -> None:
    said: list[str] = []

    def outage(folder: Path) -> None:
        server.stop()
        write(folder, during="2")

    try:
        with pytest.raises(
            OSError, match=r"1 file\(s\) could not be sent to .*: during; they are kept in .*kdrift send"
        ):
            run_at(url, outage, said.append)
    finally:
        server.start()
    assert (working_folder(url) / "files" / "during").is_file()
    assert server.shown(url) == []
    with at_home(url, what="run", echo=silent):
        pass
    assert server.shown(url) == ["during"]


def test_a_folder_that_vanishes_is_not_taken_for_deleted(server: Server, url: str) -> None:
    import shutil

    def vanishing(folder: Path) -> None:
        write(folder, log="1")
        until(lambda: "log" in server.names(url))
        shutil.rmtree(folder)

    with pytest.raises(OSError, match="is gone"):
        run_at(url, vanishing, lambda line: None)
    assert server.shown(url) == ["log"]


def test_a_place_that_takes_nothing_is_named_at_once(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    del server
    with pytest.raises(ValueError, match=r"cannot write to s3://no-such-bucket/x: .* make it first"):
        at_home("s3://no-such-bucket/x", what="run", echo=silent).__enter__()
    with pytest.raises(ValueError, match="cannot write to nonsense://x: Protocol not known: nonsense"):
        at_home("nonsense://x", what="run", echo=silent).__enter__()
    monkeypatch.setattr(Remote, "read", lambda self, name: b"something else")
    with pytest.raises(ValueError, match="does not give back what was written"):
        at_home(url, what="run", echo=silent).__enter__()


def test_a_database_is_sent_between_two_transactions_and_names_the_new_folder(
    server: Server, url: str, elsewhere: Callable[[], None], tmp_path: Path
) -> None:
    with at_home(url, what="run", echo=silent, keep=True) as found:
        with sqlite3.connect(found.folder / "mlflow.db") as database:
            database.execute("CREATE TABLE runs (artifact_uri TEXT)")
            database.execute("INSERT INTO runs VALUES (?)", (f"{found.folder}/artifacts/1",))
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO runs VALUES ('half')")
        write(found.folder, **{"run.json": json.dumps({"tracking_uri": f"sqlite:///{found.folder}/mlflow.db"})})
        write(found.folder, **{"mlflow__1.jsonl": json.dumps({"path": f"{found.folder}/table.md"}) + "\n"})
        until(lambda: "mlflow.db" in server.names(url))
        (tmp_path / "copy.db").write_bytes(server.read(f"{url}/mlflow.db"))
        database.close()
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert len(copy.execute("SELECT * FROM runs").fetchall()) == 1
    copy.close()
    elsewhere()
    with at_home(url, what="run", echo=silent) as moved:
        assert moved.folder != found.folder
        with sqlite3.connect(moved.folder / "mlflow.db") as database:
            assert database.execute("SELECT * FROM runs").fetchall() == [(f"{moved.folder}/artifacts/1",)]
        database.close()
        assert json.loads((moved.folder / "run.json").read_text())["tracking_uri"].endswith(
            f"//{moved.folder}/mlflow.db"
        )
        assert json.loads((moved.folder / "mlflow/1.jsonl").read_text())["path"] == f"{moved.folder}/table.md"
    assert str(moved.folder) in server.read(f"{url}/run.json").decode()


def test_storage_without_whole_objects_gets_them_by_renaming(tmp_path: Path) -> None:
    import fsspec

    remote = Remote("memory://bucket/x")
    remote._files, remote._root, remote._protocol = fsspec.filesystem("file"), str(tmp_path / "far"), "sftp"
    seen: list[list[str]] = []
    done = remote._files.mv

    def noted(*words: str) -> None:
        seen.append(sorted(path.name for path in (tmp_path / "far" / "a").iterdir()))
        done(*words)

    remote._files.mv = noted
    try:
        remote.write("a/b", b"1")
        (tmp_path / "file").write_bytes(b"2")
        remote.send(tmp_path / "file", "a/c")
    finally:
        del remote._files.mv
    assert [len(names) for names in seen] == [1, 2]
    assert seen[0][0].startswith(".b-")
    assert remote.names() == {"a/b": 1, "a/c": 1}
    assert remote.read("a/c") == b"2"
    assert remote.read("a/d") is None
    assert home.Home(tmp_path).shown("x") == "x"
