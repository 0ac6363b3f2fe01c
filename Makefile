# Everything happens in .venv and in folders that are not committed. `make run` and `make test` need Python 3.11+ with venv, make,
# and apt-get with network (Debian, Ubuntu) or a QEMU of the system; see README.md.
PYTHON ?= python3
CMD ?= python3 -c 'import platform; print("hello from Python", platform.python_version(), "on Linux", platform.release())'
VENV := .venv
BIN := $(VENV)/bin
MACHINE := $(shell uname -m)
AGENT := src/agentkernel/_bin/agent-$(MACHINE)
SUPERVISOR := src/agentkernel/_bin/supervisor-$(MACHINE)
export AGENTKERNEL_PYTHON := $(CURDIR)/$(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
QUIET := --quiet
# The drivers whose tests must run and not be skipped: root can start engines, and hold sandboxes to their limits.
REQUIRED := qemu $(if $(filter 0,$(shell id -u)),docker podman gvisor)

.PHONY: run test test-deep check bench docs wheel native test-tools clean
.DEFAULT_GOAL := run

# Standard output belongs to the command that runs in the sandbox; everything of ours goes to standard error.
run: native
	@$(BIN)/agentkernel setup --for-command $(firstword $(CMD)) >&2
	@$(BIN)/agentkernel run -- $(CMD)

test: $(VENV)/.dev native test-tools
	$(BIN)/pytest -m "not deep" $(REQUIRED:%=--require-driver=%)

test-deep: $(VENV)/.dev native test-tools
	$(BIN)/pytest --hypothesis-profile=deep $(REQUIRED:%=--require-driver=%)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/reference.py --check

# A quarter of an hour or more on two cores, most of it in the two that compare tiers. Each prints a table, and leaves its record and the picture in benchmarks/out/.
bench: $(VENV)/.bench native
	$(BIN)/python benchmarks/exec.py
	$(BIN)/python benchmarks/daemon.py
	$(BIN)/python benchmarks/cli.py
	$(BIN)/python benchmarks/boot.py
	$(BIN)/python benchmarks/clone.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/burst.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/wasm.py
	$(BIN)/python benchmarks/tiers.py
	$(BIN)/python benchmarks/neighbour.py --seconds 4
	$(BIN)/python benchmarks/plot.py

docs: $(VENV)/.dev
	$(BIN)/python tools/reference.py

# One wheel for both architectures: it carries both agents and both supervisors, static, and everything else is Python. So its tag is
# py3-none-any; on any other architecture or system it installs, and says there that it cannot make a microVM.
wheel: $(VENV)/.dev
	@$(MAKE) -s -C guest agent-x86_64 agent-aarch64
	@$(MAKE) -s -C host ARCH=x86_64
	@$(MAKE) -s -C host ARCH=aarch64
	$(BIN)/python -m build --wheel

test-tools:
	@tools/test-tools.sh

# The guest agent and the supervisor, for this machine: C, static, a second to build.
native: $(VENV)/.installed $(VENV)/.compiler
	@$(MAKE) -s -C guest >&2
	@$(MAKE) -s -C host >&2

$(VENV)/.compiler: | $(VENV)/.installed
	@tools/cc.sh $(MACHINE) >/dev/null 2>&1 || { echo "no C compiler here: fetching ziglang" >&2; $(BIN)/pip install $(QUIET) ziglang >&2; }
	@tools/cc.sh $(MACHINE) >/dev/null
	@touch $@

$(VENV)/.installed: pyproject.toml
	@echo "preparing $(VENV)" >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >&2
	@$(BIN)/pip install $(QUIET) --upgrade 'pip>=25.1' >&2
	@$(BIN)/pip install $(QUIET) --editable . >&2
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@$(BIN)/pip install $(QUIET) --group dev >&2
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(BIN)/pip install $(QUIET) --group bench >&2
	@touch $@

clean:
	rm -rf $(VENV) build dist guest/build host/build src/agentkernel/_bin .pytest_cache .mypy_cache .ruff_cache .hypothesis
