# `make demo` and `make test` need nothing done before them on a fresh machine.
PYTHON ?= python3
MUJOCO_GL ?= egl
export MUJOCO_GL
# Worker processes share the cores; BLAS threads under them only get in each other's way.
test bench: export OMP_NUM_THREADS = 1
# Threads that wait in busy loops slow each other down when anything else runs.
demo: export OMP_WAIT_POLICY = PASSIVE
BIN := .venv/bin

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: help demo test alfworld ogbench check format bench clean
.DELETE_ON_ERROR:

demo: .venv/.installed  ## logs -> three policies -> success rates, video and report in runs/demo
	$(BIN)/qsft-robot demo --out runs/demo

test: .venv/.installed .venv/.alfworld .venv/.ogbench  ## every test, on two worker processes
	$(BIN)/python -m pytest -n 2 --dist worksteal

alfworld: .venv/.installed  ## ALFWorld's text engine, which is compiled: minutes, and a C++ compiler
	bash scripts/set_up_alfworld.sh
	touch .venv/.alfworld

ogbench: .venv/.installed  ## OGBench's manipulation scenes and their oracles
	bash scripts/set_up_ogbench.sh
	touch .venv/.ogbench

check: .venv/.installed  ## lint, format, types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: .venv/.installed
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: .venv/.installed  ## our speed against the peers', into docs/benchmarks.md
	$(BIN)/python scripts/run_benchmarks.py

clean:  ## caches and build leftovers; runs/ and .venv/ stay
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/.installed: requirements.lock pyproject.toml scripts/set_up.sh
	PYTHON=$(PYTHON) bash scripts/set_up.sh
	touch $@

.venv/.alfworld: .venv/.installed requirements-alfworld.lock scripts/set_up_alfworld.sh
	bash scripts/set_up_alfworld.sh || echo "Going on without it: the tests of ALFWorld are skipped."
	touch $@

.venv/.ogbench: .venv/.installed requirements-ogbench.lock scripts/set_up_ogbench.sh
	bash scripts/set_up_ogbench.sh || echo "Going on without it: the tests of OGBench are skipped."
	touch $@
