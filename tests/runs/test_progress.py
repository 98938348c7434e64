"""Progress in one format: live on a real terminal, plain lines elsewhere, none when quiet."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdrift.runs import progress as module
from kdrift.runs.progress import Meter, format_seconds, progress

PROGRAM = """
import sys, time
from kdrift.runs.progress import progress
with progress(8, "slices", quiet="quiet" in sys.argv) as meter:
    for done in range(1, 9):
        meter.update(done, note="loss 0.5")
        if done == 4:
            print("a line of the run", flush=True)
        time.sleep(0.1)
print("end", flush=True)
"""
LINE = r"8/8 slices  100\.0 %  [0-9.]+ slices/s  0:00:00 left  loss 0\.5"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


def test_the_line_says_count_rate_and_time_left(clock: Clock) -> None:
    meter = Meter(40, "slices", done=10)
    assert meter.line == "10/40 slices  25.0 %  0.0 slices/s"
    clock.now += 60
    meter.update(20)
    assert meter.line == "20/40 slices  50.0 %  10.0 slices/min  0:02:00 left"
    meter.update(20, fraction=0.75, note="best psnr 31.2")
    assert meter.line == "20/40 slices  50.0 %  10.0 slices/min  0:00:30 left  best psnr 31.2"
    meter = Meter(100, "images")
    meter.update(40, rate=2.0)
    assert meter.line == "40/100 images  40.0 %  2.0 images/s  0:00:30 left"
    clock.now += 60  # of another kind of work
    meter = Meter(0, "evaluations")
    clock.now += 600
    meter.begin()
    clock.now += 30
    meter.update(10, total=40)
    assert meter.line == "10/40 evaluations  25.0 %  20.0 evaluations/min  0:01:30 left"
    assert Meter(0, "slices").line == "0/0 slices  100.0 %  0.0 slices/s"
    assert [format_seconds(seconds) for seconds in (0, 61.4, 36_000)] == ["0:00:00", "0:01:01", "10:00:00"]


def test_plain_lines_come_now_and_then(clock: Clock) -> None:
    lines: list[str] = []
    with progress(100, "slices", echo=lines.append) as meter:
        for second in range(1, 80):
            clock.now += 1
            meter.update(second)
        meter.update(100)
    assert [int(line.partition("/")[0]) for line in lines] == [5, 35, 65, 100]
    with progress(4, "images", echo=lines.append) as meter:
        for done in (3, 4, 4, 4):  # it goes on with something else
            clock.now += 100
            meter.update(done)
    assert [line.partition(" ")[0] for line in lines[4:]] == ["3/4", "4/4"]
    lines.clear()
    with progress(2, "slices", quiet=True, echo=lines.append) as meter:
        meter.update(2)
    assert lines == []


def on_a_terminal(tmp_path: Path, stdout: bool, *arguments: str) -> tuple[str, str]:
    """Run the program with a terminal as standard error, and as standard output or not; return both texts."""
    leader, follower = pty.openpty()
    out = tmp_path / "stdout"
    with out.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=follower if stdout else file, stderr=follower, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )  # fmt: skip
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 65536):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(leader)
    assert process.wait(timeout=60) == 0
    return shown.decode(), out.read_text()


def test_a_terminal_shows_it_live(tmp_path: Path) -> None:
    shown, _ = on_a_terminal(tmp_path, True)
    assert re.search(LINE, shown)
    assert len(re.findall(r"\d/8 slices", shown)) >= 3
    assert shown.index("a line of the run") < shown.rindex("8/8 slices")
    assert "\x1b[" in shown
    assert "slices" not in on_a_terminal(tmp_path, True, "quiet")[0]


def test_what_a_run_prints_stays_on_standard_output(tmp_path: Path) -> None:
    shown, printed = on_a_terminal(tmp_path, False)
    assert re.search(LINE, shown)
    assert printed == "a line of the run\nend\n"


def test_without_a_terminal_there_is_one_plain_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert re.fullmatch(f"a line of the run\n{LINE}\nend\n", done.stdout)
    assert done.stderr == ""
