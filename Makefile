# The commands that a person types. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --require-virtualenv

# Where it is set, each of the hundreds of processes that tests and services start compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo up down test test-slow test-services test-all test-export coverage pictures tutorial docs soak check format lock clean bench bench-learning bench-optimum bench-scaling bench-services bench-coverage bench-feedback bench-promotion bench-gpu

help: ## Say what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/installed ## Align the embedded default: data, SFT, reward models, PPO, evaluation, model card.
	$(BIN)/rlhf run configs/demo.yaml

up: .venv/installed ## Start Prefect, MLflow and a worker; Ctrl-C or `make down` stops them. ARGS="--prefect-port 4300"
	$(BIN)/rlhf up $(ARGS)

down: ## Stop what `make up` has started.
	$(BIN)/rlhf down

# A file's tests stay in one process, for they share fixtures, and servers that the last of them stops. The files go out
# in pytest's own order: those of whole flows, which take longest, come first, and no process meets two files in an order
# in which pytest alone would not.
PROCESSES ?= 2
SHARED_OUT = --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

test: .venv/installed-dev ## Run the tests, but for those that are long by nature and those on servers. PROCESSES=2
	$(BIN)/pytest $(SHARED_OUT)

test-slow: .venv/installed-dev ## Tests of whole pipelines, of crashes and of several processes.
	$(BIN)/pytest -m "slow and not soak" $(SHARED_OUT)

test-services: .venv/installed-dev ## Tests on real servers, through a real browser, with real crashes: about 15 minutes.
	$(BIN)/pytest -m "services and not soak" $(SHARED_OUT)

test-all: .venv/installed-dev ## The three above as one, which takes less time: what CI runs.
	$(BIN)/pytest -m "not soak" --durations 25 $(SHARED_OUT)

test-export: .venv/installed-dev ## Export by llama.cpp's own tools. LLAMA_CPP=DIR, a checkout with llama-server built.
	LLAMA_CPP=$(LLAMA_CPP) $(BIN)/pytest -s -m soak tests/flows/test_export.py

coverage: PROCESSES = 3
coverage: .venv/installed-dev ## Say which lines no test reaches, processes that tests start included.
	$(BIN)/pytest -m "not soak" --cov $(SHARED_OUT)

pictures: .venv/installed-dev ## Take the pictures of docs/operating.md anew, of runs of the demo.
	RLHF_PICTURES=docs/pictures $(BIN)/pytest -m "services or soak" tests/flows/test_user_interface.py tests/flows/test_review_page.py

tutorial: .venv/installed-dev ## Run the commands of docs/tutorial.md, and write what they print into it.
	RLHF_TUTORIAL=1 $(BIN)/pytest -m slow tests/docs/test_tutorial.py

docs: .venv/installed-dev ## Build the documentation in .site/html; a broken link, anchor or page is an error.
	$(BIN)/python docs/build_site.py

soak: .venv/installed-dev ## Crashes, hangs and full disks in every stage, forty runs at once, whole matrices: hours.
	RLHF_HANG_SECONDS=300 $(BIN)/pytest -m soak
	RLHF_FILES=12000 RLHF_FILES_SEED=$$(date +%s) $(BIN)/pytest tests/rlhf/data/importing/test_forms.py

check: .venv/installed-dev ## Formatting, lint, types, and the contracts between the layers.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

prefect.yaml: .venv/installed rlhf/stages.py flows/servers/prefect_yaml.py ## Write the deployments anew.
	$(BIN)/python -m flows.servers.prefect_yaml

