# `make demo` and `make test` do all the set-up by themselves, once.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= cryorbit_demo
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); [ $$n -gt 8 ] && echo 8 || echo $$n)

.PHONY: demo test lint docs relion chromium clean

demo: $(DEMO)/.made
	@echo "The report lies in $(DEMO)/report.html: open it in a browser. (Remove the folder to run the demo again.)"

$(DEMO)/.made: | $(VENV)/.installed
	$(BIN)/cryorbit demo --out $(DEMO)
	@touch $@

test: $(VENV)/.installed-dev relion chromium
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict --site-dir site
	@echo "The documentation lies in site/index.html."

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "cryorbit needs Python 3.11 to 3.13; none was found on the PATH."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

# RELION judges the files and the conventions; without it those tests skip.
relion:
	@command -v relion_star_handler >/dev/null 2>&1 || { \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "Installing RELION, against which files and conventions are tested ..."; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends relion; } \
			>/dev/null 2>&1 || echo "RELION could not be installed: its tests are skipped."; \
	else echo "RELION is not installed: its tests are skipped."; fi; }

# The page is tested in a browser; without one those tests skip.
chromium:
	@command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || { \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "Installing Chromium, in which the page is tested ..."; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
			>/dev/null 2>&1 || echo "Chromium could not be installed: its tests are skipped."; \
	else echo "Chromium is not installed: its tests are skipped."; fi; }

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
