"""Damaged files of every format, for minutes: each reader in a process of its own, watched for crash, hang and memory.

A file is read, or is a `BadVolume`; anything else is a finding, and the file that did it is kept. Run
`python -m benchmarks.fuzz [--minutes 20] [--keep FOLDER]` from the repository's root (`make fuzz`).
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HANG_S = 30
"""A read that takes longer hangs."""
MEMORY_BYTES = 1 << 30
"""More than this above what the process had at its start is too much for a file of 10 MB."""
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def main() -> int:
    """Run all readers; return status 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="time of all readers together")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="where files with findings go")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))
    from formats_helpers import VALID

    findings = 0
    print(f"seed {options.seed}\n\n| reader | files | read | refused | most MiB | longest s | findings |")
    print("|---|---|---|---|---|---|---|")
    for number, name in enumerate(VALID):
        seconds = 60 * options.minutes / len(VALID)
        row = _watch(name, seconds, [options.seed, number], options.keep)
        findings += row["findings"]
        print("| " + " | ".join(str(row[key]) for key in row) + " |", flush=True)
    return int(findings > 0)


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a damaged copy: cut, bits flipped, a number replaced by an extreme one, a run copied, removed or made."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if not data:
            break
        place = int(rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 2048)))
        length = int(rng.integers(1, 256))
        kind = rng.integers(0, 6)
        if kind == 0:
            del data[place:]
        elif kind == 1:
            data[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            width, order = int(rng.choice([1, 2, 4, 8])), "little" if rng.random() < 0.7 else "big"
            number = int(NUMBERS[int(rng.integers(len(NUMBERS)))]) & ((1 << 8 * width) - 1)
            data[place : place + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
        elif kind == 3:
            source = int(rng.integers(0, len(data)))
            data[place : place + length] = data[source : source + length]
        elif kind == 4:
            del data[place : place + length]
        else:
            data[place:place] = rng.bytes(length)
    return bytes(data)


def _watch(name: str, seconds: float, seed: list[int], keep: Path) -> dict[str, Any]:
    """Fuzz one reader in processes; one that crashes, hangs or grows is a finding, and another goes on."""
    total = {"reader": name, "files": 0, "read": 0, "refused": 0, "most": 0, "longest": 0.0, "findings": 0}
    context, deadline = multiprocessing.get_context("spawn"), time.monotonic() + seconds
    while time.monotonic() < deadline and total["findings"] < 10:
        with tempfile.TemporaryDirectory(prefix="kdrift-fuzz-") as folder:
            state = context.Array("d", 6)  # files, read, refused, MiB, longest, when the file was begun
            arguments = (name, folder, deadline, [*seed, int(total["files"])], state)
            process = context.Process(target=_fuzz, args=arguments)
            process.start()
            reason = ""
            while process.is_alive() and not reason:
                process.join(0.5)
                if state[5] and time.monotonic() - state[5] > HANG_S:
                    reason = f"hangs for {HANG_S} s"
                elif state[3] > MEMORY_BYTES >> 20:
                    reason = f"takes {state[3]:.0f} MiB"
            if process.is_alive():
                process.kill()
            process.join()
            total["files"] += int(state[0])
            total["read"] += int(state[1])
            total["refused"] += int(state[2])
            total["most"] = max(total["most"], int(state[3]))
            total["longest"] = round(max(float(total["longest"]), state[4]), 1)
            if reason or process.exitcode:
                total["findings"] += 1
                place = keep / f"{name}-{total['files']}"
                shutil.copytree(folder, place, dirs_exist_ok=True)
                print(f"finding: {name} {reason or f'ends with status {process.exitcode}'}: {place}", file=sys.stderr)
    return total


def _fuzz(name: str, folder: str, deadline: float, seed: list[int], state: Any) -> None:
    """Damage and read files until the deadline; whatever but a `BadVolume` ends the process."""
    from formats_helpers import VALID
    from kdrift.data.formats import BadVolume
    from test_formats_fuzz import read_everything

    rng, work = np.random.default_rng(seed), Path(folder)
    valid = VALID[name](work)
    parts = sorted(path for path in work.iterdir() if path.is_file())
    contents = [part.read_bytes() for part in parts]
    read_everything(valid)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while time.monotonic() < deadline:
        which = int(rng.integers(0, len(parts)))
        for index, (part, content) in enumerate(zip(parts, contents, strict=True)):
            part.write_bytes(mutate(content, rng) if index == which else content)
        started = state[5] = time.monotonic()
        state[0] += 1
        with contextlib.suppress(BadVolume), open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
            state[2] += 1
            read_everything(valid)
            state[1] += 1
            state[2] -= 1
        state[4] = max(state[4], time.monotonic() - started)
        state[3] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if state[3] > MEMORY_BYTES >> 20:
            os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
