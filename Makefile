PYTHON ?= .venv/bin/python
SEED ?= 0

.PHONY: test slow extras lint docs bench faults

test:
	$(PYTHON) -m pytest -n 3

slow:
	$(PYTHON) -m pytest -n 3 -m slow

extras:
	set -e; for folder in $(patsubst %/requirements.txt,%,$(wildcard tests/*/requirements.txt)); do \
	  packages=.extras/$${folder#tests/}; rm -rf "$$packages"; \
	  $(PYTHON) -m pip install -q --target "$$packages" --no-deps --require-hashes -r "$$folder/requirements.txt"; \
	  PYTHONPATH="$$packages" $(PYTHON) -m pytest -n 3 -m 'slow or not slow' "$$folder"; \
	done

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
