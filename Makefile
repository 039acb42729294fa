# Everything a newcomer needs: `make quickstart`, `make test`. All targets make their own .venv first.
# Another interpreter: `make PYTHON=/path/to/python3.11 quickstart`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PYTHON ?= $(shell tools/find_python.sh)
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
DEPLOY_READY := $(VENV)/.ready-deploy
QUICKSTART := output/quickstart
DETECTION := output/detection/quickstart
SONAR := dataset/synthetic_sonar
PYTEST_OPTIONS ?=
TEST_PROCESSES ?= 2

.PHONY: help setup setup-deploy quickstart quickstart-detection test test-slow test-portable test-gpu test-browser lint bench doctor clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY)  ## make .venv from requirements.lock (1 to 5 minutes)

# The stamp is written last: a set-up that was interrupted is repeated. A changed lock makes .venv anew, because
# `pip install` would leave behind what the new lock no longer names.
$(READY): requirements.lock
	@tools/find_python.sh --check "$(PYTHON)"
	@echo "setting up $(VENV) with $$("$(PYTHON)" --version) (about 1.5 GB, 1 to 5 minutes)"
	@rm -rf $(VENV)
	@"$(PYTHON)" -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEPLOY_READY): requirements-deploy.lock $(READY)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-deploy.lock
	@touch $@

setup-deploy: $(DEPLOY_READY)  ## add ONNX Runtime, OpenVINO and NNCF to .venv

quickstart: $(READY)  ## train on the digits, evaluate, export and predict (under 2 minutes on 2 cores)
	$(RUN) tools/train.py -c configs/quickstart.yaml --resume auto
	$(RUN) tools/eval.py -c configs/quickstart.yaml -o Global.pretrained_model=$(QUICKSTART)/checkpoints/best
	$(RUN) tools/export_model.py -c configs/quickstart.yaml \
		-o Global.pretrained_model=$(QUICKSTART)/checkpoints/best --output $(QUICKSTART)/export
	$(RUN) tools/prepare_data.py samples -c configs/quickstart.yaml --count 28 --output $(QUICKSTART)/samples
	$(RUN) tools/infer.py --model $(QUICKSTART)/export --input $(QUICKSTART)/samples --save $(QUICKSTART)/predictions.png \
		--overwrite

quickstart-detection: $(READY)  ## train a detector on synthetic sonar frames, export, draw what it finds (4 minutes on 2 cores)
	[ -f $(SONAR)/.prepared ] || $(RUN) tools/prepare_data.py synthetic --output $(SONAR)
	$(RUN) tools/check_data.py -c configs/detection/quickstart.yml --output $(DETECTION)/check
	$(RUN) tools/train.py -c configs/detection/quickstart.yml --resume auto
	$(RUN) tools/export_model.py -c configs/detection/quickstart.yml \
		-o weights=$(DETECTION)/checkpoints/best --output $(DETECTION)/export
	$(RUN) tools/infer.py --model $(DETECTION)/export --input "$(SONAR)/images/val_0000*.png" \
		--save $(DETECTION)/predictions.png --overwrite
	$(RUN) tools/eval.py -c configs/detection/quickstart.yml -o weights=$(DETECTION)/checkpoints/best

test: $(READY)  ## the tests that every change must pass
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not slow" --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_OPTIONS)

test-slow: $(READY)  ## the long tests: compiled training, resuming in two processes, the whole benchmark
	$(RUN) -m pytest -m slow $(PYTEST_OPTIONS)

test-portable: $(READY)  ## the tests that compare numbers, as on older processors and with 1, 2 and 4 threads
	MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 $(RUN) -m pytest -m "portable and not slow" $(PYTEST_OPTIONS)
	MKL_CBWR=COMPATIBLE $(RUN) -m pytest -m "portable and not slow" $(PYTEST_OPTIONS)
	for threads in 1 2 4; do \
		OMP_NUM_THREADS=$$threads $(RUN) -m pytest -m "portable and not slow" $(PYTEST_OPTIONS) || exit 1; \
	done

test-gpu: $(READY)  ## the tests that need a GPU (make test reports them as skipped without one)
	$(RUN) -m pytest -m gpu $(PYTEST_OPTIONS)

test-browser: $(READY)  ## tools/serve.py's page in a real browser (Debian: apt-get install chromium chromium-driver)
	@$(RUN) -c "import selenium" 2>/dev/null || $(RUN) -m pip install --quiet "selenium>=4.20,<5"
	BROWSER_REQUIRED=1 $(RUN) -m pytest tests/ppcls_ext/deploy/test_serve_browser.py $(PYTEST_OPTIONS)

lint: $(READY)  ## ruff
	$(RUN) -m ruff check .

bench: $(DEPLOY_READY)  ## measure the input pipeline, inference and start-up; writes output/benchmark.md
	$(RUN) tools/benchmark.py --output output/benchmark.md --overwrite

doctor: $(READY)  ## what is installed, what is refused and why, and whether this machine can train
	$(RUN) tools/doctor.py

clean:  ## remove .venv, caches and build leftovers (keeps output/)
	rm -rf $(VENV) build dist ./*.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
