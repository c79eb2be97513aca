# `make study` and `make test` are all that a fresh machine needs: Python 3.11 to 3.13, make and a C++ compiler, no root.
# uv comes from tools.lock, all else from requirements.lock, Open MPI included; Horovod is compiled as pyproject.toml says.

# The first Python that will do. Each candidate is run: pyenv puts commands on PATH that only say what is missing.
IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if $$python -c '$(IS_SUPPORTED)' 2> /dev/null; then command -v $$python; break; fi; done)
UV ?= .tools/bin/uv

# `module load` sets it on many clusters, and what it names would shadow the pinned packages.
unexport PYTHONPATH
# The Python is the one that was asked for, or none.
export UV_PYTHON_DOWNLOADS := never

.PHONY: help env study test bench bench-peers lint lock nccl gloo audit gpu-check clean
.DEFAULT_GOAL := help

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

env: .venv/complete ## Set up .venv; a few minutes the first time, nothing after that. [PYTHON=..., UV=...]

study: env ## Run or resume a study, the demo by default. [ARGS="--config study/configs/X.toml"]
	.venv/bin/python study/run.py $(ARGS)

test: lint ## Check the style, then run all tests. [ARGS="tests/storage -x"]
	.venv/bin/python -m pytest --numprocesses 2 $(ARGS)

bench: env ## Print the table of docs/benchmarks.md for this machine.
	.venv/bin/python -m tests.bench $(ARGS)

bench-peers: env .venv-peers/complete ## Measure the same trials under Optuna and Ray Tune, Ray in an environment of its own.
	.venv/bin/python -m tests.bench.peers --ray .venv-peers/bin/python $(ARGS)

lint: env ## Check style, types and the direction of imports.
	.venv/bin/ruff check --quiet .
	.venv/bin/ruff format --quiet --check .
	.venv/bin/mypy --no-error-summary
	.venv/bin/lint-imports --no-logo

# uv.lock stays out of git: it names the hosts of registries. With it, versions move only as far as pyproject.toml asks.
lock: | $(UV) ## Pin anew what pyproject.toml asks for, here and in environment.yml. [ARGS=--upgrade]
	$(UV) lock --python "$(PYTHON)" $(ARGS)
	$(UV) export --quiet --no-emit-project --no-annotate --no-header --output-file requirements.lock
	$(UV) export --quiet --no-emit-project --no-annotate --no-header --output-file tools.lock --only-group tools
	$(MAKE) env
	.venv/bin/python -m tests.architecture.conda_environment

nccl: | $(UV) ## Set up .venv-nccl with TensorFlow for GPUs and NCCL; needs nvcc and 7 GB, no GPU. [PYTHON=..., CUDA_HOME=...]
	PYTHON="$(PYTHON)" UV="$(UV)" .ci/build-horovod nccl

gloo: | $(UV) ## Set up .venv-gloo with a Horovod that has Gloo beside MPI, to measure them; nothing to train with. [PYTHON=...]
	PYTHON="$(PYTHON)" UV="$(UV)" .ci/build-horovod gloo

audit: .venv-audit/complete ## Look whether a training step has kernels for GPUs throughout; needs 2 GB, no GPU. [ARGS="--json FILE"]
	.venv-audit/bin/python -m trainers.audit $(ARGS)

# With the environment that studies on GPUs are started with, once `make nccl` has set it up.
WITH_NCCL := $(wildcard .venv-nccl/bin/python)
gpu-check: $(if $(WITH_NCCL),,env) ## Measure what a site does with a training step, in ten minutes, and what a study costs. [ARGS="--site NAME"]
	$(or $(WITH_NCCL),.venv/bin/python) study/gpu_check.py $(ARGS)

clean: ## Remove the environment and all caches; keep runs/.
	rm -rf .venv .venv-nccl .venv-gloo .venv-peers .venv-audit .tools .tools.part .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Both at once, before anything is downloaded. The compilers are those that CMake looks for.
define require_python_and_compiler
	@"$(PYTHON)" -c '$(IS_SUPPORTED)' 2> /dev/null || { \
		echo 'error: no Python 3.11, 3.12 or 3.13 (PYTHON="$(PYTHON)"); name one: make env PYTHON=/path/to/python3.11' >&2; \
		exit 1; }
	@for compiler in "$$CXX" c++ g++ clang++; do command -v "$$compiler" > /dev/null && exit; done; \
		echo 'error: no C++ compiler, and Horovod is compiled here; install g++, `module load` one or set CXX' >&2; \
		exit 1
endef

# Made aside and renamed, so that an interrupted set-up leaves no half-written uv behind.
.tools/bin/uv: tools.lock
	$(require_python_and_compiler)
	rm -rf .tools .tools.part
	"$(PYTHON)" -m venv .tools.part
	.tools.part/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement tools.lock
	mv .tools.part .tools

# The last step makes the target: whatever interrupts the others, the next call goes on with them.
.venv/complete: requirements.lock tools.lock pyproject.toml | $(UV)
	$(require_python_and_compiler)
	@.venv/bin/python -c '' 2> /dev/null || $(UV) venv --quiet --clear --python "$(PYTHON)" .venv
	$(UV) pip sync --python .venv/bin/python --require-hashes \
		--build-constraints requirements.lock --build-constraints tools.lock requirements.lock
	@touch $@

.venv-peers/complete: tests/bench/peers/requirements.txt | $(UV)
	$(UV) venv --quiet --clear --python "$(PYTHON)" .venv-peers
	$(UV) pip install --quiet --python .venv-peers/bin/python --requirement $<
	@touch $@

# TensorFlow's build for GPUs without NVIDIA's libraries: it names its kernels without them.
.venv-audit/complete: requirements.lock | $(UV)
	$(UV) venv --quiet --clear --python "$(PYTHON)" .venv-audit
	$(UV) pip install --quiet --python .venv-audit/bin/python --constraint requirements.lock \
		"tensorflow==$$(sed -nE 's/^tensorflow-cpu==([^ ]+).*/\1/p' requirements.lock)" filelock pillow pydantic rich
	@touch $@
