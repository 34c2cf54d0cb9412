# The first three targets are the ones to know: run, test, compare.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RECIPE ?= recipes/quickstart.toml
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# What the native part is built with, in the environment itself: then importing it can build what has changed. The
# others are for dependencies that come as sources.
BUILD := scikit-build-core nanobind cmeel-boost nlohmann-json openvino ninja setuptools wheel $(shell command -v cmake > /dev/null || echo cmake)
REBUILD := $(shell command -v cmake > /dev/null && echo -C editable.rebuild=true)

CXX_FILES := $(shell find runtime/native tests/runtime/native benchmarks -name '*.cpp' -o -name '*.h')

.PHONY: run test compare lint native format clean

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
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

native: $(READY)  ## builds what has changed of the native part, and runs its own tests
	$(BIN)/python -c 'from runtime.native_classifier import native_module; native_module()'
	$(BIN)/pytest tests/runtime/test_native_units.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage

# Made once, and again when what it is made from changes.
$(READY): pyproject.toml constraints.txt recipes/quickstart.txt
	@echo "setting up .venv: some minutes, most of them for the native part"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Python 3.11 or later is needed: make PYTHON=python3.12"; exit 1)
	$(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt $(BUILD)
	$(PIP) -c constraints.txt --no-build-isolation \
	  -C cmake.define.ATB_TESTS=ON $(REBUILD) -e '.[train,openvino,onnxruntime,tensorrt-rtx,ray,dev]'
	$(PIP) --no-deps -r recipes/quickstart.txt
	@touch $(READY)
