# Everything that a newcomer, a packager or CI does here. `make demo` and `make test` need cargo, a C
# compiler (for ring) and make, nothing else.

CARGO ?= cargo
BINARY = target/release/wodle-office365

.PHONY: build demo test lint clean

# -p: built alone, so that no feature of the simulator's dependencies gets into what ships.
build:
	$(CARGO) build --release --locked -p wodle-office365

demo: build
	$(CARGO) build --locked -p office365-simulator
	target/debug/office365-simulator demo $(BINARY)

test: lint
	$(CARGO) test --locked --workspace

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

clean:
	$(CARGO) clean
	rm -rf dist
