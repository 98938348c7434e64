# Everything runs in .venv, which is made on first use from constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes that share the test files; 0: none but pytest's own.
WORKERS ?= 2
SPREAD = --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder
# Minutes of the fuzzing of all readers together.
MINUTES ?= 20
# Of the mutation run: parts to mutate, mutants of each (0: all).
MODULES ?= samplers,sde,chunks,loop,prior,work
N ?= 12

export RAY_USAGE_STATS_ENABLED = 0
export MLFLOW_DISABLE_TELEMETRY = true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION = false
export NO_MKDOCS_2_WARNING = 1

.PHONY: install test test-all lint page docs docs-serve demo tour bench gpu bench-peers mutants fuzz clean

install: $(STAMP)

# The last step: from the folder above a clone, `import kdrift` would else find the clone in place of the package.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -c "import pathlib, sysconfig; \
	  pathlib.Path(sysconfig.get_path('purelib'), 'kdrift_source.pth').write_text('$(CURDIR)/platform\n$(CURDIR)/serve\n')"
	touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not slow" $(SPREAD)

test-all: lint
	$(BIN)/python -m pytest $(SPREAD)

# The page of the service, built into serve/kdrift_serve/page, which is committed; needs Node.js, nothing else does.
page:
	cd serve/page && npm ci --no-audit --no-fund && npm run build

docs: $(STAMP)
	$(BIN)/python -m mkdocs build --strict

docs-serve: $(STAMP)
	$(BIN)/python -m mkdocs serve --livereload --watch platform --watch serve

demo: $(STAMP)
	@$(BIN)/python -m benchmarks.demo

tour: $(STAMP)
	$(BIN)/python -m benchmarks.tour

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run

# Tests and figures of a GPU; without one they say so.
gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m benchmarks.bench_gpu

bench-peers: $(STAMP)
	$(BIN)/python -m benchmarks.peers_env

mutants: $(STAMP)
	$(BIN)/python -m benchmarks.mutants --modules $(MODULES) -n $(N)

fuzz: $(STAMP)
	$(BIN)/python -m benchmarks.fuzz --minutes $(MINUTES)

clean:
	rm -rf $(VENV) .env-bench build site *.egg-info platform/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
