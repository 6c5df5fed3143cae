//! What ends an apply early: Ctrl-C, or another bundle of the same fleet.
//!
//! The first Ctrl-C asks to go back and waits for that; the second one exits at once.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use nix::libc;
use signal_hook::flag;
use signal_hook::iterator::Signals;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// From now on INT and TERM are counted. If that can't be set up, they end the program, which is safe too: the bundles recover by
/// themselves.
pub fn watch() {
    // Some callers (perl's `$SIG{CHLD} = 'IGNORE'`, schedulers) leave SIGCHLD ignored. The kernel then forgets how a child ended. With
    // a handler it doesn't, and an executed program gets the default disposition again.
    let _ = flag::register(libc::SIGCHLD, Arc::new(AtomicBool::new(false)));
    // A signal that the caller ignores, as a shell does for `apply ... &`, stays ignored.
    let caught = [libc::SIGINT, libc::SIGTERM].into_iter().filter(|signal| !is_ignored(*signal));
    let Ok(mut signals) = Signals::new(caught) else { return };
    let count = move || {
        for _ in signals.forever() {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
    };
    let _ = std::thread::Builder::new().spawn(count);
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: sigaction(2) with no new action changes nothing, and fills in `now` if it returns 0.
    unsafe {
        libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) == 0 && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// How often somebody has asked to stop.
#[must_use]
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// What all bundles of a fleet are told at once. One thread decides and sets it; the bundles' threads read it.
#[derive(Debug)]
pub struct Gate(AtomicU8);

/// What the gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Word {
    /// Proven bundles wait.
    Hold,
    /// Proven bundles commit.
    Commit,
    /// Bundles that haven't committed go back.
    Back,
}

impl Gate {
    /// A gate that says this.
    #[must_use]
    pub fn new(word: Word) -> Self {
        Self(AtomicU8::new(word as u8))
    }

    /// From now on it says this.
    pub fn say(&self, word: Word) {
        self.0.store(word as u8, Ordering::SeqCst);
    }

    /// Whether it says this.
    #[must_use]
    pub fn says(&self, word: Word) -> bool {
        self.0.load(Ordering::SeqCst) == word as u8
    }
}
