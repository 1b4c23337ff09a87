# What stages run in. `make image` builds the target that params.yaml needs, tries it out and tags it:
#   cuda (default)  for an NVIDIA GPU
#   cpu             without one; the demo's hashes are made with it
# By hand: docker build --target cpu --build-arg KIND=cpu --build-arg LLAMA_COMMIT=… .
#
# One base and one recipe for both. CUDA's compiler and libraries are wheels, checked by hash, and the libraries are those
# that torch brings anyway: so there is no vendor's image, whose tags vanish, and no second copy of CUDA.
#
# The base of 2026-07-13, pinned by digest (amd64: 63a496b5d3b99214b39f5ed70eb71a61e590a77979c79cbee4faf991f8c0783e) and
# replaceable by a mirror's: BASE=… make image.
ARG BASE=debian:bookworm-slim@sha256:7b140f374b289a7c2befc338f42ebe6441b7ea838a042bbd5acbfca6ec875818
ARG KIND=cuda

# ---- The system and the Python environment, which both the build and the result stand on.
FROM ${BASE} AS python

# A compiler (for llama.cpp, and for Triton when it trains on a GPU), Python with its headers; git and make for those who
# work inside. Debian's images name, in a comment, the snapshot of the archive that they were made from: packages come from
# there, so the base's digest pins them too. A snapshot's index is older than apt likes, hence Check-Valid-Until.
RUN grep -q '^# http' /etc/apt/sources.list.d/debian.sources \
 || { echo "this base names no snapshot of Debian's archive: take Debian's own image, or a mirror's copy of it"; exit 1; }
RUN sed -i -e '/^URIs:/d' -e 's/^# \(http\)/URIs: \1/' /etc/apt/sources.list.d/debian.sources \
 && apt-get -o Acquire::Check-Valid-Until=false update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      build-essential ca-certificates git python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/* /var/log/*

# In a venv, for the distribution's own Python refuses packages; checked by hash, wherever pip gets them from.
ARG KIND
WORKDIR /opt/toolchain
COPY requirements/ requirements/
ENV PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv && PIP_NO_CACHE_DIR=1 requirements/install.sh ${KIND}

# ---- llama.cpp and our renderers, by the same code and options as on a host; nvcc, Go and the object files stay behind. Git's data
# stays outside, so the commit is given: the host has checked the submodule against it. No more of our code than the build
# imports: a change of any file here builds llama.cpp anew.
FROM python AS llama
ARG KIND
RUN if [ "${KIND}" = cuda ]; then PIP_NO_CACHE_DIR=1 requirements/install.sh toolkit; fi
COPY ingot/__init__.py ingot/
COPY ingot/console/__init__.py ingot/console/bounds.py ingot/console/messages.py ingot/console/
COPY ingot/exact/__init__.py ingot/exact/files.py ingot/exact/
COPY ingot/sealing/__init__.py ingot/sealing/llama_build.py ingot/sealing/llama_source.py ingot/sealing/
COPY ingot/chat/renderers ingot/chat/renderers
COPY llama.cpp/ llama.cpp/
ARG LLAMA_COMMIT
RUN test -n "${LLAMA_COMMIT}" && python -c "from ingot.sealing import llama_build; llama_build.build('${LLAMA_COMMIT}')" \
 && find .cache/llama.cpp -mindepth 1 -maxdepth 1 ! -name bin ! -name stamp.json -exec rm -r {} +

# ---- What stages run in: the environment, llama.cpp's libraries and programs, its converter and vocabularies.
FROM python AS runtime
COPY --from=llama /opt/toolchain/.cache/llama.cpp .cache/llama.cpp
COPY llama.cpp/LICENSE llama.cpp/convert_hf_to_gguf.py llama.cpp/
COPY llama.cpp/conversion llama.cpp/conversion
COPY llama.cpp/gguf-py llama.cpp/gguf-py
COPY llama.cpp/models llama.cpp/models
# llama-cpp-python, on that build.
COPY ingot/__init__.py ingot/
COPY ingot/console/__init__.py ingot/console/bounds.py ingot/console/messages.py ingot/console/
COPY ingot/exact/__init__.py ingot/exact/files.py ingot/exact/
COPY ingot/sealing/__init__.py ingot/sealing/llama_build.py ingot/sealing/llama_source.py ingot/sealing/
RUN PIP_NO_CACHE_DIR=1 python -c "from ingot.sealing import llama_build; llama_build.install_bindings()"

# Inside, a stage runs directly. Its other pins are set by the stage itself, in every way that it can be started. The
# NVIDIA variables ask the container toolkit for the driver; without it they mean nothing.
ENV INGOT_LLAMA_SOURCE=/opt/toolchain/llama.cpp \
    INGOT_LLAMA_BUILD=/opt/toolchain/.cache/llama.cpp \
    INGOT_RUNTIME=host \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8 TZ=UTC

# Nobody needs root to run a stage; the runner gives the caller's user instead of this one.
RUN useradd --create-home ingot && mkdir /ingot && chown ingot /ingot
USER ingot
WORKDIR /ingot
ARG KIND
ARG BASE
ARG RECIPE
LABEL org.opencontainers.image.title=ingot org.opencontainers.image.description="Ingot's stages" \
      org.opencontainers.image.licenses=MIT org.opencontainers.image.base.name=${BASE} \
      org.ingot.recipe=${RECIPE} org.ingot.kind=${KIND}
# For the record of each run.
ENV INGOT_RECIPE=${RECIPE} INGOT_BASE=${BASE}

# ---- The classic builder builds every stage above the one asked for, so what a target holds is KIND's business.
FROM runtime AS cpu
FROM runtime AS cuda
