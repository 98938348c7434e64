"""Make the environment in which kdrift's operators are measured beside other libraries: `.env-bench`.

It is kept apart because mrpro and deepinv require torchvision, whose wheels and requirements bring another
build of torch. Here torch comes first, in whichever build the package index gives, and everything after it
is installed without its requirements, by exact version.

    python -m benchmarks.peers_env
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ENVIRONMENT = Path(__file__).resolve().parents[1] / ".env-bench"

BASE = ["torch==2.13.0", "numpy==2.4.6", "sigpy==0.1.27"]
# mrpro and deepinv, and what importing mrpro.operators and deepinv.physics needs
PEERS = [
    "mrpro==0.261015",
    "deepinv==0.5.0",
    "torchvision==0.28.0",
    "torchnd==0.3.0",
    "torchmetrics==1.9.0",
    "lightning-utilities==0.15.3",
    "ptwt==0.1.9",
    "pytorch-finufft==0.1.0",
    "finufft==2.5.1",
    "cufinufft==2.5.1",
    "einops==0.8.2",
    "h5py==3.16.0",
    "ismrmrd==1.15.0",
    "xsdata==26.10",
    "nibabel==5.4.2",
    "importlib_resources==7.1.0",
    "pydicom==3.0.2",
    "pypulseq==1.5.0.post1",
    "coverage==7.17.3",
    "matplotlib==3.11.2",
    "contourpy==1.3.3",
    "cycler==0.12.1",
    "fonttools==4.68.0",
    "kiwisolver==1.5.1",
    "pyparsing==3.3.3",
    "python-dateutil==4.0.0",
    "tzdata==2026.6",
    "packaging==26.3",
    "pillow==13.0.0",
    "platformdirs==4.14.5",
    "natsort==8.4.0",
    "requests==2.34.2",
    "certifi==2026.10.18",
    "charset-normalizer==3.5.2",
    "idna==3.20",
    "urllib3==2.8.0",
]


def ensure(folder: Path = ENVIRONMENT) -> Path:
    """Make the environment unless it is there and current; return its Python."""
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = "\n".join([*BASE, *PEERS])
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *BASE], check=True)
    subprocess.run([*pip, "--no-deps", *PEERS], check=True)
    stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    print(ensure(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ENVIRONMENT))
