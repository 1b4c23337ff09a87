#!/bin/sh
# llama_on_cuda.sh SOURCE: build llama.cpp with CUDA, by the machine's own compiler and for the GPU that is in it. Its
# libraries and programs take the place of those in .cache/llama.cpp, whose stamp then says what is there. For benchmarks
# alone: the image builds with locked wheels. Where a compiler links libstdc++ statically its names are hidden:
# numpy brings the system's, and llama.cpp seems to die of the two (benchmarks/README.md).
set -eu
source=$1 build=${2:-/tmp/llama-cuda}
options=$(python3 -c 'from ingot.sealing.llama_build import CUDA_OPTIONS, OPTIONS; print(*OPTIONS, *CUDA_OPTIONS)')
cmake -S "$source" -B "$build" -G Ninja $options -DCMAKE_CUDA_ARCHITECTURES=native '-DCMAKE_BUILD_RPATH=$ORIGIN' \
  '-DCMAKE_SHARED_LINKER_FLAGS=-Wl,--exclude-libs,ALL'
cmake --build "$build" --target llama llama-quantize llama-imatrix
cp -a --remove-destination "$build"/bin/. .cache/llama.cpp/bin/
python3 - <<'P'
from ingot.exact.files import write_json
from ingot.sealing.llama_build import BUILD, stamped, used
stamp = BUILD / "stamp.json"
write_json(stamp, stamped(stamp) | {"files": used()})
P
