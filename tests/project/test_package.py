"""The package as a whole: what importing it must not do."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "platform" / "kdrift"
FREE_OF_PLATFORM = ["mri", "measures", "trust", "sde", "networks", "methods", "methods.samplers", "methods.classical"]
HEAVY = {"ray", "mlflow", "zarr", "pydantic", "h5py", "matplotlib"}


def python(*arguments: str) -> str:
    """Run Python from the root of the repository, where `platform/` is in reach of `import platform`."""
    done = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_platform_is_a_folder_and_no_package() -> None:
    assert not (REPOSITORY / "platform" / "__init__.py").exists()


def test_the_wheel_has_every_package() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")}
    assert found - set(settings["packages"]) == set()


def test_the_standard_librarys_platform_wins() -> None:
    assert python("-c", "import platform; print(platform.machine())").strip()
    assert python("-m", "pytest", "--version")
    assert "usage" in python("-m", "kdrift", "--help").lower()


def modules(room: str) -> list[str]:
    return [f"{room}.{path.stem}" for path in sorted((PACKAGE / room.replace(".", "/")).glob("*.py"))]


def test_physics_and_samplers_import_no_platform() -> None:
    names = [
        "testing",
        *(name for room in FREE_OF_PLATFORM for name in modules(room) if name != "methods.presets"),
    ]  # presets are files
    imports = "; ".join(f"import kdrift.{name.removesuffix('.__init__')}" for name in names)
    code = f"{imports}; import sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    assert not HEAVY & set(python("-c", code).split())


def test_importing_the_package_does_no_work() -> None:
    loaded = python("-c", "import kdrift, kdrift.cli, sys; print(*sys.modules)").split()
    assert not ({"torch"} | HEAVY) & set(loaded)
