//! The program that a bundle's daemon is replaced by: it attacks. Linked statically, it runs in any image.

#![allow(clippy::unwrap_used, clippy::panic, reason = "it belongs to a test")]

#[allow(dead_code, unused_imports, reason = "what came of it is for the tests")]
mod attacks;

/// The arguments are what it attacks.
fn main() {
    match std::env::var("ATTACKER") {
        Err(_) => attacks::all(&std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
        Ok(name) => attacks::one(&name),
    }
}
