# The commands people need. `make run` starts everything with a demo; `make test` proves it.
.PHONY: run test lint build bench bench-push setup fmt

# A release build knows from bench/train which way requests go, though not which values they bring (`-disable-vp`). Where a
# function has changed since, it is compiled as without that, and not worth a warning. What requests do not come through is
# not made larger than it is: it is inlined where that costs next to nothing.
PROFILE = -Cprofile-use=$(CURDIR)/deploy/fairway.profdata -Cllvm-args=-disable-vp -Cllvm-args=-no-pgo-warn-mismatch \
	-Cllvm-args=-inline-threshold=25
RELEASE = RUSTFLAGS="$(strip $(RUSTFLAGS) $(PROFILE))" cargo
# The binaries that lie beside services are optimised as a whole, and keep their relocations in the short form (glibc 2.36).
SMALL = -Clto=fat -Clink-arg=-Wl,-z,pack-relative-relocs

run: ## build and start Fairway with the demo (Ctrl-C stops it)
	$(RELEASE) build --release --bin fairway
	exec target/release/fairway serve --demo --access-log off

test: setup lint ## install what the tests need, lint, run all tests
	cargo build --workspace --bins --tests
	cargo nextest run --workspace --no-fail-fast

lint: ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

build: ## the release binaries; the small ones apart, so that they link only what they use
	$(RELEASE) build --release --bin fairway
	$(RELEASE) rustc --release -p gateway --bin fairway-gateway -- $(SMALL)
	$(RELEASE) rustc --release -p mesh-sidecar --bin fairway-sidecar -- $(SMALL)

bench: build ## the same work on Fairway, nginx, HAProxy and Envoy
	scripts/setup bench
	bench/run

bench-push: ## the control plane under 2,000 sidecars
	$(RELEASE) build --release --bin fairway
	$(RELEASE) build --release -p simulated-mesh
	bench/push

setup:
	scripts/setup

fmt:
	cargo fmt --all
