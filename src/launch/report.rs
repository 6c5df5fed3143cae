//! What a child reports through its pipe before its exec, and how that is read.

use std::ffi::CString;

use nix::errno::Errno;
use nix::libc;

use super::{NotStarted, Refused};

/// How many bytes of a program's file a child reports if the interpreter is missing.
pub const HEAD: usize = 2048;
/// The longest report: what was recovered, and why the program wasn't executed.
pub const MAX_REPORT: usize = 8192;
/// The longest text in a report.
const MAX_TEXT: usize = 2048;
/// The size of what precedes the file's head in a failure: [`FAILED`], the step, the errno, the path's index.
const FAILURE: usize = 8;

/// The first byte of a message tells its kind.
const FAILED: u8 = b'F';
const RECOVERED: u8 = b'R';
const NOT_RECOVERED: u8 = b'E';
const REFUSED: u8 = b'S';
const NOT_FOUND: u8 = b'N';

/// What can fail in a child.
#[derive(Clone, Copy)]
pub enum Step {
    /// Putting its descriptors in place.
    Descriptors = 1,
    /// Executing the applet that recovers an interrupted change.
    Recover,
    /// execve(2) of its program.
    Execute,
    /// Executing the applet that sets it up.
    SetUp,
    /// Making a socket that init holds for it listen.
    Listen,
}

/// What happened in a child before its exec.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The result of recovering an interrupted change: what was done, or why it failed.
    pub recovered: Option<Result<String, String>>,
    /// Why the program wasn't executed. `None`: it was, or the child was killed first.
    pub failed: Option<NotStarted>,
}

/// A failure. This allocates nothing, since it is called between fork and exec.
pub fn failed(step: Step, errno: i32, path: u16, head: &[u8]) -> ([u8; FAILURE + HEAD], usize) {
    let mut report = [0; FAILURE + HEAD];
    let [e0, e1, e2, e3] = errno.to_le_bytes();
    let [p0, p1] = path.to_le_bytes();
    let all = [FAILED, step as u8, e0, e1, e2, e3, p0, p1];
    let mut size = 0;
    for (to, from) in report.iter_mut().zip(all.iter().chain(head)) {
        *to = *from;
        size += 1;
    }
    (report, size)
}

/// What was recovered.
pub fn recovered(outcome: &Result<String, String>) -> Vec<u8> {
    let (kind, text) = match outcome {
        Ok(text) => (RECOVERED, text),
        Err(text) => (NOT_RECOVERED, text),
    };
    sentence(kind, text)
}

/// Why an applet didn't become the daemon.
pub fn refused(refused: &Refused) -> Vec<u8> {
    sentence(if refused.is_not_found { NOT_FOUND } else { REFUSED }, &refused.why)
}

fn sentence(kind: u8, text: &str) -> Vec<u8> {
    let text = text.as_bytes().get(..MAX_TEXT).unwrap_or(text.as_bytes());
    let size = u16::try_from(text.len()).unwrap_or(0).to_le_bytes();
    [&[kind], &size[..], text].concat()
}

/// Reads a report, as far as it makes sense.
pub fn read(mut report: &[u8], paths: &[CString], argv: &[CString]) -> Report {
    let mut out = Report::default();
    loop {
        match report {
            [kind @ (RECOVERED | NOT_RECOVERED | REFUSED | NOT_FOUND), s0, s1, rest @ ..] => {
                let size = usize::from(u16::from_le_bytes([*s0, *s1]));
                let Some((text, rest)) = rest.split_at_checked(size) else { return out };
                let text = String::from_utf8_lossy(text).into_owned();
                match *kind {
                    RECOVERED => out.recovered = Some(Ok(text)),
                    NOT_RECOVERED => out.recovered = Some(Err(text)),
                    kind => {
                        out.failed = Some(NotStarted::Refused(Refused { is_not_found: kind == NOT_FOUND, why: text }));
                    }
                }
                report = rest;
            }
            [FAILED, step, e0, e1, e2, e3, p0, p1, head @ ..] => {
                let errno = Errno::from_raw(i32::from_le_bytes([*e0, *e1, *e2, *e3]));
                let name = |name: Option<&CString>| name.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                out.failed = Some(if *step == Step::Descriptors as u8 {
                    NotStarted::Before("set up its file descriptors", errno)
                } else if *step == Step::Recover as u8 {
                    NotStarted::Before("execute /proc/self/exe to recover an interrupted change", errno)
                } else if *step == Step::SetUp as u8 {
                    NotStarted::Before("execute /proc/self/exe to set up its process", errno)
                } else if *step == Step::Listen as u8 {
                    NotStarted::Before("listen again on a socket that init holds for it", errno)
                } else if let Some(interpreter) = interpreter(head) {
                    let program = name(paths.get(usize::from(u16::from_le_bytes([*p0, *p1]))));
                    NotStarted::NoInterpreter { program, interpreter }
                } else {
                    NotStarted::Execute(name(argv.first()), errno)
                });
                return out;
            }
            _ => return out,
        }
    }
}

