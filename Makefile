# Builds, installs, demonstrates and checks Coreward. `make help` lists the targets.
SHELL := /bin/bash
PREFIX ?= /usr
UNITDIR ?= $(PREFIX)/lib/systemd/system
DESTDIR ?=
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# The kernel starts the shim for every crash. Linked with musl it starts faster: the start code of glibc executes CPUID, which
# is slow in a virtual machine. Without a musl target in the toolchain, the shim is linked with glibc.
MUSL := $(HOST:-gnu=-musl)
SHIM_TARGET := $(if $(wildcard $(shell rustc --print target-libdir --target $(MUSL) 2>/dev/null)/libstd-*),$(MUSL),$(HOST))
SHIM := $(TARGET_DIR)/shim/coreward-shim

.PHONY: help demo check check-full test system release shim deb install lint deny-advisories bench clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 17

demo: ## Crash real programs under a socket-activated daemon and show the results (root)
	scripts/install-deps demo
	$(MAKE) --no-print-directory release
	scripts/demo

check: ## Run every check that must pass, within 45 minutes (root)
	scripts/check

check-full: ## The same with long fuzzing, larger storms, more kills, and Debian 12 (root)
	scripts/check --full

release: shim ## Build the four programs, optimised
	$(CARGO) build --release --locked --bin coreward --bin corewardd --bin coreward-query

# Static: a static program starts faster, and does not depend on libraries of a system that may be broken.
shim: ## Build the shim, the program that the kernel runs as root
	RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=pie" $(CARGO) build --locked --profile shim --package coreward-shim --target $(SHIM_TARGET)
	install -D -m 0755 $(TARGET_DIR)/$(SHIM_TARGET)/shim/coreward-shim $(SHIM)

deb: ## Build the Debian package, in ..
	@grep -q '^Maintainer:.*@example\.org>' debian/control && echo "warning: debian/control: Maintainer: is a placeholder (coreward@example.org). Security reports go to that address (SECURITY.md): whoever distributes the package fills it in." >&2 || true
	dpkg-buildpackage -us -uc -b

install: ## Install what `make release` built, below DESTDIR
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(TARGET_DIR)/release/coreward
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/libexec/coreward $(TARGET_DIR)/release/corewardd $(TARGET_DIR)/release/coreward-query $(SHIM)
	install -D -m 0644 -t $(DESTDIR)$(UNITDIR) systemd/*.service systemd/*.socket systemd/*.path
	for dir in service.d coreward-register.service.d systemd-coredump-register.service.d; do install -D -m 0644 -t $(DESTDIR)$(UNITDIR)/$$dir systemd/$$dir/*.conf; done
	install -D -m 0644 systemd/sysusers.d/coreward.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/coreward.conf
	install -D -m 0644 systemd/tmpfiles.d/coreward.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/coreward.conf
	install -D -m 0644 systemd/coreward.conf $(DESTDIR)/etc/coreward/coreward.conf
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/coreward/monitoring monitoring/*
	install -d $(DESTDIR)/etc/coreward/event.d
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/share/doc/coreward/examples/event.d examples/event.d/*
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/coreward docs/signature.md docs/metrics.md
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/varlink src/query/io.coreward.Crashes.varlink
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man8 man/*.8
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man5 man/*.5
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(TARGET_DIR)/release/coreward generate man $(DESTDIR)$(PREFIX)/share/man/man1
	$(TARGET_DIR)/release/coreward generate completions $(TARGET_DIR)/completions
	install -D -m 0644 $(TARGET_DIR)/completions/coreward.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/coreward
	install -D -m 0644 $(TARGET_DIR)/completions/_coreward $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_coreward
	install -D -m 0644 $(TARGET_DIR)/completions/coreward.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/coreward.fish

test: ## Run all tests but those in a virtual machine (root)
	$(CARGO) test --locked --workspace

system: ## Test the package in a virtual machine with a real systemd (root)
	tests/system/run

lint: ## Check formatting and run clippy
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --manifest-path fuzz/Cargo.toml -- -D warnings

deny-advisories: ## Check dependencies for known vulnerabilities (network)
	scripts/check advisories

bench: ## Measure what a crash costs the crashed service (root)
	scripts/install-deps demo
	$(MAKE) --no-print-directory release
	scripts/bench

clean: ## Delete what was built
	$(CARGO) clean
