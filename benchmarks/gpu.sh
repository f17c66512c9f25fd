#!/usr/bin/env bash
# Measures on a machine that has an accelerator, Python, JAX and NumPy, and cannot fetch anything.
#
#     benchmarks/gpu.sh --download WHEELS [PYTHON_VERSION]    # beforehand, where packages are
#     benchmarks/gpu.sh WHEELS RESULTS.json                   # there
set -euo pipefail
cd "$(dirname "$0")/.."

# What `benchmarks.gpu` needs besides JAX, NumPy, h5py, absl-py, ml-dtypes and SentencePiece.
needed=(keras==3.15.1 namex==0.1.0 optree==0.20.0 rich==15.0.0 markdown-it-py mdurl pygments typer shellingham)

if [[ $1 == --download ]]; then
  python3 -m pip download -q --no-deps --only-binary=:all: --implementation cp \
    --python-version "${3:-3.12}" --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest "$2" "${needed[@]}"
  python3 -m pip wheel -q --no-deps --wheel-dir "$2" .
  exit
fi

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" "$1"/*.whl
export PYTHONPATH="$site:$PWD" KERAS_BACKEND=jax PYTHONUNBUFFERED=1
python3 -m benchmarks.gpu --results "$2" "${@:3}"
