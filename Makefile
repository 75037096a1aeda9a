# Everything a user or a developer types. Needs make and a Python 3.11, 3.12 or 3.13 with venv; installs into .venv only.
#
#   PYTHON  the Python that .venv is made from          make lab PYTHON=python3.12
#   TORCH   cpu or cuda: which build of PyTorch 2.13.0   make lab TORCH=cpu      (default: cuda with an NVIDIA GPU, else cpu)
#   PORT    where the dashboard listens                 make lab PORT=8000      (default: 5006; if taken, the next free one)
#   SOAK    --soak: bench-page watches the Train page's memory for 30 minutes
#   ARGS    more arguments for pytest or a benchmark    make test ARGS="-k window"

PYTHON ?= python3
TORCH ?=
PORT ?= 5006
ARGS ?=

RUN = .venv/bin/python
NO_PYTHON = anderson-lab: found no $(PYTHON); install Python 3.11, 3.12 or 3.13, or name it: make lab PYTHON=/path/to/python3
SETUP = command -v "$(PYTHON)" >/dev/null || { echo "$(NO_PYTHON)" >&2; exit 1; }; "$(PYTHON)" setup_env.py --torch "$(TORCH)"
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)

.DEFAULT_GOAL := help
.PHONY: help lab test notebooks bench bench-steps bench-restarts bench-wall bench-choices bench-predictions bench-memory bench-train bench-plugin bench-kills bench-sweep-kills bench-page bench-sweep bench-store bench-counts gpu-record lint clean

help: ## List these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r name text; do printf '%-22s %s\n' "$$name" "$$text"; done

lab: ## Start the dashboard and print its address (Ctrl+C stops it)
	@$(SETUP) lab,data,sweeps
	@port=$$($(RUN) setup_env.py --free-port "$(PORT)") && \
	echo "Anderson Lab starts at  http://127.0.0.1:$$port/app  (Ctrl+C stops it)" && \
	exec $(RUN) -m panel serve lab/app.py --address 127.0.0.1 --port $$port

test: ## Run all tests (browser tests skip where there is no Chromium)
	@$(SETUP) lab,data,sweeps,test
	@$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

notebooks: ## Open JupyterLab on the teaching notebooks
	@$(SETUP) lab,data,sweeps,notebooks
	@$(RUN) -m jupyter lab --notebook-dir=notebooks $(AS_ROOT)

bench: bench-steps bench-restarts bench-wall bench-choices bench-predictions ## These five; tables and run cards go to benchmarks/results

bench-steps: ## Measure a step beside torchdeq, SciPy and a copy of memory, on one CPU thread
	@$(SETUP) lab,test,bench
	@$(RUN) benchmarks/steps.py $(ARGS)

bench-restarts: ## Count the evaluations that each way to keep a history takes
	@$(SETUP) lab,test
	@$(RUN) benchmarks/restarts.py

bench-wall: ## Time whole solves against forward iteration
	@$(SETUP) lab,test
	@$(RUN) benchmarks/wall.py

bench-choices: ## Compare automatic and random windows and mixings with fixed ones, in pairs
	@$(SETUP) lab
	@$(RUN) benchmarks/choices.py

bench-predictions: ## Predict the speed-up from a quarter of the evaluations, and measure it
	@$(SETUP) lab,test
	@$(RUN) -m benchmarks.predictions

bench-memory: ## Measure the peak memory of a training step against its evaluations
	@$(SETUP) lab
	@$(RUN) benchmarks/memory.py

bench-train: ## Train with forward iteration and with Anderson in three regimes, and beside torchdeq (an hour; goes on where it was ended)
	@$(SETUP) lab,test,bench
	@$(RUN) -m benchmarks.train $(ARGS)

bench-kills: ## Kill a training at random moments and compare its last bits with those of one that was left alone
	@$(SETUP) lab,test
	@$(RUN) -m benchmarks.kills $(ARGS)

bench-sweep-kills: ## Kill the driver, workers and the scheduler of sweeps, resume them, count the rows (half an hour)
	@$(SETUP) lab,sweeps,test
	@$(RUN) -m benchmarks.sweep_kills $(ARGS)

bench-plugin: ## Train three torchdeq programs with torchdeq's solvers and with ours
	@$(SETUP) lab,test,bench
	@$(RUN) -m benchmarks.plugin $(ARGS)

bench-page: ## Measure how fast the dashboard answers, in headless Chromium
	@$(SETUP) lab,test
	@$(RUN) benchmarks/page.py $(ARGS); first=$$?; $(RUN) -m benchmarks.page_train $(SOAK) && exit $$first

bench-sweep: ## Measure what a sweep costs beside its solves, and what its engines gain (ten minutes)
	@$(SETUP) sweeps
	@$(RUN) benchmarks/sweep.py $(ARGS)

bench-store: ## Measure how fast a store of a million rows is read, shown and brushed, and read while it is written
	@$(SETUP) lab,data,sweeps,test
	@$(RUN) -m benchmarks.store $(ARGS)

bench-counts: ## Count the evaluations that the project promises (a minute)
	@$(SETUP) lab,test
	@$(RUN) benchmarks/counts.py

gpu-record: ## Record this machine's GPU beside its CPU under assets/recordings (8 minutes)
	@$(SETUP) lab
	@$(RUN) -m andersonn_core.record $(ARGS)

lint: ## Check the style (ruff) and the types of the core (mypy strict)
	@$(SETUP) lab,test
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

clean: ## Remove .venv and everything else that these commands made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist test-results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
