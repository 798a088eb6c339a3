# Each target sets up all that it needs, and no more, on a machine that has only Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
EXTRAS := cli,httpx,msgpack,nats,otel,progress,report

# Tests and examples start hundreds of Pythons. Compiled once, they start in half the time; some
# environments forbid Python to keep what it compiled.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-servers coverage lint format docs bench bench-quick bench-guard simulate simulate-threads fuzz \
	fuzz-long mutate soak wheel examples nats-server e2e e2e-build e2e-prometheus test-brokers pictures test-all clean

help:  ## Say what can be made, and how long it takes on two cores
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# -- Environments: one, to which each target adds what it needs ----------------------------------

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing (Debian: apt-get install python3-venv)"; exit 1; }
	touch $@

# What the demo imports: the command, and its server's two libraries.
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.created
	$(PIP) -e '.[cli]' starlette uvicorn
	touch $@

# The other names are those of the groups in pyproject.toml; to read them, pip must be a newer one.
$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/.created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(PIP) -e '.[$(EXTRAS)]' --group $*
	touch $@

# -- The two that everybody runs ------------------------------------------------------------------

demo: $(VENV)/.demo  ## Send 500 HTTP requests through a queue to a server that answers 429 (15 s)
	$(BIN)/python examples/demo.py $(if $(OTLP),--otlp $(OTLP) --service-name penstock-demo)

# Several at once, and more than there are cores: some of them wait for something.
AT_ONCE ?= 4
PYTEST := -m pytest -q -n $(AT_ONCE) --dist worksteal

test: $(VENV)/.test  ## Run the tests (5 min)
	$(BIN)/python $(PYTEST)

# -- More tests -----------------------------------------------------------------------------------

# Uses nats-server and chromium where they are installed, and says what it leaves out where not.
test-servers: $(VENV)/.test-servers nats-server  ## Run the slow tests: servers, clusters, kills, browsers, SDKs (5 min)
	$(BIN)/python $(PYTEST) -m slow

coverage: $(VENV)/.test-servers nats-server  ## Run both kinds of tests, with coverage (10 min)
	$(BIN)/python $(PYTEST) -m 'not long' --cov --cov-report=term

# What clusters need: a newer one than Debian's.
nats-server: $(VENV)/.test  ## Build nats-server in .cache, where there is Go (the first time 2 min)
	$(if $(shell command -v go),PYTHONPATH=tests $(BIN)/python -m brokers.build,@echo "no Go: tests of clusters are left out")

# Needs Go, npm and Debian's prometheus. Builds the collector and Jaeger in .cache the first time.
e2e: e2e-build  ## Send telemetry through the real collector, Jaeger and Prometheus (5 min; the first time 20)
	$(BIN)/python -m pytest -q -s --no-header tests/e2e/checks*.py

e2e-build: $(VENV)/.test-servers
	PYTHONPATH=tests $(BIN)/python -m e2e.build

e2e-prometheus: $(VENV)/.test-servers  ## The part of e2e that needs Debian's prometheus alone (4 min)
	$(BIN)/python -m pytest -q tests/e2e/checks_prometheus.py tests/e2e/checks_rules.py tests/e2e/checks_alerts.py

test-brokers: $(VENV)/.test-servers nats-server  ## Run all tests of brokers, those that take minutes too (10 min)
	$(BIN)/python -m pytest -q tests/brokers tests/contract -m 'slow or long or not slow'

SEEDS ?= 100000
simulate: $(VENV)/.test  ## Run SEEDS random programs in virtual time (100,000: hours; 2,000: 1 min)
	PYTHONPATH=src:tests $(BIN)/python -m simulation --seeds $(SEEDS) --jobs 2
	$(BIN)/python -m pytest -q tests/simulation/test_every_step.py -m long

SCHEDULES ?= 20
simulate-threads: $(VENV)/.test  ## Run SCHEDULES of real threads, 10,000 operations each (20: 10 min)
	$(BIN)/python tests/models/simulate_threads.py --seeds $(SCHEDULES)

