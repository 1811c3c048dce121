# Pairloop's two commands are `make run` and `make test`; docs/decisions.md says what each target costs.
# The engine on a CPU needs Python 3.11 exactly.
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)

.PHONY: help run test check loop bench-import bench-judge bench-train lock clean
.DEFAULT_GOAL := help

help:
	@echo 'make run    set up what is missing, then serve http://127.0.0.1:8000 until Ctrl-C'
	@echo 'make test   set up what is missing, then pass every test, Chromium and a real vLLM included'
	@echo 'make check  static checks and unit tests, two at a time'
	@echo 'make loop   one turn of the wheel with everything real, about eight minutes'
	@echo 'make bench-import [ROWS=100000]   time and memory of importing preference pairs, about two minutes'
	@echo 'make bench-judge [PAIRS=1000000]  judging by 50 labelers: milliseconds, statements, from key to paint'
	@echo 'make bench-train [DATA=pairs.jsonl]  speed, memory and losses of training against TRL, about 25 minutes'
	@echo 'make lock   write requirements/*.txt anew from pyproject.toml'
	@echo 'make clean  delete environments and caches; keeps var/, so no data is lost'
	@echo 'Another Python: make run PYTHON=python3.11'

run:
	@$(PYTHON) -m pairloop.up.environments web
	@exec .venv/bin/python manage.py up

test:
	@$(PYTHON) -m pairloop.up.environments check
	@exec .venv/bin/python -m tests.run all

check:
	@$(PYTHON) -m pairloop.up.environments check
	@exec .venv/bin/python -m tests.run check

loop:
	@$(PYTHON) -m pairloop.up.environments check ml
	@exec .venv/bin/python -m tests.loop

bench-import:
	@$(PYTHON) -m pairloop.up.environments check
	@exec .venv/bin/python benchmarks/bench_import.py $(ROWS)

bench-judge:
	@$(PYTHON) -m pairloop.up.environments check
	@exec .venv/bin/python benchmarks/bench_judge.py $(PAIRS)

bench-train:
	@$(PYTHON) -m pairloop.up.environments check ml bench
	@exec .venv/bin/python benchmarks/bench_train.py $(DATA)

lock:
	@$(PYTHON) -m pairloop.up.environments check
	@exec .venv/bin/python requirements/lock.py

clean:
	@echo 'Deleting .venv, .venv-ml, .venv-bench and caches. var/ (database, versions, secrets) stays.'
	@rm -rf .venv .venv-ml .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache .coverage .coverage.* htmlcov
	@find . -path ./var -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
