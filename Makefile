# make demo    the whole pipeline on the data set in the repository, offline; then the comparison
# make test    the tests that need no whole pipeline (make test-all: those too; make lint, make locked: the rest of .ci/run)
# Both make the environment first: .venv, from requirements.lock. See "Environment" in README.md for GPUs and CPU-only torch.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
TORCH ?= locked
BIN := $(VENV)/bin
# One process for each core (tests/conftest.py gives each one thread). For a debugger: make test SIDE_BY_SIDE=
SIDE_BY_SIDE ?= --numprocesses=auto --dist=worksteal
READY := $(VENV)/.ready-$(TORCH)
UV := $(BIN)/uv pip
export PATH := $(abspath $(BIN)):$(PATH)
# No tool of the pipeline reports home.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false

.PHONY: demo test test-all lint locked environment lock dependencies plots-page docs storage serve clean
.DEFAULT_GOAL := demo

demo: $(READY)
	dvc repro
	@echo; cat reports/compare.md
	@echo; echo "The report: $(CURDIR)/reports/index.html"

test: $(READY)
	python -m pytest -m "not slow" $(SIDE_BY_SIDE)

# The slow ones start many processes and wait for them: one after the other.
test-all: test
	python -m pytest -m slow

lint: $(READY)
	ruff check .
	ruff format --check .
	mypy

locked: $(READY)  ## whether `dvc repro` would have nothing to do in a fresh clone of the commit
	.ci/locked

environment: $(READY)

# pip brings uv, uv brings the rest: hashes are checked, and bytecode is compiled once, which halves the start of every stage.
$(VENV)/.ready-locked: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)"
	$(UV) sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	touch $@

# The same versions with the CPU build of torch, a tenth of the size: needs the index of torch's CPU builds, so no hashes.
$(VENV)/.ready-cpu: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)"
	sed -n 's/^\([A-Za-z0-9._-]*==[^ ]*\( ; .*[^\\ ]\)\?\) *\\$$/\1/p' requirements.lock | grep -vE '^(nvidia|cuda|triton)' > $(VENV)/versions.txt
	$(UV) install --quiet --python $(BIN)/python --torch-backend cpu --compile-bytecode --constraints $(VENV)/versions.txt --group dev -r pyproject.toml
	touch $@

lock:
	$(UV) compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --group dev pyproject.toml -o requirements.lock

dependencies: $(READY)  ## the code that every stage of dvc.yaml depends on, as the imports have it
	python -m tests.support.dependencies

plots-page: $(READY)  ## the page that `dvc plots` fills, with vega of the environment's version inside
	python -m tests.support.plots_page

docs: $(READY)  ## what is generated of the documentation: docs/parameters.md, and the rows of README.md
	python -m tests.support.parameter_tables
	python -m tests.support.first_page

storage: $(READY)  ## a SeaweedFS S3 server on loopback, with generated credentials and the bucket, until Ctrl-C (PORT=8333)
	python -m services.object_store $(if $(PORT),--port $(PORT))

serve: $(READY)  ## a Prefect server, worker and the schedules on loopback, until Ctrl-C (PORT=4200)
	python -m services.prefect_server $(if $(PORT),--port $(PORT))

clean:
	rm -rf $(VENV) .checkpoints .pytest_cache .mypy_cache .ruff_cache
