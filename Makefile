# `make demo` and `make test`, and what a developer needs besides. Each target makes the virtual
# environment that it needs.
#
#   PYTHON=/path/to/python   the interpreter, 3.10 to 3.13 (default: the first one found)
#   BAG=path                 demo: another recording than the shipped one
#   MINUTES=30               soak: how long (default: 2)
#   ARGS='...'               more arguments for demo, bench or test

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# .venv has everything; .venv-demo has no torch, and is not made where .venv is there already.
extras_.venv := ros,openvino,demo,cluster,train,structure,test
extras_.venv-demo := ros,demo
size_.venv := several GB
size_.venv-demo := 1 GB
demo_venv := $(if $(wildcard .venv/.complete),.venv,.venv-demo)

# A sourced ROS 2 brings libraries and Python packages that do not fit the environment's own, and
# the ROS wheels leave their library path to child processes.
clean_env := env -u PYTHONPATH -u PYTHONHOME -u LD_LIBRARY_PATH -u _ROS_WHEELS_BOOTSTRAP_COMPLETE \
	-u RMW_IMPLEMENTATION -u ROS_DISTRO -u COLCON_PREFIX_PATH -u CMAKE_PREFIX_PATH

# $(call in,VENV) runs a command in an environment, which is also an ament prefix. Discovery stays
# on this machine.
in = $(clean_env) VIRTUAL_ENV='$(CURDIR)/$(1)' AMENT_PREFIX_PATH='$(CURDIR)/$(1)' \
	PATH='$(CURDIR)/$(1)/bin':"$$PATH" ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST

# A few test files at a time, so that torch and the like need no threads of their own; many tests
# wait for discovery, so that there may be more than cores.
pytest = OMP_NUM_THREADS=1 python -m pytest -n $$(($$(nproc) > 5 ? 8 : 3 * $$(nproc) / 2)) --dist loadfile

# Sets $python to an interpreter that runs, fits and can make virtual environments. Version
# managers leave commands on the path that do not run: only a try tells.
candidates := $(if $(PYTHON),'$(PYTHON)',python3 python3.12 python3.11 python3.13 python3.10)
define find_python
	python=; \
	for candidate in $(candidates); do \
	  if $(clean_env) "$$candidate" -c 'import ensurepip, sys, venv; \
	      sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; \
	  then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No fitting Python among: "$(candidates) >&2; \
	  echo "depth_ros needs Python 3.10, 3.11, 3.12 or 3.13 with its venv module (Debian and" \
	    "Ubuntu: apt install python3 python3-venv), or name one: make PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi
endef

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile
	@sed -n 's/^#   /  /p' Makefile

.PHONY: demo
demo: $(demo_venv)/.complete ## replay a recording through the nodes; writes out/demo/
	@$(call in,$(demo_venv)) python -m depth_ros.commands.demo $(if $(BAG),--bag '$(BAG)') $(ARGS)

.PHONY: test
test: .venv/.complete lint ## everything that CI checks
	@$(call in,.venv) $(pytest) $(ARGS)

.PHONY: quick
quick: .venv/.complete ## the tests that need no DDS, browser or training: under 90 seconds
	@$(call in,.venv) $(pytest) -n auto --maxprocesses 8 -m 'not slow' $(ARGS)

.PHONY: lint
lint: .venv/.complete ## style, types
	@$(call in,.venv) ruff format --check --quiet
	@$(call in,.venv) ruff check --quiet
	@$(call in,.venv) basedpyright

.PHONY: bench
bench: .venv/.complete ## inference time, node overhead, end-to-end latency
	@$(call in,.venv) python -m depth_ros.commands.bench $(ARGS)

.PHONY: soak
soak: .venv/.complete ## both nodes under every fault: 2 minutes, or MINUTES=30
	@cd test && $(call in,.venv) PYTHONPATH='$(CURDIR)' python -m support.soak \
	  --minutes $(or $(MINUTES),2) --out '$(CURDIR)/out/soak.json'

.PHONY: env
env: .venv/.complete ## the development environment with everything, in .venv
	@echo "Ready: source .venv/bin/activate && export AMENT_PREFIX_PATH=\$$VIRTUAL_ENV"

.PHONY: lock
lock: ## renew constraints.txt from pyproject.toml
	@$(find_python); $(clean_env) "$$python" -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install -q uv
	.venv-lock/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
	  --upgrade --no-emit-index-url --no-annotate --no-header -q -o constraints.txt
	rm -rf .venv-lock

.PHONY: clean
clean: ## remove the environments, build products and the demo's output
	rm -rf .venv .venv-demo .venv-lock build install log *.egg-info out/demo .pytest_cache .ruff_cache

# The stamp is written last, so that an interrupted installation is not taken for a complete one:
# without it the environment is made afresh. With an outdated stamp it is brought up to date.
%/.complete: pyproject.toml constraints.txt setup.py package.xml
	@if [ ! -e $@ ]; then \
	  $(find_python); \
	  echo "Making $* with $$("$$python" --version) ($$python)"; \
	  rm -rf $*; $(clean_env) "$$python" -m venv $*; \
	fi
	@rm -f $@
	@echo "Installing into $* (downloads up to $(size_$*), once)"
	@$(clean_env) $*/bin/python -m pip install -q --disable-pip-version-check --use-pep517 \
	  -c constraints.txt -e '.[$(extras_$*)]'
	@touch $@
