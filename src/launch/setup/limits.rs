//! `ulimits`. They are set in two steps. Only init's user may raise a hard limit, so hard limits that are too low are raised first. A
//! low limit could break the rest of the set-up, so the limits themselves are set last.

use std::io;

use nix::libc;

use super::NotSetUp;
use crate::table::Ulimit;

/// The limit with this name of Compose's: getrlimit(2).
fn resource(name: &str) -> Option<u32> {
    // The type of these differs from libc to libc.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "they are small numbers, of either sign")]
    Some(match name {
        "as" => libc::RLIMIT_AS,
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        _ => return None,
    } as u32)
}

fn value(limit: &Ulimit) -> u64 {
    limit.value.unwrap_or(libc::RLIM_INFINITY)
}

fn failed(limit: &Ulimit, e: &io::Error) -> NotSetUp {
    let Ulimit { name, value } = limit;
    let value = value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string());
    let hint = match e.raw_os_error() {
        Some(libc::EPERM) => " (it is above the hard limit that the container has; give the container a higher one)",
        _ => "",
    };
    NotSetUp::Limit(format!("cannot set its ulimit {name} to {value}: {e}{hint}"))
}

fn with_numbers(limits: &[Ulimit]) -> impl Iterator<Item = Result<(&Ulimit, u32), NotSetUp>> {
    let unknown = |limit| failed(limit, &io::Error::other("there is no such limit"));
    limits.iter().map(move |limit| Ok((limit, resource(&limit.name).ok_or_else(|| unknown(limit))?)))
}

/// Raises hard limits that are lower than what is asked for.
pub fn raise(limits: &[Ulimit]) -> Result<(), NotSetUp> {
    for pair in with_numbers(limits) {
        let (limit, number) = pair?;
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: getrlimit(2) writes the structure.
        if unsafe { libc::getrlimit(number as _, &raw mut now) } != 0 {
            return Err(failed(limit, &io::Error::last_os_error()));
        }
        if now.rlim_max < value(limit) {
            set(number, libc::rlimit { rlim_max: value(limit), ..now }).map_err(|e| failed(limit, &e))?;
        }
    }
    Ok(())
}

/// Sets all, soft and hard.
pub fn set_all(limits: &[Ulimit]) -> Result<(), NotSetUp> {
    for pair in with_numbers(limits) {
        let (limit, number) = pair?;
        let both = libc::rlimit { rlim_cur: value(limit), rlim_max: value(limit) };
        set(number, both).map_err(|e| failed(limit, &e))?;
    }
    Ok(())
}

fn set(number: u32, limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: setrlimit(2) reads the structure.
    match unsafe { libc::setrlimit(number as _, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
