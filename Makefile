# Everything that a newcomer, a packager or CI does here. `make demo` and `make test` need cargo, a C
# compiler (for ring), make and bash (for the completions' test), nothing else. What `make package` and
# `make test-packages` need besides, packaging/prepare installs, or names.

CARGO ?= cargo
BINARY = target/release/wodle-office365

.PHONY: build demo test lint bench soak fuzz package test-packages clean

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
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	@if command -v c++ >/dev/null; then \
		$(CARGO) clippy --locked --manifest-path tests/fuzz/Cargo.toml --target-dir $(FUZZ_DIR) -- -D warnings; \
	else echo "no C++ compiler, so nobody looks at tests/fuzz here"; fi

# Prints what a run takes beside the budgets; BENCH=idle (latency, throughput,
# instructions, memory, growth) for a part.
bench: build
	@command -v curl >/dev/null && command -v valgrind >/dev/null || \
		{ echo "make bench needs curl and valgrind (Debian: apt-get install curl valgrind)"; exit 1; }
	$(CARGO) build --release --locked -p wodle-office365-bench
	target/release/wodle-office365-bench $(BINARY) $(BENCH)

# Many polls in all weathers, judged by a ledger (tests/outside/soak.rs); a SOAK_SEED does the same again.
SOAK_POLLS ?= 1000
SOAK_SEED ?= $(shell date +%s)

soak:
	SOAK_POLLS=$(SOAK_POLLS) SOAK_SEED=$(SOAK_SEED) \
		$(CARGO) test --release --locked --test outside soak -- --nocapture

# Fuzzes each target for FUZZ_SECONDS, with libFuzzer, which needs a C++ compiler. The flags are what
# `cargo fuzz -s none` sets, for stable Rust; --target keeps them away from build scripts. Everything
# stays in tests/fuzz/target: what a target has learnt in corpus/, an input that breaks one in crashes/
# (the target's program takes its file as an argument), the logs.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= records events config listing certificate ossec
FUZZ_DIR = tests/fuzz/target
FUZZ_FLAGS = -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares

fuzz:
	@host=$$(rustc -vV | sed -n 's/^host: //p') && \
	RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --release --locked --target $$host \
		--manifest-path tests/fuzz/Cargo.toml --target-dir $(FUZZ_DIR) && \
	for target in $(FUZZ_TARGETS); do \
		mkdir -p $(FUZZ_DIR)/corpus/$$target $(FUZZ_DIR)/crashes && \
		log=$(FUZZ_DIR)/$$target.log && echo "$$target: $(FUZZ_SECONDS) s, log in $$log" && \
		$(FUZZ_DIR)/$$host/release/$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 \
			-rss_limit_mb=512 -dict=tests/fuzz/$$target.dict \
			-artifact_prefix=$(FUZZ_DIR)/crashes/$$target- \
			$(FUZZ_DIR)/corpus/$$target tests/fuzz/seeds/$$target >$$log 2>&1 \
			|| { grep -a -A2 -E "panicked|ERROR|Test unit" $$log; exit 1; }; \
		grep -a DONE $$log; \
	done

# The static programs, the packages of both families for both architectures, SBOMs and sums, in dist/.
package:
	packaging/package

# Installs the packages of dist/ into clean roots, uses, upgrades and removes them (as root), and makes them
# once more elsewhere: the same bytes.
test-packages:
	packaging/test-install
	packaging/test-reproducible

clean:
	$(CARGO) clean
	rm -rf dist tests/fuzz/target
