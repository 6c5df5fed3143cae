//! One change of one daemon's file: what to do next ([`transaction`]), whether the daemon serves it ([`proof`]), and
//! what carries that out inside the bundle.
//!
//! The decisions do no I/O and build everywhere: the host reads their outcomes. The rest needs /proc, so only Linux
//! has it.

pub mod proof;
pub mod reason;
pub mod transaction;

#[cfg(target_os = "linux")]
pub mod clock;
#[cfg(target_os = "linux")]
pub mod command;
#[cfg(target_os = "linux")]
pub mod diff;
#[cfg(target_os = "linux")]
pub mod lock;
#[cfg(target_os = "linux")]
pub mod log;
#[cfg(target_os = "linux")]
pub mod probe;
#[cfg(target_os = "linux")]
pub mod store;
