#!/usr/bin/env bash
# A Python with PyTorch, transformers, PEFT and bitsandbytes on a CPU, for tools/golden: install_oracle.sh DIR
#
# PyPI's torch for x86-64 is linked against CUDA's libraries, which are gigabytes nobody needs to multiply on a CPU. They
# are left out (--no-deps) and tools/cuda_stand_ins.py puts an empty library in the place of each.
# About 640 MB to download, 1.8 GB on disk. Needs Python 3.11 or newer, gcc and binutils.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: tools/install_oracle.sh DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$1/bin/pip" ] || python3 -m venv "$1"
"$1/bin/pip" install --disable-pip-version-check --no-deps -r "$here/requirements-oracle.txt"
"$1/bin/python" "$here/cuda_stand_ins.py"
"$1/bin/python" -c 'import torch, transformers, peft, bitsandbytes; print("torch", torch.__version__, torch.ones(2) @ torch.ones(2))'
