//! Ctrl-C: the first asks for the way back and waits for it, the second leaves.

use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc;
use signal_hook::iterator::Signals;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// From here on INT and TERM are counted. Where that can't be had they end the program, which is safe too: the bundles
/// settle by themselves.
pub fn watch() {
    let Ok(mut signals) = Signals::new([libc::SIGINT, libc::SIGTERM]) else { return };
    let count = move || {
        for _ in signals.forever() {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
    };
    let _ = std::thread::Builder::new().spawn(count);
}

/// How often it was asked for.
#[must_use]
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}