EACH ?= 120
fuzz: $(VENV)/.test $(VENV)/.fuzz  ## Fuzz with coverage, EACH seconds a target (Linux; 15 min)
	for target in headers lines rows journals templates settings messages; do \
		$(BIN)/python tests/fuzz/guided.py $$target $(EACH) || exit 1; done

fuzz-long: $(VENV)/.test  ## Run the tests that make things up with 20,000 examples each (an hour)
	$(BIN)/python -m pytest -q tests/fuzz --hypothesis-profile=nightly

MINUTES ?= 30
soak: $(VENV)/.test-servers $(VENV)/.bench  ## Run everything at once for MINUTES and see that it stays level (Linux)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --write

MODULE ?= penstock.limits.*
mutate: $(VENV)/.test $(VENV)/.mutation  ## Change MODULE here and there, and see that a test fails (hours for all)
	mkdir -p mutants/src # Python looks only once for a folder of PYTHONPATH
	PENSTOCK_SEEDS=10 PYTHONPATH=$(CURDIR)/mutants/src $(BIN)/mutmut run '$(MODULE)'
	$(BIN)/mutmut results

wheel: $(VENV)/.test $(VENV)/.wheel  ## Build the wheel, and test it in an empty environment (1 min)
	$(BIN)/python -m pytest -q tests/wheel/checks.py

# Each Python that is found, one after the other, in an environment of its own, .venv-VERSION, with
# the newest versions of all packages that suit it.
test-all:  ## Run the tests under every Python that is found here (5 min each)
	@$(PYTHON) tests/pythons.py --missing
	@all=$$($(PYTHON) tests/pythons.py) && failed=; for found in $$all; do \
		version=$${found%%=*}; \
		echo "== Python $$version"; \
		$(MAKE) --no-print-directory test-one PYTHON=$${found#*=} VENV=.venv-$$version || failed="$$failed $$version"; \
	done; \
	$(PYTHON) tests/pythons.py --missing; \
	test -z "$$failed" || { echo "Failed under Python$$failed"; exit 1; }

# What penstock itself is, without the command, brokers and clients.
CORE := tests/queue tests/test_work_queue.py tests/workers tests/policies tests/limits tests/sync \
	tests/contract tests/simulation tests/telemetry

test-newest:  ## Run the tests of the core under the newest Python that is found here (3 min)
	@found=$$($(PYTHON) tests/pythons.py --newest) && \
		$(MAKE) --no-print-directory test-one PYTHON=$${found#*=} VENV=.venv-$${found%%=*} TESTS="$(CORE)"

TESTS ?=

.PHONY: test-newest test-one
test-one: $(VENV)/.tests-ready
	$(BIN)/python --version
	$(BIN)/python $(PYTEST) $(TESTS)

$(VENV)/.tests-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]' --group test
	touch $@

# -- Code and documentation -----------------------------------------------------------------------

lint: $(VENV)/.lint  ## Check style and types (1 min)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright

format: $(VENV)/.lint  ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

examples: $(VENV)/.test-servers  ## Run every example (1 min)
	$(BIN)/python examples/run_all.py

docs: $(VENV)/.docs  ## Build the documentation, strictly, in build/docs (30 s)
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

pictures: $(VENV)/.test-servers  ## Make the pictures of the documentation anew (needs chromium)
	$(BIN)/python docs/pictures/make.py
	$(BIN)/python docs/pictures/draw_figures.py

# -- Speed ----------------------------------------------------------------------------------------

bench: $(VENV)/.bench  ## Measure against peers and write benchmarks/README.md (45 min)
	$(BIN)/python -m benchmarks --write

bench-quick: $(VENV)/.bench  ## See that the benchmarks run (45 s)
	$(BIN)/python -m benchmarks --quick

# BASE and NEW: commits, or . for the working tree. STRICT=1: fail if a line is slower.
bench-guard: $(VENV)/.test  ## Compare the speed of BASE and NEW: HEAD and your changes (2 min)
	$(BIN)/python -m benchmarks.guard $(or $(BASE),$(if $(NEW),HEAD)) $(NEW) $(if $(STRICT),--strict)

clean:  ## Remove everything that was made
	rm -rf .venv .venv-* build dist mutants .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
