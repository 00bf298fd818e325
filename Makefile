# Everything runs in .venv, made from the pinned set in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
LAUNCH := $(BIN)/accelerate launch --num_machines 1 --mixed_precision no --dynamo_backend no
# Without a GPU a process for each core, up to the demo's six stacks: each trains stacks of its own.
CORES := $(shell nproc 2>/dev/null || echo 1)
PROCESSES := $(shell command -v nvidia-smi >/dev/null && echo 1 || echo $$(($(CORES) < 6 ? $(CORES) : 6)))
ifeq ($(PROCESSES),1)
LAUNCH += --num_processes 1
else
LAUNCH := ACCELERATE_USE_CPU=true $(LAUNCH) --multi_gpu --num_processes $(PROCESSES)
endif
DEMO := results/runs/demo

TRIALS ?= 200

.PHONY: install demo test faults lint clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed  ## Train the demo grid, evaluate it, print its table, draw its figures
	$(LAUNCH) harness/run.py demo
	$(BIN)/harness evaluate $(DEMO) --companions
	$(BIN)/harness plot $(DEMO)
	@echo
	@echo "Runs:    $(DEMO)/runs/<id>/   (settings, history, snapshots, samples, evaluation)"
	@echo "Table:   .venv/bin/harness table $(DEMO)"
	@echo "Figures: $(DEMO)/plots/"

test: .venv/installed-dev  ## Run every test, a process on each core; their threads sleep while they wait
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses $(CORES) --dist loadfile

faults: .venv/installed-dev  ## Kill a tiny grid and fail its disk TRIALS times; nothing may be lost
	$(BIN)/python tests/faults/trials.py --trials $(TRIALS)

lint: .venv/installed-dev  ## Style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
