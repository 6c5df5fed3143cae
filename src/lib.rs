//! What the applets of `sidecar` are made of.
//!
//! Arrows go one way: applets → [`apply`], [`shell`] → [`core`] → [`table`]. The core decides and does no I/O;
//! the shell does and decides nothing.

pub mod apply;
pub mod core;
pub mod status;
pub mod table;
pub mod text;

// What only Linux has: init, and what runs beside it in a bundle. All else builds for a host that is a Mac.
#[cfg(target_os = "linux")]
pub mod inside;
#[cfg(target_os = "linux")]
pub mod shell;
