# `make serve` and `make test` are all a new user needs. Both set up what they need, once.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
# Many tests wait for a server or a plugin that starts: more workers than processors.
WORKERS ?= 3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
CONSOLE := src/modelyard/gateway/console/index.html
# Shows a dot for each package as it is fetched, and what goes wrong; pip's own account is pages long.
PROGRESS := 2>&1 | awk '/^Collecting/ { printf "."; fflush() } /ERROR|error:/ { printf "\n%s\n", $$0 } END { print "" }'

.PHONY: help serve console test coverage check lint types contracts bench mutants show audit release weights lock clean

help: ## This list.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

serve: .venv/.serve ## Set up, pull the local models the first time, start the server.
	@$(BIN)/modelyard models pull small || echo "Going on without the local models."
	@$(MAKE) -s console || echo "Going on without the console: neither Node 20 nor a package of it could be had."
	@exec $(BIN)/modelyard serve

console: $(CONSOLE) ## Build the console's page.

$(CONSOLE): .venv/.build docs/reference/openapi/admin.json docs/reference/openapi/chat_page.json console-ui/build $(wildcard console-ui/*.json console-ui/*.ts console-ui/*.mjs console-ui/*.html) $(shell find console-ui/src -type f -not -name schema.d.ts)
	@echo "Building the console …"
	@console-ui/build
	@touch $@

test: .venv/.dev weights ## Set up, then the whole test suite.
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

coverage: .venv/.dev weights ## The tests with branch coverage, compared with its limits.
	@mkdir -p build
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --cov --cov-report=json:build/coverage.json -q $(ARGS)
	@$(BIN)/python -m tools.coverage_limits

check: lint types contracts test ## Lint, types, import contracts and tests.

lint: .venv/.dev ## Style and common mistakes, of the console too, and its unit tests.
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@console-ui/check

types: .venv/.dev ## Strict types.
	@$(BIN)/basedpyright

contracts: .venv/.dev ## Layers and independence.
	@$(BIN)/lint-imports

bench: .venv/.dev weights ## What the gateway costs, how fast it starts, how fast the local models are.
	@$(BIN)/python -m bench

mutants: .venv/.mutants ## Make small wrong changes on a copy, by hand and generated; tests must notice them.
	@$(BIN)/python -m tools.mutants
	@$(BIN)/python -m tools.generated_mutants

show: .venv/.dev weights ## Prove a goal: `make show WHAT=name`; without a name, the list.
	@$(BIN)/python -m tools.show $(WHAT)

audit: .venv/.release ## Look the locked dependencies up in the advisories.
	@$(BIN)/python -m tools.release audit

release: .venv/.release console audit ## Build the wheel, and the list of components of each lock, in dist/.
	@$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist
	@$(BIN)/python -m tools.release sbom dist
	@ls dist

weights: .venv/.serve
	@$(BIN)/modelyard models pull small

lock: .venv/.dev ## Compile the locks anew.
	@requirements/lock $(ARGS)

clean: ## Remove what was set up here; the weights stay.
	rm -rf .venv

.venv/.build: requirements/build.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Modelyard needs Python 3.11 or newer; set PYTHON=…")'
	@echo "Setting up .venv: a minute or two, once."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --require-hashes --no-deps -r requirements/build.txt
	@touch $@

.venv/.serve: .venv/.build requirements/serve.txt pyproject.toml
	@echo "Installing the server and the engines of the local models …"
	@$(BIN)/pip install --require-hashes --no-deps --no-build-isolation -r requirements/serve.txt $(PROGRESS)
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@

.venv/.dev: .venv/.serve requirements/dev.txt
	@echo "Installing what the tests need …"
	@$(BIN)/pip install --require-hashes --no-deps --no-build-isolation -r requirements/dev.txt $(PROGRESS)
	@touch $@

.venv/.release: .venv/.dev requirements/release.txt
	@$(BIN)/pip install --quiet --require-hashes --no-deps -r requirements/release.txt
	@touch $@

.venv/.mutants: .venv/.dev requirements/mutants.txt
	@$(BIN)/pip install --quiet --require-hashes --no-deps -r requirements/mutants.txt
	@touch $@
