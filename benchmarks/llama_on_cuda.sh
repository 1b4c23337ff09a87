#!/bin/sh
# llama_on_cuda.sh SOURCE: build llama.cpp with CUDA by the compiler that a bare machine has, for the GPU that is in it, and put
# it in the place of .cache/llama.cpp's libraries and programs; its stamp then says what is there. A benchmark's build: the
# image's comes from locked wheels.
set -eu
source=$1 build=${2:-/tmp/llama-cuda}
options=$(python3 -c 'from ingot.host.llama_build import CUDA_OPTIONS, OPTIONS; print(*OPTIONS, *CUDA_OPTIONS)')
cmake -S "$source" -B "$build" -G Ninja $options -DCMAKE_CUDA_ARCHITECTURES=native '-DCMAKE_BUILD_RPATH=$ORIGIN'
cmake --build "$build" --target llama llama-quantize llama-imatrix
cp -a "$build"/bin/. .cache/llama.cpp/bin/
python3 - <<'P'
from ingot.exact.files import write_json
from ingot.host.llama_build import BUILD, stamped, used
stamp = BUILD / "stamp.json"
write_json(stamp, stamped(stamp) | {"files": used()})
P
