//! What ends an apply early: Ctrl-C, or another bundle of the same fleet.
//!
//! The first Ctrl-C asks for the way back and waits for it, the second leaves.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

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

/// What all bundles of a fleet are told at once. It is set by one, who decides, and looked at by those who wait.
#[derive(Debug)]
pub struct Gate(AtomicU8);

/// What the gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Word {
    /// Who is proven waits.
    Hold,
    /// Who is proven commits.
    Commit,
    /// Who hasn't committed goes back.
    Back,
}

impl Gate {
    /// One that says this.
    #[must_use]
    pub fn new(word: Word) -> Self {
        Self(AtomicU8::new(word as u8))
    }

    /// From here on it says this.
    pub fn say(&self, word: Word) {
        self.0.store(word as u8, Ordering::SeqCst);
    }

    /// Whether it says this.
    #[must_use]
    pub fn says(&self, word: Word) -> bool {
        self.0.load(Ordering::SeqCst) == word as u8
    }
}