docs/scaling.md: .venv/installed $(wildcard rlhf/planning/*.py) configs/gpu.yaml benchmarks/scaling_page.py ## Write its tables anew.
	$(BIN)/python -m benchmarks.scaling_page
	@touch $@

format: .venv/installed-dev ## Put the code in form.
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# BUSY=1 measures on a busy machine and says so; FRESH=1 uses no result of an earlier call; QUICK=1 is a smoke;
# ARGS holds further flags, such as ARGS="--threads 1" (each program has --help).
BENCH_FLAGS = $(if $(BUSY),--busy) $(if $(FRESH),--fresh) $(ARGS)

bench: .venv/installed ## Ours beside TRL's last PPO, in pairs. CASES="20M-epochs4 ..." PAIRS=5 QUICK=1 BUSY=1 FRESH=1
	$(BIN)/python -m benchmarks.run $(CASES) $(if $(PAIRS),--pairs $(PAIRS)) $(if $(QUICK),--quick) $(BENCH_FLAGS)

bench-learning: .venv/installed ## Does ours learn as well, and how much sooner? Five seeds a side.
	$(BIN)/python -m benchmarks.learning $(BENCH_FLAGS)

bench-optimum: .venv/installed ## Does PPO reach an optimum that is known? 60 runs and four planted faults. QUICK=1 FRESH=1
	$(BIN)/python -m benchmarks.optimum $(if $(QUICK),--quick) $(if $(FRESH),--fresh) $(ARGS)

bench-scaling: .venv/installed ## Cost against response length, rollout size and model size.
	$(BIN)/python -m benchmarks.scaling $(BENCH_FLAGS)

bench-services: .venv/installed ## What orchestration costs: start, share of the demo, a cached run.
	$(BIN)/python -m benchmarks.services $(if $(BUSY),--busy) $(ARGS)

bench-promotion: .venv/installed ## False promotions over nights, and how soon a better candidate is promoted. Minutes.
	$(BIN)/python -m benchmarks.promotion $(ARGS)

bench-feedback: .venv/installed ## Rounds of feedback against one, a judge's labels against people's: an hour and a half.
	$(BIN)/python -m benchmarks.feedback $(ARGS)

bench-coverage: .venv/installed ## How often the printed intervals hold the truth, on simulated data. ARGS="--only share"
	$(BIN)/python -m benchmarks.coverage $(ARGS)

bench-gpu: .venv/installed ## 160M and 1B parameters on a CUDA device.
	$(BIN)/python -m benchmarks.gpu $(ARGS)

clean: ## Remove what can be made again: environment, caches, stages' working folders. Never data/ or mlruns/.
	rm -rf .venv .rlhf .site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.*
	find . -name __pycache__ -type d -not -path './data/*' -not -path './mlruns/*' -prune -exec rm -rf {} +

# The environment. requirements-dev.lock holds all of requirements.lock at the same versions, so `make test` makes what
# `make demo` needs as well, and neither undoes the other.
.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the path; name a Python 3.11 or newer: make PYTHON=python3.12 demo" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), and 3.11 or newer is needed; name one: make PYTHON=python3.12 demo" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: requirements.lock pyproject.toml | .venv/bin/python
	$(call install,requirements.lock)
	@touch $@

.venv/installed-dev: requirements-dev.lock requirements.lock pyproject.toml | .venv/bin/python
	$(call install,requirements-dev.lock)
	@touch .venv/installed $@

# Counts on standard output what pip found; what pip complains of stays on standard error. The mark stands for pip's
# exit status, which a pipe loses in a plain sh.
define install
	@echo "Installing $(1) into .venv: about 2 GB, some minutes"
	@touch .venv/failed
	@{ $(PIP) install --requirement $(1) && $(PIP) install --no-deps --no-build-isolation --editable . \
		&& rm .venv/failed; } | awk '/^Collecting/ && ++n % 40 == 0 {print "  " n " packages found"} \
		/^Installing collected/ {print "  installing"}'
	@test ! -e .venv/failed
endef

# The lock names no CUDA packages and no hashes (docs/adr/0006-one-lock.md): where the CUDA build of torch is what a
# person gets, torch's own exact pins bring them.
CUDA := cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx triton
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--no-annotate $(addprefix --no-emit-package ,$(CUDA))

lock: .venv/installed-dev ## Compile both lock files from pyproject.toml. Delete them first to move to newer versions.
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
