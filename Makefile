# What people and CI call. Everything that a target needs it sets up itself: `make run` needs python3 and make alone.

SHELL := /bin/bash
VENV := .venv
DOCS_VENV := .venv-docs
PYTHON := $(VENV)/bin/python
PYTEST := $(VENV)/bin/pytest
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Debian's packages. These lists are the only ones: the lines in docs/ are compared with them (tests/test_packages.py).
# To run the site; to build and flash ROMs; to build the rescue image.
RUN_PACKAGES := python3-venv
ROM_PACKAGES := git gcc libc6-dev make perl liblzma-dev mtools xorriso isolinux syslinux syslinux-common bubblewrap flashrom
IMAGE_PACKAGES := mmdebstrap squashfs-tools
# To run the tests: those that need neither a browser nor a virtual machine, and all of them.
FAST_PACKAGES := $(RUN_PACKAGES) $(ROM_PACKAGES) cpio openssl openssh-client procps iproute2 ipxe-qemu
TEST_PACKAGES := $(FAST_PACKAGES) $(IMAGE_PACKAGES) qemu-system-x86 ovmf seabios \
	grub-common grub-efi-amd64-bin busybox-static postgresql nginx-light chromium fonts-dejavu-core e2fsprogs curl jq wget

.PHONY: run test test-fast test-fresh soak bench lint docs setup setup-test screenshots clean

run: setup
	@$(PYTHON) -m rescuesite.run

test: setup-test
	@echo "== unit tests, SQLite; with no programs but those of the listed packages"
	$(PYTHON) -m tests.only_listed $(FAST_PACKAGES) -- $(PYTEST) -n 2 -m "not e2e"
	@echo "== unit tests, PostgreSQL"
	$(PYTHON) -m tests.with_postgres $(PYTEST) -n 2 -m "not e2e"
	@echo "== end to end: real boots, browser, gunicorn, nginx"
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m "e2e and not soak" --durations 12

# The faults of firmware and network that `make test` has no time for, and those that it has. Each has its bound.
soak: setup-test
	$(PYTEST) -n 2 --dist load -m "soak or faults" --durations 12

test-fast: $(VENV)/.dev
	@./setup-packages $(FAST_PACKAGES)
	$(PYTEST) -n 2 -m "not e2e"

# As root: what README and docs/ tell a newcomer, on a bare Debian.
test-fresh: $(VENV)/.dev
	@./setup-packages git mmdebstrap
	$(PYTHON) -m tests.fresh

bench: setup-test
	@./setup-packages wrk php-fpm zstd
	$(PYTHON) -m bench

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy .
	DJANGO_SETTINGS_MODULE=tests.settings $(PYTHON) manage.py makemigrations --check --dry-run
	DJANGO_SETTINGS_MODULE=tests.settings RESCUESITE_HTTPS=1 $(PYTHON) manage.py check --deploy --fail-level WARNING

# The pages of docs/ as a site, in site/. Reading them needs no network.
docs: $(DOCS_VENV)/.docs
	$(DOCS_VENV)/bin/mkdocs build --strict --clean

screenshots: setup-test
	RESCUESITE_SCREENSHOTS=docs $(PYTEST) -m e2e tests/e2e/test_browser.py tests/e2e/test_browser_roms.py

setup: $(VENV)/.run

setup-test: $(VENV)/.dev
	@./setup-packages $(TEST_PACKAGES)

$(VENV)/.run: requirements/run.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --require-hashes -r requirements/run.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --require-hashes -r requirements/dev.txt
	@touch $(VENV)/.run $@

$(DOCS_VENV)/.docs: requirements/docs.txt | $(DOCS_VENV)/bin/pip
	$(DOCS_VENV)/bin/pip install --quiet --require-hashes -r requirements/docs.txt
	@touch $@

$(VENV)/bin/pip $(DOCS_VENV)/bin/pip:
	@./setup-packages $(RUN_PACKAGES)
	python3 -m venv $(@D)/..

# For those who need a list: make -s packages-of-TEST
packages-of-%:
	@echo $($*_PACKAGES)

clean:
	rm -rf $(VENV) $(DOCS_VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis test-results
