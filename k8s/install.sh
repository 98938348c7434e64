#!/bin/sh
# Install kdrift, in the exact versions of constraints.txt, into the environment whose python is first on PATH.
# From the root of the repository: `k8s/install.sh dependencies`, then `k8s/install.sh package [WHEEL]`.
#   TORCH        what torch has to be: cpu (default) or cuda
#   TORCH_INDEX  a further index with the builds of torch for it (default: the one that pip knows)
# The image is built with these two steps (k8s/Dockerfile), and tests/k8s/test_k8s_image.py runs them.
set -eu
EXTRAS=nifti,dicom,s3,onnx,mlflow-server

case "${1:-}" in
dependencies)
    pin=$(grep '^torch==' constraints.txt)
    # a build with a local version, such as 2.13.0+cpu, wins over the plain one
    python -m pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$pin"
    python - "${TORCH:-cpu}" <<'PYTHON'
import sys
import torch
found = "cuda" if torch.version.cuda else "cpu"
if found != sys.argv[1]:
    sys.exit(f"torch {torch.__version__} is a {found} build and TORCH={sys.argv[1]} was asked for: "
             "set TORCH_INDEX to the index of that build, as pytorch.org names it")
PYTHON
    python - "$EXTRAS" <<'PYTHON' | python -m pip install --constraint constraints.txt --requirement /dev/stdin
import sys
import tomllib
with open("pyproject.toml", "rb") as stream:
    project = tomllib.load(stream)["project"]
groups = [project["optional-dependencies"][extra] for extra in sys.argv[1].split(",")]
print(*project["dependencies"], *sum(groups, []), sep="\n")
PYTHON
    ;;
package)
    python -m pip install --no-deps "${2:-.}"
    python -m pip check
    kdrift --version
    ;;
*)
    echo "usage: k8s/install.sh dependencies | package [WHEEL]" >&2
    exit 2
    ;;
esac
