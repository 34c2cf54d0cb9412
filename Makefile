# The first three targets are the ones to know: run, test, compare.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RECIPE ?= recipes/quickstart.toml

.PHONY: run test compare lint format clean

run: $(READY)  ## the main job on real input: teacher -> search -> verified engines, bundle and report
	$(BIN)/atb run $(RECIPE) --resume

test: $(READY)  ## the test suite with its coverage
	$(BIN)/pytest --cov --cov-report=term:skip-covered --cov-fail-under=85

compare: $(READY)  ## continues the run with the hand-designed baselines
	$(BIN)/atb compare $(RECIPE) --resume

lint: $(READY)  ## style, types, and the arrows between the floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage

# Made once, and again when what it is made from changes.
$(READY): pyproject.toml constraints.txt recipes/quickstart.txt
	@echo "setting up .venv: about a minute"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Python 3.11 or later is needed: make PYTHON=python3.12"; exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt \
	  -e '.[train,openvino,onnxruntime,tensorrt-rtx,ray,dev]'
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r recipes/quickstart.txt
	@touch $(READY)
