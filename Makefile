# Every target makes the environment it needs in .venv and reuses it while pyproject.toml and constraints.txt are unchanged.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
OLDEST := .venv-oldest

.PHONY: demo test test-jax test-javascript test-c test-ranges test-oldest test-all gpu-wheels rehearse-gpu check docs format wheel clean

demo: $(READY)  ## train, export, verify and sample a small model
	$(BIN)/kvae demo --out runs/demo --overwrite

test: test-jax  ## the everyday tests
	KERAS_BACKEND=tensorflow $(BIN)/pytest -n auto --dist worksteal

test-jax: $(READY)  ## those of them that run on JAX too
	KERAS_BACKEND=jax $(BIN)/pytest -m "both and not slow" -n auto --dist worksteal $(shell grep -l mark.both tests/test_*.py)

test-javascript: $(READY)  ## the examples in Node and in a browser: needs Node 20, npm and Chromium
	cd examples/javascript && npm install --no-package-lock --no-audit --no-fund
	KERAS_BACKEND=tensorflow $(BIN)/pytest -m "javascript and not nightly" -n auto --dist worksteal tests/test_examples_javascript.py \
		tests/test_serving_page.py

test-c: $(READY)  ## the client in C: needs cc, libcjson-dev and the headers of onnxruntime, whose folder KVAE_ONNXRUNTIME_HEADERS names
	KERAS_BACKEND=tensorflow $(BIN)/pytest -m compiler tests/test_examples_c.py

test-ranges: $(READY)  ## the sampler alone with the lowest and with the newest numpy and onnxruntime
	KERAS_BACKEND=tensorflow $(BIN)/pytest -m ranges tests/test_house_wheel.py

test-oldest:  ## every extra in its lowest version, in an environment of its own (2 GB), before each release
	rm -rf $(OLDEST) && $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[all]' \
		httpx hypothesis pytest schemathesis scipy setuptools
	KERAS_BACKEND=jax $(OLDEST)/bin/pytest -m "(both or jax) and not slow" \
		$(addprefix tests/test_,$(addsuffix .py,kvae_model kvae_heads training_fit))
	KERAS_BACKEND=tensorflow $(OLDEST)/bin/pytest $(addprefix tests/test_,$(addsuffix .py,kvae_model kvae_heads kvae_flows \
		training_fit training_pretrained training_experiment training_backends training_tensorboard training_tokenizers \
		training_text_metrics training_tune kvae_texts_formats export_bundle export_systems export_quantization \
		export_saved_model serving_sampler serving_server kvae_bulk house_wheel))

test-all: $(READY)  ## the slow ones too, and on JAX all that run there
	KERAS_BACKEND=jax $(BIN)/pytest -m "both or jax"
	KERAS_BACKEND=tensorflow $(BIN)/pytest -m ""

GPU_WHEELS := absl-py h5py keras keras-hub keras-nlp markdown-it-py mdurl ml_dtypes namex optree packaging pygments regex rich \
	tokenizers typing_extensions

gpu-wheels: $(READY)  ## what benchmarks/gpu.py needs where there is no network, for Python 3.12, in build/gpu
	rm -rf build/gpu && mkdir -p build/gpu
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		--constraint constraints.txt --dest build/gpu $(GPU_WHEELS)
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir build/gpu .
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/gpu.py --pack

rehearse-gpu: $(READY)  ## benchmarks/gpu.py on the CPU with tiny shapes, where TensorFlow cannot be imported
	rm -rf build/rehearsal
	PYTHONPATH=tests/without_tensorflow $(BIN)/python benchmarks/gpu.py --rehearse --json build/rehearsal/gpu.json --out build/rehearsal/run

check: $(READY)  ## lint, format, types, layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types build/lib && $(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/types .
	$(BIN)/mypy
	$(BIN)/pytest --no-header --noconftest -q tests/test_house_layering.py

docs: $(READY)  ## the documentation site, built and checked, in build/site: open build/site/index.html
	KERAS_BACKEND=tensorflow $(BIN)/pytest -q -m site tests/test_house_site.py

format: $(READY)  ## apply what check asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY)  ## dist/*.whl, kvae and the sampler alone, built from source archives, so that no stale file slips in
	rm -rf build dist && $(BIN)/python -m build --no-isolation && $(BIN)/python -m build --no-isolation --outdir dist serving

clean:  ## everything made by the targets above
	rm -rf $(VENV) $(OLDEST) build dist runs *.egg-info serving/*.egg-info

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "kvae needs Python 3.11 to 3.13 (TensorFlow has no newer build); name one: make PYTHON=python3.13"; exit 1; }
	@echo "setting up $(VENV), once: about 4 GB, one to three minutes"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
