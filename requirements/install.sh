#!/bin/sh
# install.sh cpu|cuda: install the locked packages, checked by hash, with the first python on the path.
# install.sh any-cpu: cpu, or where PyTorch's CPU build cannot be had the default index's build. Never in the image, whose
# recipe says what is in it.
# install.sh toolkit: add nvcc to cuda's, by which llama.cpp is built with CUDA.
set -eu
here=$(dirname "$0")
install() {
  lock=$1; shift
  python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r "$here/$lock.txt" "$@"
}
if [ "$1" = toolkit ]; then install nvcc; exit; fi
install "${1#any-}"
if [ "$1" = cpu ]; then install torch-cpu; fi
if [ "$1" = any-cpu ] && ! install torch-cpu; then
  echo "PyTorch's CPU build cannot be had (pip's message stands above); it lies on PyTorch's own CPU index, which pip sees"
  echo "through PIP_EXTRA_INDEX_URL. Taking the default index's build instead, with the CUDA libraries that it loads (GBs)."
  install torch-cuda
fi
# What llama.cpp's converter pins otherwise than we do, in a folder that only the converter is shown.
install converter --upgrade --target "$(python -c 'import sys; print(sys.prefix)')/converter"
