//! What the applets of `sidecar` are made of.
//!
//! Arrows go one way: applets → [`apply`], [`shell`] → [`core`] → [`table`]. The core decides and does no I/O;
//! the shell does and decides nothing.

pub mod apply;
pub mod core;
#[cfg(target_os = "linux")]
pub mod inside;
#[cfg(target_os = "linux")]
pub mod shell;
pub mod status;
pub mod table;
pub mod text;
