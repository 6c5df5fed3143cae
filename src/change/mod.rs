//! One change of one daemon's file: what to do next ([`transaction`]), how to undo it ([`recovery`]), whether the daemon serves it
//! ([`proof`]), and the code that carries this out inside the bundle.
//!
//! The decisions do no I/O and build on every system: they use [`record::Files`] and [`transaction::Hands`], which are the helper's
//! in a bundle and simulated ones in the tests. The rest needs /proc, so only Linux has it.

use self::reason::Reason;

pub mod proof;
pub mod reason;
pub mod record;
pub mod recovery;
pub mod set_up;
pub mod transaction;

#[cfg(target_os = "linux")]
pub mod clock;
#[cfg(target_os = "linux")]
pub mod command;
#[cfg(target_os = "linux")]
pub mod diff;
#[cfg(target_os = "linux")]
pub mod holders;
#[cfg(target_os = "linux")]
pub mod inside;
#[cfg(target_os = "linux")]
pub mod lock;
#[cfg(target_os = "linux")]
pub mod log;
#[cfg(target_os = "linux")]
pub mod probe;
#[cfg(target_os = "linux")]
pub mod store;

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It failed for this reason.
    Because(Reason),
    /// The helper was killed, so nothing follows. Only a simulation sees that.
    Killed,
}

impl From<Reason> for Stop {
    fn from(why: Reason) -> Self {
        Self::Because(why)
    }
}

/// The result of a step.
pub type Tried<T> = Result<T, Stop>;
