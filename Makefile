# Everything that is built, installed, shown and checked. `make help` lists it.
SHELL := /bin/bash
PREFIX ?= /usr
UNITDIR ?= $(PREFIX)/lib/systemd/system
DESTDIR ?=
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# A program of musl's starts without asking the processor what it can do, which is dear in a virtual machine: a storm pays it
# for every crash. Where the toolchain has no such target, glibc does.
MUSL := $(HOST:-gnu=-musl)
SHIM_TARGET := $(if $(wildcard $(shell rustc --print target-libdir --target $(MUSL) 2>/dev/null)/libstd-*),$(MUSL),$(HOST))
SHIM := $(TARGET_DIR)/shim/coreward-shim

.PHONY: help demo check test system release shim deb install lint clean

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## Crashes real programs under a socket-activated daemon and shows what became of them
	scripts/install-deps demo
	$(MAKE) --no-print-directory release
	scripts/demo

check: ## Everything that must pass
	scripts/check

release: shim ## The three programs, optimised
	$(CARGO) build --release --locked --bin coreward --bin corewardd

# A static program starts faster, and depends on nothing that a broken system could lack.
shim: ## The program that runs as root, static and alone
	RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=pie" $(CARGO) build --locked --profile shim --package coreward-shim --target $(SHIM_TARGET)
	install -D -m 0755 $(TARGET_DIR)/$(SHIM_TARGET)/shim/coreward-shim $(SHIM)

deb: ## The Debian package, in ..
	dpkg-buildpackage -us -uc -b

install: ## Puts what `make release` built below DESTDIR
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(TARGET_DIR)/release/coreward
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/libexec/coreward $(TARGET_DIR)/release/corewardd $(SHIM)
	install -D -m 0644 -t $(DESTDIR)$(UNITDIR) systemd/*.service systemd/*.socket
	install -D -m 0644 systemd/sysusers.d/coreward.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/coreward.conf
	install -D -m 0644 systemd/tmpfiles.d/coreward.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/coreward.conf
	install -D -m 0644 systemd/coreward.conf $(DESTDIR)/etc/coreward/coreward.conf
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/coreward/monitoring monitoring/*
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/coreward docs/signature.md
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man8 man/*.8
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man5 man/*.5
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(TARGET_DIR)/release/coreward generate man $(DESTDIR)$(PREFIX)/share/man/man1
	$(TARGET_DIR)/release/coreward generate completions $(TARGET_DIR)/completions
	install -D -m 0644 $(TARGET_DIR)/completions/coreward.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/coreward
	install -D -m 0644 $(TARGET_DIR)/completions/_coreward $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions/_coreward
	install -D -m 0644 $(TARGET_DIR)/completions/coreward.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/coreward.fish

test: ## Unit, property and kernel tests
	$(CARGO) test --locked --workspace

system: ## The package in a virtual machine with a real systemd
	tests/system/run

lint: ## Format, clippy, units, shell
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

clean:
	$(CARGO) clean

.PHONY: deny-advisories
deny-advisories: ## Known vulnerabilities of dependencies; needs the network
	cargo-deny check advisories

.PHONY: bench
bench: ## What a crash costs the crashed service, beside a helper that exits at once
	scripts/install-deps demo
	$(MAKE) --no-print-directory release
	scripts/bench
