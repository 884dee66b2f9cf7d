# make setup   once; everything else does it first (a second time it takes no time)
# make test    what a change must pass; make test-all adds the tests that run the whole product (PART=k/n: a share of it)
# make fuzz    looks for input that a decoder of ours cannot bear, a minute a decoder (TARGET=name SECONDS=n)

BIN := .venv/bin
PYTEST := $(BIN)/pytest -n 2 --dist loadfile

.PHONY: setup demo demo-cluster test test-all fuzz check bench lock clean

setup:
	@packaging/setup

demo: setup
	$(BIN)/fairlead demo

demo-cluster: setup
	$(BIN)/fairlead demo --cluster

test: setup
	$(PYTEST) -m 'not whole'

test-all: setup
	$(PYTEST) $(if $(PART),--part $(PART))

fuzz: setup
	$(BIN)/python tests/fuzz/fuzz.py $(TARGET) $(SECONDS)

check: setup
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	@$(BIN)/python bench/figures.py

# After a change of the dependencies in pyproject.toml; LOCK=--upgrade takes what is newest.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $(LOCK)
lock: setup
	$(COMPILE) pyproject.toml --output-file requirements/runtime.txt
	$(COMPILE) pyproject.toml --group dev --constraint requirements/runtime.txt --output-file requirements/dev.txt
	echo uv | $(COMPILE) - --output-file requirements/installer.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
