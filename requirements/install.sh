#!/bin/sh
# install.sh cpu|cuda: install the locked packages, checked by hash, with the first python on the path.
set -eu
here=$(dirname "$0")
install() {
  python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r "$here/$1"
}
install "$1.txt"
if [ "$1" = cpu ] && ! install torch-cpu.txt; then
  echo "PyTorch's CPU build cannot be had (pip's message stands above); it lies on PyTorch's own CPU index, which pip sees"
  echo "through PIP_EXTRA_INDEX_URL. Taking the default index's build instead, with the CUDA libraries that it loads (GBs)."
  install torch-cuda.txt
fi
