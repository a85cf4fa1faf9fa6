# make demo | test | pytest | wheel | docs | lint | headers | clean. Each sets up .venv by itself; PYTHON is the interpreter it is made from (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HEADERS := $(VENV)/onnxruntime-headers
DEMO := demo-output
DEMO_PHOTOS := astronaut.png chelsea.png coffee.png rocket.jpg motorcycle_left.png

.PHONY: demo test pytest wheel docs lint headers clean
.DELETE_ON_ERROR:

# scikit-image carries these photos in its wheel: nothing is downloaded.
demo: $(VENV)/.demo
	data=$$($(BIN)/python -c 'import skimage.data as d; print(d.__path__[0])') && \
	  $(BIN)/esam-rt run $(DEMO_PHOTOS:%="$$data"/%) --preset fast --out $(DEMO) --overwrite

test: lint docs pytest

# The kernels are compiled once, on all cores: each worker would compile them for itself. With worksteal a worker takes
# whole folders one after the other, so that what the tests of a file share is made once.
pytest: $(VENV)/.test
	$(BIN)/esam-rt compile-kernels
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# A warning is an error; all warnings are listed before the build fails. -E reads every page again, since docstrings change.
docs: $(VENV)/.test
	$(BIN)/python -m sphinx -W --keep-going -E -q -b html docs docs/_build/html
	@echo "Look at docs/_build/html/index.html"

# The wheel with the lowest and with the newest dependencies. Needs Python 3.11; takes 94 s of CPU time.
wheel: $(VENV)/.test
	.ci/wheel $(BIN)

# Headers of ONNX Runtime, with which `make test` compiles the C++ example. Neither its Python package nor Debian has
# them. This npm package has Microsoft's own, for API 29, beside much else: 150 MB.
headers: $(HEADERS)/onnxruntime_cxx_api.h

clean:
	rm -rf $(VENV) $(DEMO) build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "esam-rt needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(HEADERS)/onnxruntime_cxx_api.h: | $(BIN)/python
	rm -rf $(HEADERS).part && mkdir -p $(HEADERS).part
	cd $(HEADERS).part && npm pack --silent com.github.asus4.onnxruntime@0.4.9 && \
	  echo "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d  com.github.asus4.onnxruntime-0.4.9.tgz" | sha256sum --check --quiet && \
	  tar xzf *.tgz --wildcards --transform 's:.*/::' '*/ios-arm64/*/Headers/*.h' && rm *.tgz
	rm -rf $(HEADERS) && mv $(HEADERS).part $(HEADERS) && touch $@

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[cpu]'
	touch $@

# --no-compile saves half of the time: most modules are never imported.
$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -e '.[dev]'
	touch $@
