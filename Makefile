# One environment for everything but the kernels' tests; every verb sets its own up first.
VENV   ?= .venv
PYTHON ?= python3
PORT   ?= 8000
HOST   ?= 127.0.0.1
DATA   ?= ../shared/data
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TRITON := 3.9.0
KERNELS := .venv-kernels
SOURCE := server trials pine portia kvedit pocket tests benchmarks

.PHONY: serve test test-kernels test-real editors check format bench evidence build clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

serve: $(READY)            ## serve the embedded model (PORT=8123, HOST=0.0.0.0, ARGS="--model DIR")
	$(BIN)/evenhand serve --host $(HOST) --port $(PORT) $(ARGS)

test: $(READY)             ## run every test (ARGS="-k pine")
	$(BIN)/python -m pytest $(ARGS)

# apart, since transformers imports triton where it is; no more than the kernels' tests need
$(KERNELS)/.ready: constraints.txt Makefile
	$(PYTHON) -m venv $(KERNELS)
	$(KERNELS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(KERNELS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		triton==$(TRITON) numpy pytest pytest-asyncio hypothesis
	touch $@

test-kernels: $(KERNELS)/.ready  ## run the Triton kernels in its interpreter, no GPU needed
	TRITON_INTERPRET=1 $(KERNELS)/bin/python -m pytest tests/kvedit/executors/gpu $(ARGS)

test-real: $(READY)        ## run real models: MODELS=dir of folders and GGUF files (SERVE="--dtype bfloat16")
	MODELS="$(abspath $(MODELS))" SERVE="$(SERVE)" $(BIN)/python -m pytest tests/real $(ARGS)

# apart from `test`: node and its packages are nothing that the server needs
editors: $(READY)          ## build and test the VS Code extension (node 20 or later, npm)
	@{ command -v node && command -v npm; } >/dev/null || { echo "make editors must have node 20 or later and npm, got none; install them"; exit 1; }
	cd editors/vscode && npm ci --no-audit --no-fund && npm run package
	cd editors/vscode && EVENHAND="$(abspath $(BIN)/evenhand)" npm test

check: $(READY)            ## lint, format, types (tests too), layers
	$(BIN)/ruff check $(SOURCE)
	$(BIN)/ruff format --check $(SOURCE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY)           ## rewrite the source in house style
	$(BIN)/ruff check --fix $(SOURCE)
	$(BIN)/ruff format $(SOURCE)

bench: $(READY)            ## run every benchmark (ARGS=--quick)
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

evidence: $(READY)         ## measure judges and readers on real models: MODELS=dir DATA=dir (ARGS=--full)
	$(BIN)/evenhand evidence "$(MODELS)" --data "$(DATA)" $(ARGS)

build: $(READY)            ## build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(KERNELS) dist editors/vscode/node_modules editors/vscode/dist editors/vscode/out .mypy_cache .ruff_cache .pytest_cache .hypothesis
