# Two commands matter: `make up` and `make test`. The rest is for looking and for working on it.
.DEFAULT_GOAL := help
.PHONY: help up down status logs backup restore clean predictor models topics listen predictions airflow test test-containers proof bench scale experiments lint lock schemas

ifneq ($(shell locale charmap 2>/dev/null),UTF-8) # Python and Java read paths and text as the locale says
export LC_ALL = C.UTF-8
endif

PYTHON ?= python3
STACK = .venv/bin/python -m stack

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | column -t -s '|'

up: ## start everything (MONTHS=2013-07..2013-12: a quick first model)
	@$(PYTHON) stack/bootstrap.py up $(if $(MONTHS),--months "$(MONTHS)")

down: .venv ## stop everything; state stays
	@$(STACK) down

status: .venv ## processes, streaming query, model in service, last canary
	@$(STACK) status

logs: .venv ## follow the logs (SERVICE=kafka for one)
	@$(STACK) logs $(SERVICE)

backup: .venv ## stop, copy, start again (BACKUP=file; NO_STOP=1: if stopped)
	@$(STACK) backup $(if $(BACKUP),"$(BACKUP)") $(if $(NO_STOP),--no-stop)

restore: ## put a backup back: BACKUP=file (FORCE=1 replaces the state)
	@test -n "$(BACKUP)" || { echo "Which one? make restore BACKUP=file"; exit 1; }
	@$(PYTHON) stack/bootstrap.py restore "$(BACKUP)" $(if $(FORCE),--force)

clean: .venv ## remove all state but backups, after asking
	@$(STACK) clean

predictor: .venv ## run its DAG: ACTION=start, stop, restart, deploy (VERSION=…)
	@$(STACK) predictor "$(ACTION)" $(if $(VERSION),"$(VERSION)")

models: .venv ## the model versions, and why each serves or does not
	@$(STACK) models

topics: .venv ## the Kafka topics
	@$(STACK) topics

listen: .venv ## messages as they come
	@$(STACK) listen

predictions: .venv ## the last answers (COUNT=20 for more, JSON=1 for programs)
	@$(STACK) predictions --count $(or $(COUNT),5) $(if $(JSON),--json)

airflow: .venv ## Airflow's own command line, e.g. ARGS="dags list"
	@$(STACK) airflow $(ARGS)

test: lint ## lint, types and all tests but the slow ones
	@.venv/bin/python -m pytest -n 3 --durations=10 $(PYTEST)

test-containers: ## start the containers, predict, kill, stop: 20 minutes
	@$(PYTHON) stack/bootstrap.py --dev
	@.venv/bin/python -m pytest -x --timeout=1800 --capture=no tests/containers

proof: ## slow tests, then faults, 45 minutes (PROOF="--only swapped")
	@$(PYTHON) stack/bootstrap.py --dev
	@.venv/bin/python -m pytest -n 2 -m slow
	@.venv/bin/python -m tests.proof $(PROOF)

lint: ## lint and types only
	@$(PYTHON) stack/bootstrap.py --dev
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports && .venv/bin/mypy

bench: ## measure; writes docs/benchmarks.md (BENCH=--quick: a trial)
	@$(PYTHON) stack/bootstrap.py --dev
	@.venv/bin/python -m bench $(BENCH)

experiments: .venv ## try models on the published records; writes docs/model.md
	@.venv/bin/python -m bench.experiments $(EXPERIMENTS)

scale: ## measure up to 5.7 million flights (SCALE="--millions 0.3")
	@$(PYTHON) stack/bootstrap.py --dev
	@.venv/bin/python -m bench.scale $(SCALE)

schemas: .venv ## write docs/schemas (JSON Schemas) and docs/settings.md
	@.venv/bin/python -m flight_delays.schemas docs

COMPILE = .venv/bin/uv pip compile -q --universal --no-annotate --python-version 3.11
HASHES = $(COMPILE) --no-header --generate-hashes

lock: ## compile requirements.txt and the locks from pyproject.toml
	$(HASHES) pyproject.toml -c stack/constraints.in -o requirements.lock
	$(HASHES) --group pyproject.toml:dev pyproject.toml -c requirements.lock -o requirements-dev.lock
	$(HASHES) -c requirements.lock docker/requirements.in -o docker/requirements.lock
	$(HASHES) stack/uv.in -o stack/uv.txt
	$(COMPILE) --custom-compile-command "make lock" --no-deps --no-strip-extras pyproject.toml -c requirements.lock -o requirements.txt

.venv:
	@echo "There is no virtual environment yet: run make up" && exit 1
