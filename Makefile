# Every verb works from a fresh clone: what it needs is installed and built first, once.
.DEFAULT_GOAL := help
# What is a user's own text goes by the environment, as it is: make would read $1 and $(shell …) in it, the shell `…`.
$(foreach name,ASK NAME ROW RECIPE STAGE GPU DATA BASE LENGTH TEMPLATE RETRY,$(eval override $(name) := $$(value $(name))))
export ASK NAME ROW RECIPE STAGE GPU DATA BASE LENGTH TEMPLATE RETRY
SHELL := /bin/bash
# Inside the image everything is installed, and nothing else is used.
INSIDE := $(wildcard /opt/toolchain/.cache/llama.cpp/stamp.json)
VENV := $(if $(INSIDE),/opt/venv,.venv)
export PATH := $(abspath $(VENV))/bin:$(PATH)
# The user's own copy of a tool must not shadow the locked one.
unexport PYTHONPATH
# Which lock is installed: cpu, or cuda on a machine with an NVIDIA GPU. Once installed it is kept until LOCK= says otherwise.
LOCK ?= $(or $(patsubst $(VENV)/installed-%,%,$(firstword $(wildcard $(VENV)/installed-*))),cpu)
# The Pythons that the locks are for. Or name one: make PYTHON=/path/to/python3.12 …
PYTHONS := 3.11 3.12
PYTHON ?= $(shell for p in $(PYTHONS:%=python%) python3; do \
  $$p -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] not in "$(PYTHONS)")' 2>/dev/null && { echo $$p; break; }; done)
PYTEST := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
ENVIRONMENT := $(if $(INSIDE),,$(VENV)/installed-$(LOCK))

.PHONY: help setup llama repro train test proof lint dag status verify accept show chat \
  ollama metrics experiments plots check doctor plan new pin use diff platform clean distclean image shell image.lock lock

help: ## list the verbs
	@awk -F':.*## ' '/^[a-z.-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(ENVIRONMENT) ## install the locked packages into .venv (LOCK=cuda on a GPU machine)

ifndef INSIDE
$(ENVIRONMENT): $(wildcard requirements/*)
	@requirements/environment.sh $(VENV) "$(PYTHON)" $(LOCK)
endif

llama: $(ENVIRONMENT) ## fill the llama.cpp submodule; build it, once, or take the build of the image that is here
	@python -m ingot llama

repro: $(ENVIRONMENT) ## build everything that is not up to date: data, model, GGUF, Modelfile, evaluation (RETRY=smaller)
	@python -m ingot repro $(if $(RETRY),--retry "$$RETRY")

train: $(ENVIRONMENT) ## the adapter stage and what it depends on
	@python -m ingot repro adapter $(if $(RETRY),--retry "$$RETRY")

test: llama lint ## the tests that take seconds each, ten minutes in all
	@$(PYTEST) -m "not proof and not docker and not gpu and not download" $(ARGS)

proof: llama ## the other tests: whole pipelines, every family, the image, GPUs, a real model (downloads 500 MB)
	@$(PYTEST) -m "proof or docker or gpu or download" $(ARGS)

lint: $(ENVIRONMENT) ## ruff: style and mistakes
	@ruff check . && ruff format --check .

dag: $(ENVIRONMENT) ## the stages: what each does, and whose outputs it takes
	@python -m ingot dag

status: $(ENVIRONMENT) ## which stages are out of date, and why
	@dvc status

verify: $(ENVIRONMENT) ## read all that stages have made, and hold it against dvc.lock
	@python -m ingot verify

accept: $(ENVIRONMENT) ## take a result as that of changed code: make accept STAGE=adapter (shows the change, asks)
	@test -n "$$STAGE" || { echo "name a stage: make accept STAGE=adapter"; exit 1; }
	@python -m ingot accept "$$STAGE"

show: $(ENVIRONMENT) ## one conversation as the model sees it: make show ROW=train:0
	@python -m ingot.mixing.show "$${ROW:-train:0}"

chat: $(ENVIRONMENT) ## talk to the built model, or ask once: make chat ASK="What is a bond?"
	@python -m ingot llama --library
	@python -m ingot.serving.chat_cli $(if $(ASK),"$$ASK")

ollama: $(ENVIRONMENT) ## register the model with an Ollama server, and compare: make ollama NAME=… OLLAMA_HOST=… CLI=1
	@python -m ingot ollama $(if $(NAME),--model "$$NAME") $(if $(CLI),--cli)

metrics: $(ENVIRONMENT) ## the figures of this build, with what the last commit had otherwise
	@python -m ingot metrics

experiments: $(ENVIRONMENT) ## what each of DVC's experiments changed, and its figures
	@python -m ingot experiments

plots: $(ENVIRONMENT) ## curves of the training and the ledger, as a page that needs no network
	@dvc plots show

check: $(ENVIRONMENT) ## validate params.yaml, both locks, llama.cpp and the disk, without running anything
	@python -m ingot check

doctor: $(ENVIRONMENT) ## what is missing on this machine, a line each, and what mends it
	@python -m ingot doctor

plan: $(ENVIRONMENT) ## disk, memory, time, cost, and whether it fits: make plan GPU=rtx3090 (FIT=1 writes what does)
	@python -m ingot plan $(if $(GPU),--gpu "$$GPU") $(if $(FIT),--fit)

new: $(ENVIRONMENT) ## a recipe for your data: make new DATA=chats.jsonl BASE=models/mine GPU=rtx3060 NAME=my-bot (SHOW=1)
	@test -n "$$DATA" || { echo "name files: make new DATA=chats.jsonl BASE=models/mine GPU=rtx3060"; exit 1; }
	@python -m ingot new $(if $(BASE),--base "$$BASE") $(if $(GPU),--gpu "$$GPU") $(if $(NAME),--name "$$NAME") \
	  $(if $(LENGTH),--length "$$LENGTH") $(if $(TEMPLATE),--template "$$TEMPLATE") $(if $(SHOW),--show) $(ARGS) -- "$$DATA"

pin: $(ENVIRONMENT) ## write the commits of unpinned repositories into params.yaml (asks the hub)
	@python -m ingot pin

use: $(ENVIRONMENT) ## put a recipe in place: make use RECIPE=recipes/qwen2.5-7b-kospi.yaml
	@test -n "$$RECIPE" || { echo "name a recipe: make use RECIPE=FILE; there are:"; ls recipes/*.yaml | grep -v defaults; exit 1; }
	@python -m ingot use -- "$$RECIPE"

diff: $(ENVIRONMENT) ## what of params.yaml is not as in recipes/defaults.yaml
	@python -m ingot diff

platform: llama ## write platform.lock: of this machine, what an adapter's bits depend on (here it is trained)
	@python -m ingot image --if-missing
	@python -m ingot platform

clean: ## remove what the stages made (DVC's cache keeps it: dvc checkout brings it back)
	@rm -rf build .cache/checkpoints

distclean: clean ## also the environment, the llama.cpp build and downloads
	@rm -rf $(VENV) .cache

image: $(ENVIRONMENT) ## build the image that stages are sealed in, try it out and tag it
	@python -m ingot image

shell: $(ENVIRONMENT) ## a shell inside the image, with this folder in it
	@python -m ingot shell

image.lock: $(ENVIRONMENT) ## write image.lock after a change of Dockerfile, requirements or llama.cpp
	@python -m ingot lock-image

lock: $(ENVIRONMENT) ## resolve pyproject.toml anew into requirements/*.txt (needs uv)
	@python requirements/lock.py && python -m ingot lock-image
