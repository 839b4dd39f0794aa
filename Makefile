# `make demo` trains on images from an archive; it takes less than a minute after installation.
# `make test` runs the tests; it takes about 8 minutes on two cores. Both install what they need into
# .venv and require only Python >= 3.10, a C compiler, make, and the headers of zlib. The tests of remote
# archives also need nginx and Node.js, those of the viewer Chromium; `make servers` installs what it can.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
HANDWRITTEN_C := $(wildcard imagearchive/*/native/*)
NATIVE := setup.py $(HANDWRITTEN_C) $(shell find imagearchive -name '*.pyx' -o -name '*.pxd')

# Run as modules, because they share `benchmarks.harness`, which is not a benchmark.
BENCHMARKS := $(filter-out benchmarks.harness.%,$(subst /,.,$(basename $(wildcard benchmarks/*/*.py))))
STUBS := $(subst /,.,$(basename $(shell find imagearchive -name '*.pyi')))

# A test worker for each core; more than eight need too much memory.
PYTEST_WORKERS := -n logical --maxprocesses 8 --dist worksteal

# What `make fuzz` takes in all; SEED=1 gives the same inputs again if there is no saved corpus.
SECONDS := 600
FUZZ_BUILD := build/fuzz

.PHONY: demo test servers lint types docs sdist wheel clang check bench fuzz fuzz-smoke clean

demo: $(VENV)/.demo
	$(BIN)/python examples/train_digits.py

test: $(VENV)/.test servers
	@echo "Running all tests; this takes about 8 minutes on two cores."
	$(BIN)/python -m pytest $(PYTEST_WORKERS)

# Where something cannot be installed, a message says what, and the tests that need it fail.
servers: | $(BIN)/python
	-tools/install_test_servers.sh $(VENV)/servers

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet .github/workflows

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/stubtest --mypy-config-file pyproject.toml --ignore-missing-stub --ignore-disjoint-bases $(STUBS)

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

# The sdist must contain everything that a build needs, and no generated C. It is built without
# libjpeg-turbo here, as on a machine without its headers.
sdist: $(VENV)/.dev
	rm -rf dist/*.tar.gz build/sdist-env
	$(BIN)/python -m build --quiet --sdist
	$(PYTHON) -m venv build/sdist-env
	IMAGEARCHIVE_JPEG=0 build/sdist-env/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir -c constraints.txt dist/imagearchive-*.tar.gz
	cd build && sdist-env/bin/imagearchive info --build && sdist-env/bin/imagearchive ls ../examples/data/digits.tar > /dev/null
	cd build && sdist-env/bin/python ../tools/check_installation.py no-libjpeg ..

# Builds a wheel in dist/ for every supported Python that is installed, and tests each where there is no
# compiler and no libjpeg-turbo.
wheel: $(VENV)/.dev
	$(BIN)/nox --no-error-on-missing-interpreters -s wheel

# Compiles the C sources with clang, if it is there.
clang:
	for compiler in clang clang-14; do \
	    ! command -v $$compiler || $$compiler -fsyntax-only -Wall -Wextra -Werror -DHAVE_JPEG=0 \
	        $(filter %.c,$(HANDWRITTEN_C)) || exit 1; \
	done

# Mutated inputs under AddressSanitizer and UndefinedBehaviorSanitizer, which need gcc. The results
# are in build/fuzz/results; see docs/development/fuzzing.md.
fuzz: $(VENV)/.test
	IMAGEARCHIVE_SANITIZE=address,undefined $(BIN)/python setup.py --quiet build --build-base $(FUZZ_BUILD) --build-lib $(FUZZ_BUILD)/package
	$(BIN)/python -m fuzz.campaign --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) --sanitized $(FUZZ_BUILD)/package

# The same without sanitizers, on a fixed seed: about 20 s for each harness.
fuzz-smoke: $(VENV)/.test
	$(BIN)/python -m fuzz.campaign --smoke --folder $(FUZZ_BUILD)/smoke

check: lint types docs sdist wheel clang test fuzz-smoke

bench: $(VENV)/.test
	$(PIP) -e ".[bench]" --no-build-isolation
	for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python -m $$script || exit 1; done

# Each environment includes the smaller ones. A change of native sources installs the package again.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) setuptools setuptools-scm wheel cython numpy

$(VENV)/.demo: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(PIP) --no-build-isolation -e ".[torch]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(PIP) --no-build-isolation -e ".[test]"
	touch $(VENV)/.demo $@

$(VENV)/.dev: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(PIP) --no-build-isolation -e ".[dev]"
	touch $(VENV)/.demo $(VENV)/.test $@

clean:
	rm -rf build dist *.egg-info $(VENV) docs/_build
	find imagearchive -name '*.so' -delete
