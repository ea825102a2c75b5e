# make demo    merge a real adapter into a real model, check it, print the summary (no torch)
# make test    everything the tests need, then the tests
# make lint    style, types, the import contract
# make docs    regenerate what is generated: the README's picture, the command reference
# make fixtures  write the zoo of tiny models and adapters to build/zoo
# make fuzz    the readers of strangers' bytes, ten minutes each
# make bench   the measured table of the README (needs the test extra and a few GB of disk)

PYTHON ?= python3
VENV   ?= .venv
PIP     = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN     = $(VENV)/bin/python

.PHONY: demo test lint docs fixtures fuzz bench clean

demo: $(VENV)/.core
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash fixtures/demo.sh build/demo

test: $(VENV)/.test
	$(RUN) -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: $(VENV)/.dev
	$(RUN) docs/generate.py

fixtures: $(VENV)/.test
	$(RUN) fixtures/make.py build/zoo

fuzz: $(VENV)/.test
	FUZZ_SECONDS=600 $(RUN) -m pytest tests/test_fuzz.py

bench: $(VENV)/.test
	$(RUN) benchmarks/merge.py
	$(RUN) benchmarks/gguf.py
	$(RUN) benchmarks/validate.py
	$(RUN) benchmarks/diff.py
	$(RUN) benchmarks/check.py

clean:
	rm -rf $(VENV) build dist

$(VENV)/.core: pyproject.toml hatch_build.py adaptool/tensors/_kernels.c $(wildcard adaptool/tensors/ggml/*.[ch])
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up: adaptool and what it needs"
	@$(PIP) --editable '.[runtime]'
	@touch $@

$(VENV)/.test: $(VENV)/.core constraints.txt
	@echo "setting up: what the tests need (torch, transformers, peft: a few hundred MB)"
	@$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	@$(PIP) --editable '.[dev]'
	@touch $@
