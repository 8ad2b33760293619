# The commands people need. `make run` starts everything with a demo; `make test` proves it.
.PHONY: run test lint build bench bench-push setup fmt

# A release build knows from bench/train which way requests go, though not which values they bring (`-disable-vp`). Where a
# function has changed since, it is compiled as without that, and not worth a warning.
PROFILE = -Cprofile-use=$(CURDIR)/deploy/fairway.profdata -Cllvm-args=-disable-vp -Cllvm-args=-no-pgo-warn-mismatch
RELEASE = RUSTFLAGS="$(RUSTFLAGS) $(PROFILE)" cargo build --release

run: ## build and start Fairway with the demo (Ctrl-C stops it)
	$(RELEASE) --bin fairway
	exec target/release/fairway serve --demo --access-log off

test: setup lint ## install what the tests need, lint, run all tests
	cargo build --workspace --bins --tests
	cargo nextest run --workspace --no-fail-fast

lint: ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

build: ## the release binaries; the small ones apart, so that they link only what they use
	$(RELEASE) --bin fairway
	$(RELEASE) -p gateway --bin fairway-gateway
	$(RELEASE) -p mesh-sidecar --bin fairway-sidecar

bench: build ## the same work on Fairway, nginx, HAProxy and Envoy
	scripts/setup bench
	bench/run

bench-push: ## the control plane under 2,000 sidecars
	$(RELEASE) --bin fairway
	$(RELEASE) -p simulated-mesh
	bench/push

setup:
	scripts/setup

fmt:
	cargo fmt --all
