//! What a test needs and not every machine has. Where it is missing the test is left out, and a line says why; with
//! `SIDECAR_TEST_ALL`, as scripts/test sets it, it fails.

#![allow(clippy::panic, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "not every test program needs all of it")]

use std::io::Write;
use std::process::{Command, Stdio};

pub enum Need {
    /// Pid namespaces: root, or user namespaces (scripts/test-runner).
    Namespaces,
    /// Root outside of a user namespace: several users, devices, raw sockets.
    Root,
    /// strace(1).
    Strace,
    /// The architecture's own kernel, and not qemu's user emulation (scripts/cross), which differs as it says.
    Native(&'static str),
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let quiet = || Stdio::null();
    let status = Command::new(program).args(arguments).stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
    status.is_ok_and(|status| status.success())
}

impl Need {
    /// Why it isn't there.
    fn missing(&self) -> Option<&'static str> {
        let (there, why) = match self {
            Self::Namespaces => (
                runs("unshare", &["--pid", "--fork", "--mount-proc", "true"]),
                "it needs root, or user namespaces, to make pid namespaces",
            ),
            Self::Root => {
                let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
                let all = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
                (all && runs("setpriv", &["--reuid", "1", "true"]), "it needs root, and not that of a user namespace")
            }
            Self::Strace => (runs("strace", &["-V"]), "it needs strace (Debian: strace)"),
            Self::Native(why) => (std::env::var_os("PID_1_EXE").is_none(), *why),
        };
        (!there).then_some(why)
    }
}

/// Whether the test that asks has all of it.
pub fn met(needs: &[Need]) -> bool {
    let Some(why) = needs.iter().find_map(Need::missing) else { return true };
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let is_all = std::env::var_os("SIDECAR_TEST_ALL").is_some_and(|value| !value.is_empty());
    assert!(!is_all, "{test} would be left out: {why}");
    // print! would be kept until a test fails.
    let _ = writeln!(std::io::stderr(), "left out: {test}: {why}");
    false
}

/// The first line of a test that needs something: `needs!(Root, Strace);`
macro_rules! needs {
    ($($need:ident $(($why:expr))?),+) => {
        if !crate::needs::met(&[$(crate::needs::Need::$need $(($why))?),+]) {
            return;
        }
    };
}