/// The interpreter of a program whose file begins like this: that of a `#!` line (execve(2)), or an ELF file's loader.
pub fn interpreter(head: &[u8]) -> Option<String> {
    let path = if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|b| *b == b'\n').next()?.trim_ascii_start();
        // A carriage return is part of the name, as it is for the kernel.
        line.split(|b| matches!(b, b' ' | b'\t')).next()?
    } else if head.starts_with(b"\x7fELF\x02\x01") {
        loader(head)?
    } else {
        return None;
    };
    (!path.is_empty()).then(|| String::from_utf8_lossy(path).into_owned())
}

/// The path in the segment `PT_INTERP` of a 64-bit ELF file with the low byte first.
fn loader(head: &[u8]) -> Option<&[u8]> {
    let number = |at: usize, size: usize| {
        let bytes = head.get(at..at.checked_add(size)?)?;
        bytes.iter().rev().try_fold(0usize, |sum, b| sum.checked_mul(256)?.checked_add(usize::from(*b)))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let is_loader = |at: &usize| number(*at, 4) == usize::try_from(libc::PT_INTERP).ok();
    let at = (0..count).filter_map(|n| table.checked_add(n.checked_mul(size)?)).find(is_loader)?;
    let (from, size) = (number(at.checked_add(8)?, 8)?, number(at.checked_add(32)?, 8)?);
    head.get(from..from.checked_add(size)?)?.split(|b| *b == 0).next()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn strings(all: &[&str]) -> Vec<CString> {
        all.iter().map(|s| CString::new(*s).unwrap()).collect()
    }

    fn why(head: &[u8]) -> String {
        let (report, size) = failed(Step::Execute, libc::ENOENT, 1, head);
        let report = read(&report[..size], &strings(&["/bin/x", "/c/x"]), &strings(&["x", "-a"]));
        let failed = report.failed.unwrap();
        assert_eq!(failed.code(), 127);
        failed.to_string()
    }

    #[test]
    fn a_missing_interpreter_is_told_apart_from_a_missing_program() {
        assert_eq!(why(b""), "cannot execute \"x\": No such file or directory (os error 2)");
        assert_eq!(
            why(b"#!/bin/sh\r\necho\r\n"),
            "cannot execute \"/c/x\": its interpreter \"/bin/sh\\r\" is missing (the file has Windows line endings)"
        );
        assert_eq!(why(b"#! /no/such -x\n"), "cannot execute \"/c/x\": its interpreter \"/no/such\" is missing");
        let mine = std::fs::read("/bin/sh").unwrap();
        let text = why(&mine[..HEAD]);
        assert!(text.contains("its interpreter \"/lib") && text.ends_with(" is missing"), "{text}");
    }

    #[test]
    fn what_was_recovered_is_told_beside_a_failure_and_alone() {
        let mut all = recovered(&Err("it can't be put back".to_owned()));
        assert_eq!(
            read(&all, &[], &[]),
            Report { recovered: Some(Err("it can't be put back".to_owned())), failed: None }
        );
        let (failure, size) = failed(Step::Execute, libc::EACCES, 0, &[]);
        all.extend_from_slice(&failure[..size]);
        let report = read(&all, &strings(&["/x"]), &strings(&["/x"]));
        assert!(report.recovered.is_some());
        assert_eq!(report.failed, Some(NotStarted::Execute("/x".to_owned(), Errno::EACCES)));
    }

    #[test]
    fn whatever_bytes_a_report_holds_reading_it_ends() {
        for seed in 0..2000u32 {
            let mut x = seed.wrapping_mul(2_654_435_761) | 1;
            let mut bytes: Vec<u8> = (0..seed % 300)
                .map(|_| {
                    x ^= x << 13;
                    x ^= x >> 17;
                    x ^= x << 5;
                    x.to_le_bytes()[0]
                })
                .collect();
            for start in [&b"F\x03\x02\0\0\0\0\0\x7fELF\x02\x01"[..], b"R", b"E\0\0"] {
                bytes.splice(..0, start.iter().copied());
                read(&bytes, &strings(&["/x"]), &strings(&["/x"]));
            }
        }
    }
}
