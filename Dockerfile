# What stages run in, two targets of one recipe. `make image` builds the one that params.yaml needs, tries it out and tags it:
#   cuda (default)  for an NVIDIA GPU
#   cpu             without one; the demo's hashes are made with it
# Base images are pinned by digest and replaceable by a mirror's (BASE=… make image): vendors delete old tags.
ARG CPU_BASE=debian:bookworm-slim@sha256:96e378d7e6531ac9a15ad505478fcc2e69f371b10f5cdf87857c4b8188404716
ARG CUDA_BASE=nvidia/cuda:13.0.0-devel-ubuntu24.04@sha256:1e8ac7a54c184a1af8ef2167f28fa98281892a835c981ebcddb1fad04bdd452d

# ---- cpu. It comes first, for the classic builder builds every target above the one asked for.
FROM ${CPU_BASE} AS cpu

# A compiler for llama.cpp, Python with its headers; git and make for those who work inside.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      build-essential ca-certificates git python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

# In a venv, for the distribution's own Python refuses packages; checked by hash, wherever pip gets them from.
WORKDIR /opt/toolchain
COPY requirements/ requirements/
ENV PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv && PIP_NO_CACHE_DIR=1 requirements/install.sh cpu

# llama.cpp by the same code and options as on a host. Git's data stays outside, so the commit is given: the host has
# checked the submodule against it. What it is built from is kept, for the converter is among it.
COPY ingot/artifact.py ingot/__init__.py ingot/
COPY ingot/outside/toolchain.py ingot/outside/__init__.py ingot/outside/
COPY llama.cpp/ llama.cpp/
ARG LLAMA_COMMIT
RUN test -n "${LLAMA_COMMIT}" \
 && python -c "from ingot.outside import toolchain; toolchain.build('${LLAMA_COMMIT}'); toolchain.install_bindings()"

# Inside, a stage runs directly. Its other pins are set by the stage itself, in every way that it can be started.
ENV INGOT_LLAMA_SOURCE=/opt/toolchain/llama.cpp \
    INGOT_LLAMA_BUILD=/opt/toolchain/.cache/llama.cpp \
    INGOT_RUNTIME=host \
    PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8 TZ=UTC

# Nobody needs root to run a stage; the runner gives the caller's user instead of this one.
RUN useradd --create-home ingot && mkdir /ingot && chown ingot /ingot
USER ingot
WORKDIR /ingot
ARG RECIPE
LABEL org.opencontainers.image.title=ingot org.opencontainers.image.description="Ingot's stages, CPU" \
      org.opencontainers.image.licenses=MIT org.ingot.recipe=${RECIPE}

# ---- cuda: the same steps on another base and lock. torch's wheels carry the CUDA libraries that training needs.
FROM ${CUDA_BASE} AS cuda

RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      build-essential ca-certificates git python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/toolchain
COPY requirements/ requirements/
ENV PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv && PIP_NO_CACHE_DIR=1 requirements/install.sh cuda

COPY ingot/artifact.py ingot/__init__.py ingot/
COPY ingot/outside/toolchain.py ingot/outside/__init__.py ingot/outside/
COPY llama.cpp/ llama.cpp/
ARG LLAMA_COMMIT
RUN test -n "${LLAMA_COMMIT}" \
 && python -c "from ingot.outside import toolchain; toolchain.build('${LLAMA_COMMIT}'); toolchain.install_bindings()"

ENV INGOT_LLAMA_SOURCE=/opt/toolchain/llama.cpp \
    INGOT_LLAMA_BUILD=/opt/toolchain/.cache/llama.cpp \
    INGOT_RUNTIME=host \
    PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8 TZ=UTC

RUN useradd --create-home ingot && mkdir /ingot && chown ingot /ingot
USER ingot
WORKDIR /ingot
ARG RECIPE
LABEL org.opencontainers.image.title=ingot org.opencontainers.image.description="Ingot's stages, CUDA" \
      org.opencontainers.image.licenses=MIT org.ingot.recipe=${RECIPE}
