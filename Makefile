# Everything runs in the project's own virtual environment, .venv, made on first use.
#   make demo    a fact located and edited in a real language model
#   make test    all tests
PYTHON ?= python3
# Pinned because it has a CPU build on some indexes; `make demo TORCH=torch` takes the newest.
TORCH ?= torch==2.13.0
BIN := .venv/bin
PYTEST := $(BIN)/pytest --numprocesses auto --dist worksteal
READY := .venv/ready

.PHONY: demo setup fmt lint type test test-fast bench docs clean

demo: $(READY)
	$(BIN)/factlab demo

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "factlab needs Python 3.11 or newer; run: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "Making .venv with PyTorch and the rest in it (about 1 GB); this takes a few minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $(READY)

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

bench: $(READY)
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/edit.py
	$(BIN)/python benchmarks/evaluate.py
	$(BIN)/python benchmarks/neurons.py
	$(BIN)/python benchmarks/train.py

docs: $(READY)
	$(BIN)/factlab trace "The Eiffel Tower is located in the city of" \
		--subject "The Eiffel Tower" --out docs/images/eiffel-tower.png

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis factlab-demo
