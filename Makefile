# `make` lists the targets. Each one makes the environment it needs in .venv, once;
# stamp files remember it, so that later calls start at once and need no network.

PYTHON ?= python3
ARGS ?=
WORKERS ?= auto

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check -q
INSTALL := $(PIP) install --no-compile -c constraints.txt

# pip would compile every module of torch and scipy. Python compiles the few that are
# imported, and must be allowed to keep the result.
unexport PYTHONDONTWRITEBYTECODE

# Printed by `make help`: the text after `##`.
.DEFAULT_GOAL := help
.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  ARGS='...' passes options on: make test ARGS='-k adam', make demo ARGS=--help"
	@echo "  PYTHON=... chooses the interpreter, 3.11 or later (default: python3)"

.PHONY: demo
demo: $(VENV)/.installed-race ## Race the optimizers on scikit-learn's digits
	@$(VENV)/bin/polyak race $(ARGS)

# The tests and their workers share the cores: one thread each, unless a test asks.
.PHONY: test
test: lint ## Lint, type-check, and run the doctests and the tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal $(ARGS)

.PHONY: lint
lint: $(VENV)/.installed-dev ## Check style, formatting and types
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

.PHONY: format
format: $(VENV)/.installed-dev ## Fix style and formatting in place
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

.PHONY: bench
bench: $(VENV)/.installed-bench ## Measure polyak, torch.optim and others side by side
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) -m benchmarks $(ARGS)

# Warnings are errors: a reference that leads nowhere, a public name without a docstring.
# ARGS="-b linkcheck" follows the links to other sites, which needs a network.
.PHONY: docs
docs: $(VENV)/.installed-dev ## Build the documentation: build/docs/index.html
	OMP_NUM_THREADS=1 $(RUN) -m sphinx -W --keep-going -q docs build/docs $(ARGS)
	@echo "build/docs/index.html"

.PHONY: clean
clean: ## Remove .venv, caches and build outputs
	rm -rf $(VENV) build dist docs/optimizers docs/reference .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. The build backend is installed, pinned, like all the rest: without
# build isolation, installing again after a change of pyproject.toml works offline.

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "polyak needs Python 3.11 or later; there is no '$(PYTHON)' here." \
	    "Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "polyak needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." \
	    "Name a newer one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "'$(PYTHON)' cannot make virtual environments: install its venv module" \
	    "(on Debian and Ubuntu, the package python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-race: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing polyak and what the race needs into $(VENV) (once; about a minute)"
	@$(INSTALL) hatchling editables
	@$(INSTALL) --no-build-isolation -e '.[race]'
	@touch $@

# Who is compared besides torch. Without them the report leaves them out, and says so.
$(VENV)/.installed-bench: $(VENV)/.installed-race
	@echo "Installing the libraries to compare with into $(VENV) (once)"
	@if $(INSTALL) --no-build-isolation -e '.[bench]'; then touch $@; \
	  else echo "They cannot be installed here: measuring without them." >&2; fi

$(VENV)/.installed-dev: $(VENV)/.installed-race
	@echo "Installing the development tools into $(VENV) (once)"
	@$(INSTALL) --no-build-isolation -e '.[dev]'
	@$(INSTALL) --no-deps timm
	@touch $@
