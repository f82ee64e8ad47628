# Every target makes the virtual environment by itself when it is missing or out of date.

PYTHON     ?= python3
EXPERIMENT ?= cnn_prune
SWEEP      ?= $(EXPERIMENT)
ARGS       ?=

VENV  := .venv
RUN   := $(VENV)/bin/python
STAMP := $(VENV)/.installed
CODE  := src tests benchmarks examples docs/hooks

COMMAND = +experiment=$(EXPERIMENT) $(ARGS) -m

.DEFAULT_GOAL := help
.PHONY: help sweep plan status report sync dashboard test versions lint type bench notebooks docs dist clean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo
	@echo '  make sweep EXPERIMENT=cnn_prune ARGS="data=dhcd"  another experiment, further overrides'
	@echo '  make report SWEEP=adhoc                           the report of multirun/adhoc'
	@echo '  make test ARGS="-k similarity"                    arguments for pytest'
	@echo '  make test PYTHON=python3.13                       the Python of a new environment (3.11 to 3.13)'

# The report is written even when cells failed; the target then still fails.  No folder means that nothing was launched.
# Its kinds of figures are those of this command, which has imported modules of one's own already: hence --trust.
sweep: $(STAMP)  ## run every cell of an experiment that is not finished, then write its report
	@code=0; \
	$(RUN) -m capsexp $(COMMAND) || code=$$?; \
	folder="$$($(RUN) -m capsexp.plan --folder $(COMMAND) 2>/dev/null)"; \
	if [ $$code -ne 130 ] && [ -n "$$folder" ] && [ -f "$$folder/sweep.json" ]; then \
		$(RUN) -m capsexp.report "$$folder" --trust || code=$$?; \
	fi; \
	exit $$code

plan: $(STAMP)  ## tell what make sweep would run, what is done, and what the rest will cost
	@$(RUN) -m capsexp.plan $(COMMAND)

status: $(STAMP)  ## tell how far a sweep is
	@$(RUN) -m capsexp.status multirun/$(SWEEP)

report: $(STAMP)  ## write tables, figures and the page of a sweep
	@$(RUN) -m capsexp.report multirun/$(SWEEP) $(ARGS)

sync: $(STAMP)  ## upload the Weights & Biases runs that were kept offline
	@$(RUN) -m capsexp.sync $(ARGS)

dashboard: $(STAMP)  ## make a Weights & Biases workspace for a sweep
	@$(RUN) -m capsexp.dashboard multirun/$(SWEEP) $(ARGS)

# Compiled modules are kept, whatever the environment says: the tests start many processes.
test: $(STAMP)  ## run the tests
	@PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest -n 3 --dist loadscope $(ARGS)

# An environment of its own for each; a Python that is not there is left out, and said.
versions:  ## run the tests with each Python from 3.11 to 3.13 that is there
	@code=0; for minor in 11 12 13; do \
		if "python3.$$minor" -c "" 2>/dev/null; then \
			$(MAKE) test PYTHON="python3.$$minor" VENV=".venv-3.$$minor" || code=1; \
		else echo "python3.$$minor is not there"; fi; \
	done; exit $$code

lint: $(STAMP)  ## check style and formatting
	@$(RUN) -m ruff check $(CODE)
	@$(RUN) -m ruff format --check $(CODE)

type: $(STAMP)  ## check types
	@$(RUN) -m mypy

bench: $(STAMP)  ## measure the framework against plain references
	@$(RUN) benchmarks/epoch_time.py
	@$(RUN) benchmarks/autoencoder.py --rounds 1
	@$(RUN) benchmarks/capsule_layer.py
	@$(RUN) benchmarks/fast_inference.py
	@$(RUN) benchmarks/chip_scores.py
	@$(RUN) benchmarks/deep_capsnet.py
	@$(RUN) benchmarks/cell_overhead.py
	@$(RUN) benchmarks/sweep_speed.py
	@$(RUN) benchmarks/memory_estimate.py

notebooks: $(STAMP)  ## run the example notebooks from top to bottom, and store their outputs
	@$(RUN) examples/notebooks/execute.py

docs: $(STAMP)  ## build the documentation site into site/, strictly
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "site/index.html"

dist: $(STAMP)  ## build the wheel and the source distribution into dist/, and check them
	@rm -rf dist
	@$(RUN) -m build --no-isolation --outdir dist > /dev/null
	@$(RUN) -m twine check --strict dist/*

clean:  ## remove caches and build outputs; results and the environment stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@echo "making the virtual environment in $(VENV) (once)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
