# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint package docs gpu clean

demo: $(VENV)/.demo
	$(BIN)/python examples/quickstart.py

# One process a core, each with one thread: half the time of the other way round.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# On a machine with a GPU, whose torch and triton are used as they are: the GPU tests, then the kernels beside torch.relu.
gpu:
	$(PYTHON) -m benchmarks.gpu

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel, in environments that hold what it asks for and nothing else.
package: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python .ci/package.py

# The site, in build/site; it needs nothing of the package but its source.
docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --quiet

$(VENV)/.docs: docs/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r $<
	touch $@

# What the demo needs, and then what the tests need beside it.
$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[examples]'
	touch $@

$(VENV)/.installed: $(VENV)/.demo
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build
