# Each target sets up all that it needs, on a machine that has only Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := cli,httpx,msgpack,nats,otel,progress,report

.PHONY: help demo test lint format docs bench bench-quick bench-guard simulate simulate-threads fuzz fuzz-long mutate soak wheel examples e2e \
	test-brokers pictures test-all clean

help:  ## Say what can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing (Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]' --group dev
	touch $@

demo: $(READY)  ## Send 500 HTTP requests through a queue to a server that pushes back
	$(BIN)/python examples/demo.py $(if $(OTLP),--otlp $(OTLP) --service-name penstock-demo)

# Several at once, and more than there are cores: most of them wait for something.
AT_ONCE ?= 4
PYTEST := -m pytest -q -n $(AT_ONCE) --dist worksteal

# What fails among the others is tried again by itself: some look at how soon things happen.
ALONE := -m pytest -q --last-failed --last-failed-no-failures none

test: $(READY)  ## Run all tests, with coverage
	$(BIN)/python $(PYTEST) --cov --cov-report=term || $(BIN)/python $(ALONE)

lint: $(READY)  ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

examples: $(READY)  ## Run every example
	$(BIN)/python examples/run_all.py

docs: $(READY)  ## Build the documentation, strictly, in build/docs
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

bench: $(READY)  ## Measure against peers and write benchmarks/README.md (three quarters of an hour)
	$(BIN)/python -m benchmarks --write

bench-quick: $(READY)  ## See that the benchmarks run
	$(BIN)/python -m benchmarks --quick

# BASE and NEW: commits, or . for the working tree. STRICT=1: fail if a line is slower.
bench-guard: $(READY)  ## Compare the speed of BASE and NEW: HEAD and your changes (two minutes)
	$(BIN)/python -m benchmarks.guard $(or $(BASE),$(if $(NEW),HEAD)) $(NEW) $(if $(STRICT),--strict)

# The random programs: 2,000 of them are among the tests.
SEEDS ?= 100000
simulate: $(READY)  ## Run SEEDS random programs in virtual time
	PYTHONPATH=src:tests $(BIN)/python -m simulation --seeds $(SEEDS) --jobs 2
	$(BIN)/python -m pytest -q tests/simulation/test_every_step.py -m long

SCHEDULES ?= 20
simulate-threads: $(READY)  ## Run so many SCHEDULES of real threads, 10,000 operations each
	$(BIN)/python tests/models/simulate_threads.py --seeds $(SCHEDULES)

EACH ?= 120
fuzz: $(READY)  ## Fuzz with coverage, EACH target for so many seconds (Linux)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group fuzz
	for target in headers lines rows journals templates settings messages; do \
		$(BIN)/python tests/fuzz/guided.py $$target $(EACH) || exit 1; done

fuzz-long: $(READY)  ## Run the tests that make things up with 20,000 examples each
	$(BIN)/python -m pytest -q tests/fuzz --hypothesis-profile=nightly

MINUTES ?= 30
soak: $(READY)  ## Run everything at once for MINUTES and see that it stays level (Linux)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --write

MODULE ?= penstock.limits.*
mutate: $(READY)  ## Change MODULE here and there, and see that a test fails (hours for all)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group mutation
	PENSTOCK_SEEDS=10 PYTHONPATH=$(CURDIR)/mutants/src $(BIN)/mutmut run '$(MODULE)'
	$(BIN)/mutmut results

wheel: $(READY)  ## Build the wheel, and test it in an empty environment
	$(BIN)/python -m pytest -q tests/wheel/checks.py

# Needs a newer nats-server than Debian's for clusters, which it builds with Go the first time.
test-brokers: $(READY)  ## Run all tests of brokers, those that take long too
	$(BIN)/python -m pytest -q tests/brokers tests/contract -m "long or not long"

pictures: $(READY)  ## Make the pictures of the documentation anew
	$(BIN)/python docs/pictures/make.py

# Needs Go and Debian's prometheus. Builds the collector and Jaeger in .cache the first time, which
# takes a quarter of an hour; the rest takes some minutes.
e2e: $(READY)  ## Send telemetry through the real collector, Jaeger and Prometheus, and look at it
	$(BIN)/python -m pytest -q -s --no-header tests/e2e/checks.py tests/e2e/checks_demo.py

# Every Python that runs here, one after the other, each in an environment of its own, with the
# newest versions that suit it; but for what needs examples/observability, which one Python tests.
PYTHONS ?= $(shell for p in python3.10 python3.11 python3.12 python3.13 python3.14; do $$p -c '' 2>/dev/null && echo $$p; done)

test-all:  ## Run all tests under every Python that is installed
	@for p in $(PYTHONS); do echo "== $$p" && $(MAKE) --no-print-directory test-one PYTHON=$$p VENV=.venv-$$p || exit 1; done

.PHONY: test-one
test-one: $(VENV)/.tests-ready
	$(BIN)/python $(PYTEST) --ignore=tests/observability --ignore=tests/e2e || $(BIN)/python $(ALONE)

$(VENV)/.tests-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]' --group test
	touch $@

clean:  ## Remove everything that was made
	rm -rf .venv .venv-* build dist mutants .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .cache
