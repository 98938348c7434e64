"""Mutation run: small faults are put into the code one at a time, and the fast tests of its room must fail.

    make mutants                          # a sample of every part
    make mutants MODULES=sde,chunks N=50  # so many mutants of each of these
    make mutants N=0                      # every mutant that is left: hours

Mutants are made in a copy of the tree under `build/mutants`, never in the tree itself. A part's list of mutants and
their results are one SQLite file there, so that a run that is stopped goes on where it was; they are made anew once a
file of the part or of its tests has changed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import parso  # noqa: F401  cosmic_ray fails to load its operators unless parso has been imported before
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkItem, WorkResult

REPOSITORY = Path(__file__).resolve().parents[1]
WORK = REPOSITORY / "build" / "mutants"
TEST_LIMIT_S, LIMIT_S = 120, 1800.0
"""Seconds that one test, and all tests of a mutant, may take; a mutant that takes longer is killed."""
SPARED = ("core/ExceptionReplacer", "core/RemoveDecorator")
"""Operators whose mutants cannot be run: an exception that does not exist, a dataclass that is none."""
EQUAL = ("_Is", "_IsNot")
"""Ends of operators that change nothing: small whole numbers and names are the same object where they are equal."""


@dataclass(frozen=True)
class Part:
    """Files to mutate and the tests that must notice."""

    files: tuple[str, ...]
    """Patterns below `platform/kdrift`."""
    tests: tuple[str, ...]
    """Below `tests`; those marked slow or ray are left out."""


PARTS = {
    "samplers": Part(("methods/samplers/*.py",), ("methods",)),
    "sde": Part(
        ("sde/*.py",),
        ("sde", "methods/test_solvers.py", "training/test_training.py", "training/test_training_complex.py"),
    ),
    "chunks": Part(("recon/chunks.py",), ("recon/test_chunks.py", "recon/test_guard.py")),
    "loop": Part(("training/loop.py",), ("training",)),
    "prior": Part(("prior/network_score.py", "prior/bundle.py"), ("prior",)),
    "work": Part(("evaluation/work.py",), ("evaluation",)),
}


def main() -> int:
    """Run the mutants that are asked for and print those that survive; status 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modules", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("-n", type=int, default=12, help="mutants of each part, 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    arguments = parser.parse_args()
    unknown = set(arguments.modules.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    tree = copy_of_the_tree()
    os.chdir(tree)
    os.environ["PYTHONPATH"] = os.pathsep.join(str(tree / part) for part in ("platform", "serve"))
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        found = [run_part(name, PARTS[name], arguments.n, arguments.seed) for name in arguments.modules.split(",")]
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    print("\n| part | mutants | tested | killed | survive |\n|---|---|---|---|---|")
    for row in found:
        print("| " + " | ".join(map(str, row)) + " |")
    return int(any(row[-1] for row in found))


def copy_of_the_tree() -> Path:
    """Copy what git knows or would add, so that mutants are never in the tree that is worked on."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    )  # fmt: skip
    tree = WORK / f"tree-{os.getpid()}"
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tree / name)
    return tree


def run_part(name: str, part: Part, count: int, seed: int) -> tuple[str, int, int, int, int]:
    """Return the part's name, and how many mutants there are, were tested, were killed and survive."""
    files = [file for pattern in part.files for file in sorted(Path("platform/kdrift").glob(pattern))]
    tests = [file for test in part.tests for file in _test_files(Path("tests") / test)]
    with use_db(str(WORK / f"{name}-{_digest([*files, *tests])}.sqlite")) as db:
        if not db.num_work_items:
            init(files, db, {})
            _drop(db)
        items = sorted(db.work_items, key=lambda item: _order(item, seed))[: count or None]
        results = dict(db.results)
        pending = [item for item in items if item.job_id not in results]
        if pending:
            _check(name, tests)
        for number, item in enumerate(pending, 1):
            began = time.monotonic()
            result = test_mutant(item, tests)
            db.set_result(item.job_id, result)
            outcome = result.test_outcome.value if result.test_outcome else result.worker_outcome.value
            seconds = time.monotonic() - began
            print(f"{name} {number}/{len(pending)} {outcome} {seconds:.0f} s {_place(item)}", flush=True)
            if result.test_outcome is TestOutcome.SURVIVED:
                print(result.diff, flush=True)
        results = dict(db.results)
        survivors = [item for item in items if results[item.job_id].test_outcome is TestOutcome.SURVIVED]
        print(f"\n{name}: {len(survivors)} of {len(items)} survive")
        for item in survivors:
            print(f"  {_place(item)}")
        return name, db.num_work_items, len(items), len(items) - len(survivors), len(survivors)


def test_mutant(item: WorkItem, tests: list[Path]) -> WorkResult:
    """Run the tests that name the mutated module, and where it survives them the others of its room."""
    module = ".".join(Path(item.mutations[0].module_path).relative_to("platform").with_suffix("").parts)
    near = [test for test in tests if module in test.read_text() or test.stem == "test_check_sampler"]
    far = [test for test in tests if test not in near]
    for chosen in filter(None, (near, far)):
        result = mutate_and_test(item.mutations, shlex.join(_command(chosen)), LIMIT_S)
        if result.test_outcome is not TestOutcome.SURVIVED:
            break
    return result


def _command(tests: list[Path]) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_LIMIT_S}"]
    return [*command, "-m", "not slow and not ray", *map(str, tests)]


def _test_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("test_*.py"))


def _check(name: str, tests: list[Path]) -> None:
    """Run the tests on the code as it is."""
    began = time.monotonic()
    done = subprocess.run(_command(tests), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: the tests fail without a mutant\n{done.stdout[-3000:]}")
    print(f"{name}: its tests take {time.monotonic() - began:.0f} s", flush=True)


def _drop(db: WorkDB) -> None:
    """Keep the mutants that change what is computed: none of annotations, decorators, messages, `SPARED` operators."""
    kept, nothing = [], {}
    for item in db.work_items:
        spec = item.mutations[0]
        spared = nothing.setdefault(spec.module_path, list(_spared(Path(spec.module_path).read_text())))
        inside = any(start <= tuple(spec.start_pos) and tuple(spec.end_pos) <= end for start, end in spared)
        if not inside and not spec.operator_name.startswith(SPARED) and not spec.operator_name.endswith(EQUAL):
            kept.append(item)
    db.clear()
    db.add_work_items(kept)


def _spared(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Positions of annotations, which nothing evaluates, of decorators (`frozen=True`), and of the errors raised."""
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr | None] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = [node.returns, *node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            parts = [*node.decorator_list]
        elif isinstance(node, ast.arg | ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.Raise):
            parts = [node.exc]
        for part in parts:
            if part is not None:
                yield (part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)


def _order(item: WorkItem, seed: int) -> float:
    spec = item.mutations[0]
    return random.Random(f"{seed} {_place(item)} {spec.occurrence}").random()


def _place(item: WorkItem) -> str:
    spec: MutationSpec = item.mutations[0]
    return f"{spec.module_path}:{spec.start_pos[0]} {spec.operator_name.removeprefix('core/')}"


def _digest(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
