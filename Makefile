PYTHON ?= .venv/bin/python
SEED ?= 0

.PHONY: test slow lint docs bench faults

test:
	$(PYTHON) -m pytest -n 3

slow:
	$(PYTHON) -m pytest -n 3 -m slow

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(dir $(PYTHON))lint-imports
	$(PYTHON) -m tools.phrases

docs:
	$(PYTHON) -m tools.readme
	$(PYTHON) -m tools.api_docs
	$(PYTHON) -m tools.manpage
	$(PYTHON) -m tools.picture

bench:
	$(PYTHON) -m tests.bench version help ask

faults:
	$(PYTHON) -m tests.faults --schedules 1000 --seed $(SEED)
