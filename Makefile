# Elboscope: every command a newcomer needs. `make` alone lists them.
#
# The first call of a target creates .venv and installs what is missing; later calls start at once.
# A stamp file in .venv records a finished installation. It is touched only when pip succeeded, so
# an interrupted installation is simply resumed by the next call.

PYTHON   ?= python3
PORT     ?=
PIP_ARGS ?=
ARGS     ?=
NAME     ?=

VENV := .venv
RUN  := $(VENV)/bin/python

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: app test test-slow lint train-digits screenshots bench help no-python

app: $(VENV)/.app-installed ## Open the app on http://localhost:8501 (another port: PORT=9000)
	$(RUN) -m vae app $(if $(PORT),--port $(PORT))

test: $(VENV)/.dev-installed ## Run the tests on two cores (some of them: ARGS="-k sprites")
	$(RUN) -m pytest -ra -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(VENV)/.dev-installed ## Run the long tests: fuzzing, kills, soak
	$(RUN) -m pytest -ra -m slow -n 2 $(ARGS)

lint: $(VENV)/.dev-installed ## Check the code's style and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

train-digits: $(VENV)/.app-installed ## Train the small model of handwritten digits again, in under a minute
	$(RUN) -m vae train digits-2d --out checkpoints/digits-2d --overwrite

screenshots: $(VENV)/.dev-installed ## Take a picture of every screen (needs Chromium)
	PYTHONPATH=. $(RUN) tests/screenshots.py $(ARGS)

bench: $(VENV)/.dev-installed ## Measure speed: NAME=train, say; without NAME, list the benchmarks
	PYTHONPATH=.:tests $(RUN) -m bench $(NAME) $(ARGS)

help: ## List these commands
	@echo "Usage: make COMMAND [VARIABLE=value]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables"
	@echo "  PORT           the port of the app"
	@echo "  PYTHON         the Python that creates .venv, 3.11 or newer (default: python3)"
	@echo "  NAME           the benchmark"
	@echo "  PIP_ARGS       more arguments for pip install, such as a wheel index for CPU-only torch"
	@echo "  ARGS           more arguments for pytest, the screenshots or the benchmark"

# A .venv whose Python no longer runs (after an upgrade, say) is made anew, whatever its stamps say.
$(VENV)/.app-installed: requirements.txt $(if $(shell $(RUN) -c '' 2>/dev/null && echo runs),,no-python)
	@$(prepare-venv)
	$(RUN) -m pip install $(PIP_ARGS) -r requirements.txt
	@touch $@

# Stands on the app's stamp, so that two installations never run at once under `make -j`.
$(VENV)/.dev-installed: requirements-dev.txt $(VENV)/.app-installed
	$(RUN) -m pip install $(PIP_ARGS) -r requirements-dev.txt
	@touch $@

# Creates .venv, or mends one that was left half made or whose Python has gone. An environment that
# works is kept, whoever made it.
define prepare-venv
set -e; \
fail() { echo "$$1" >&2; exit 1; }; \
recent='import sys; sys.exit(sys.version_info < (3, 11))'; \
if $(RUN) -c '' 2>/dev/null; then \
    $(RUN) -c "$$recent" || fail "Elboscope needs Python 3.11 or newer, but $(VENV) holds $$($(RUN) --version): remove $(VENV) and run make again."; \
    $(RUN) -m pip --version >/dev/null 2>&1 || $(RUN) -m ensurepip --upgrade; \
else \
    $(PYTHON) -c '' 2>/dev/null || fail "Elboscope needs Python 3.11 or newer, but '$(PYTHON)' does not run: install Python, or name another one with PYTHON=/path/to/python3."; \
    $(PYTHON) -c "$$recent" || fail "Elboscope needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1): name a newer one, such as PYTHON=python3.12."; \
    $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || fail "'$(PYTHON)' lacks the venv module: install it (on Debian and Ubuntu: apt install python3-venv) and run make again."; \
    echo "$(PYTHON) -m venv $(VENV)"; \
    $(PYTHON) -m venv --clear $(VENV); \
fi
endef
