# Weir's tasks. `make` alone says what there is and changes nothing.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= cargo
# Where cargo puts what it builds; taken from the environment if it is set there.
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/quick
# Options for `weir demo`, for example: make demo ARGS=--once
ARGS ?=
# Options for the scenario tests, for example: make scenarios TESTS="--test time_limits_are_kept"
TESTS ?=

# A snapshot that differs fails the test and is not rewritten behind anybody's back.
export INSTA_UPDATE := no

.PHONY: help
help: ## Say what there is
	@echo "Weir: make TARGET, where TARGET is"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1 \2/' | \
	  while read -r target text; do printf '  %-13s %s\n' "$$target" "$$text"; done

.PHONY: demo
demo: build ## Run a mesh on this machine and watch a canary (ARGS=--once: bounded, exits 0 if every claim held)
	$(BIN)/weir demo $(ARGS)

.PHONY: build
build: rust ## Build the binaries into target/quick
	$(CARGO) build --profile quick --workspace --bins

.PHONY: check
check: rust fmt-check lint unit ## Formatting, lints and the crates' own tests; no processes, no sockets beyond loopback

.PHONY: test
test: tools check build ## Everything: check, a demo run, the scenarios with the real binaries, a Kubernetes cluster
	$(BIN)/weir demo --once
	$(MAKE) --no-print-directory instructions
	@if command -v cargo-deny >/dev/null || [ -x $(TARGET)/tools/bin/cargo-deny ]; then $(MAKE) --no-print-directory deny; \
	 else echo "cargo-deny is not installed, so licences and bans are not checked here: make deny"; fi
	$(MAKE) --no-print-directory scenarios
	$(MAKE) --no-print-directory cluster-test

.PHONY: scenarios
scenarios: build cluster-tools ## Only the scenarios
	WEIR_BIN_DIR="$(abspath $(BIN))" $(CARGO) test -p weir-tests --no-fail-fast $(TESTS)

# The cluster of the tests; `tests/cluster/cluster` has more.
export WEIR_CLUSTER_NAME ?= weir-test

.PHONY: cluster-tools
cluster-tools: ## Build Kubernetes, etcd, CoreDNS and helm from their Go modules into ~/.cache/weir-cluster (once: about 15 minutes)
	@command -v go >/dev/null || [ -x /usr/local/go/bin/go ] || { echo "Go 1.24 or later is needed for the test cluster: https://go.dev/dl" >&2; exit 1; }
	@tests/cluster/build >/dev/null

.PHONY: cluster-test
cluster-test: build cluster-tools ## Only the scenarios in a real Kubernetes cluster on this machine; as root (TESTS=name for some of them)
	@[ "$$(id -u)" -eq 0 ] || { echo "the test cluster needs root: it runs containers and network namespaces" >&2; exit 1; }
	@[ -n "$${WEIR_CLUSTER_KEEP:-}" ] || trap 'tests/cluster/cluster down' EXIT; \
	  WEIR_BIN_DIR="$(abspath $(BIN))" $(CARGO) test -p weir-tests --test cluster -- --ignored --test-threads=4 $(TESTS)

.PHONY: conformance
conformance: build cluster-tools ## The Gateway API's mesh conformance suite; the report goes to docs/conformance
	WEIR_BIN_DIR="$(abspath $(BIN))" tests/conformance/run

.PHONY: unit
unit: rust ## Only the crates' own tests
	$(CARGO) test --workspace --exclude weir-tests

.PHONY: fmt
fmt: rust ## Format the code
	$(CARGO) fmt --all

.PHONY: fmt-check
fmt-check: rust
	$(CARGO) fmt --all --check

.PHONY: lint
lint: rust ## Clippy, where a warning is an error
	$(CARGO) clippy --workspace --all-targets -- -D warnings

CARGO_DENY = PATH="$(abspath $(TARGET))/tools/bin:$$PATH" $(CARGO) deny

.PHONY: deny
deny: cargo-deny ## Licences, banned crates, sources (installs cargo-deny into target/tools: minutes, once)
	$(CARGO_DENY) --log-level error check bans licenses sources

.PHONY: advisories
advisories: cargo-deny ## Known vulnerabilities of what is linked in; reads the advisory database from github.com
	$(CARGO_DENY) check advisories

.PHONY: cargo-deny
cargo-deny: rust
	@command -v cargo-deny >/dev/null || [ -x $(TARGET)/tools/bin/cargo-deny ] || { \
	  echo "installing cargo-deny into $(TARGET)/tools; this takes some minutes"; \
	  CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 $(CARGO) install --root $(TARGET)/tools --locked cargo-deny; }

.PHONY: bench
bench: rust ## What a pair of sidecars costs, beside Envoy and HAProxy, on this machine (ARGS=--full: 20 minutes; ARGS=--help)
	@command -v python3 >/dev/null || { echo "Python 3 is needed" >&2; exit 1; }
	python3 bench/compare.py $(ARGS)

.PHONY: bench-scale
bench-scale: build ## What the control plane takes with many Services and proxies (ARGS="--services 10000 --proxies 10000"; ARGS=--help)
	$(BIN)/weir-bench-scale $(ARGS)

.PHONY: bench-micro
bench-micro: rust ## What single decisions take: looking up a route, picking an endpoint, changing headers (ARGS=route: some of them)
	$(CARGO) bench -p weir-bench-micro --bench micro -- --warm-up-time 0.2 --measurement-time 0.5 --sample-size 20 $(ARGS)

# The whole workspace's features, so that nothing is built that `make build` does not build.
COUNTER = $(CARGO) build --profile quick --workspace --bin weir-bench-instructions && $(BIN)/weir-bench-instructions

.PHONY: instructions
instructions: rust valgrind ## Whether a single decision takes over 10 % more instructions than bench/instructions.txt says
	$(COUNTER) compare bench/instructions.txt

.PHONY: instructions-accept
instructions-accept: rust valgrind ## Write what they take now to bench/instructions.txt
	$(COUNTER) accept bench/instructions.txt

.PHONY: valgrind
valgrind:
	@.ci/tools valgrind:valgrind getconf:libc-bin

.PHONY: tools
tools: ## Install the programs that the scenarios use, if they are missing
	@.ci/tools curl:curl wrk:wrk h2load:nghttp2-client ip:iproute2 nft:nftables nginx:nginx-light openssl:openssl python3:python3 \
	  postgres:postgresql psql:postgresql-client redis-server:redis-server redis-cli:redis-tools

.PHONY: rust
rust:
	@command -v $(CARGO) >/dev/null || { echo "Rust 1.90 or later is needed: https://rustup.rs" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is needed (for aws-lc and jemalloc): apt-get install gcc libc6-dev" >&2; exit 1; }
