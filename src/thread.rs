//! Threads.

use std::thread::Builder;

/// The stack of a thread, in bytes: what Rust gives one unless `RUST_MIN_STACK` says otherwise. With less
/// than a thread needs it would die by a signal, and with too much it could not be started.
const STACK: usize = 2 << 20;

/// Begins a thread that is called `name`, whatever the environment says of its stack.
pub fn thread(name: impl Into<String>) -> Builder {
    Builder::new().name(name.into()).stack_size(STACK)
}
