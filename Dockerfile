# The image that stages run in: the locked Python environment, and llama.cpp built in. By default for an NVIDIA GPU:
#   docker build --build-arg LLAMA_COMMIT=$(git rev-parse :llama.cpp) -t ingot .
# and without one, from Debian's Python 3.11, whose hashes are the demo's:
#   docker build --build-arg BASE=debian:bookworm-slim --build-arg LOCK=cpu --build-arg LLAMA_COMMIT=… -t ingot:cpu .
# The base image is pinned by digest and replaceable by a mirror's: vendors delete old tags.
ARG BASE=nvidia/cuda:13.0.0-devel-ubuntu24.04@sha256:1e8ac7a54c184a1af8ef2167f28fa98281892a835c981ebcddb1fad04bdd452d
FROM ${BASE}
ARG LOCK=cuda

# A compiler for llama.cpp, and Python with its headers. torch's wheels carry the CUDA libraries.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      build-essential ca-certificates python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

# In a venv, for the distribution's own Python refuses packages; checked by hash, wherever pip gets them from.
WORKDIR /ingot
COPY requirements/ requirements/
ENV PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv && PIP_NO_CACHE_DIR=1 requirements/install.sh ${LOCK}

# llama.cpp by the same code and options as on a host. Git's data stays outside, so the commit is given: the host has
# checked the submodule against it.
COPY ingot/artifact.py ingot/__init__.py ingot/
COPY ingot/outside/toolchain.py ingot/outside/__init__.py ingot/outside/
COPY llama.cpp/ llama.cpp/
ARG LLAMA_COMMIT
RUN test -n "${LLAMA_COMMIT}" \
 && python -c "from ingot.outside import toolchain; toolchain.build('${LLAMA_COMMIT}'); toolchain.install_bindings()"
ENV INGOT_LLAMA_SOURCE=/ingot/llama.cpp INGOT_LLAMA_BUILD=/ingot/.cache/llama.cpp

# Stages come from the repository, mounted here; nobody needs root to run them.
RUN useradd --create-home ingot && mkdir /build && chown ingot /build
USER ingot
WORKDIR /build
