# Everything runs in the project's own virtual environment, .venv, made on first use.
#   make demo    a fact located and edited in a real language model
#   make test    all tests
#   make docs    the documentation, in site/
#
# Versions are exact and hashed: see requirements/, written by `make lock`.
PYTHON ?= python3
# The newest that `make lock` may take; this one has a CPU build on some indexes.
TORCH ?= torch==2.13.0
# What `make test-oldest` and `make test-newest` run on, where these are installed.
PYTHONS ?= 3.11 3.12 3.13
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PYTEST := $(BIN)/pytest --numprocesses auto --dist worksteal
READY := .venv/ready
SITE_READY := .venv/ready-for-docs

.PHONY: demo setup lock fmt lint type test test-fast test-oldest test-newest bench docs pictures notebooks clean

demo: $(READY)
	$(BIN)/factlab demo

setup: $(READY)

$(READY): pyproject.toml requirements/locked.txt requirements/locked-cuda.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "factlab needs Python 3.11 or newer; run: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "Making .venv with PyTorch and the rest in it (1.5 GB, a minute or two, once)."
	@$(PYTHON) -m venv .venv
	@# Where the index has a CPU build of torch, that is taken, and nothing for CUDA.
	@torch=$$(sed -n 's/^\(torch==[0-9.]*\).*/\1+cpu/p' requirements/locked.txt); \
		if $(PIP) install --dry-run --no-deps "$$torch" > /dev/null 2>&1; \
		then echo "$$torch" > .venv/torch.txt; more="--constraint .venv/torch.txt"; \
		else more="--requirement requirements/locked-cuda.txt"; fi; \
		$(PIP) install --require-hashes --requirement requirements/locked.txt $$more
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $(READY)

lock: $(READY)
	$(BIN)/python scripts/lock.py "$(TORCH)"

fmt: $(READY)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports

type: $(READY)
	$(BIN)/pyright

test: $(READY)
	$(PYTEST)

test-fast: $(READY)
	$(PYTEST) -m "not slow"

test-oldest: $(READY)
	$(BIN)/python scripts/test_range.py oldest $(PYTHONS)

test-newest: $(READY)
	$(BIN)/python scripts/test_range.py newest $(PYTHONS)

bench: $(READY)
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/edit.py
	$(BIN)/python benchmarks/sequence.py
	$(BIN)/python benchmarks/evaluate.py
	$(BIN)/python benchmarks/neurons.py
	$(BIN)/python benchmarks/train.py

docs: $(SITE_READY)
	$(BIN)/python scripts/docs/build.py

$(SITE_READY): $(READY) requirements/docs.txt
	@$(PIP) install --no-deps --require-hashes --requirement requirements/docs.txt
	@touch $(SITE_READY)

pictures: $(READY)
	$(BIN)/factlab trace "The Eiffel Tower is located in the city of" \
		--subject "The Eiffel Tower" --target Paris \
		--out docs/images/eiffel-tower.png --overwrite

notebooks: $(READY)
	$(BIN)/python scripts/notebooks.py

clean:
	rm -rf .venv .venv-* site .cache .pytest_cache .ruff_cache .hypothesis factlab-demo
