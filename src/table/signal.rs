//! The signals of Linux by name, and what each may be used for.

use std::fmt;

/// A signal of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// A signal with a fixed number, by its index in the list of names.
    Fixed(u8),
    /// `RTMIN+N`; libc decides the number of RTMIN.
    RealTime(u8),
}

/// The names of the signals from 1 on. Their numbers are the same on `x86_64` and aarch64: signal(7).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
/// glibc's first real-time signal; it keeps 32 and 33 for itself. Docker's CLI counts from the same number.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self::Fixed(0);
    /// SIGKILL.
    pub const KILL: Self = Self::Fixed(8);
    /// SIGUSR1.
    pub const USR1: Self = Self::Fixed(9);
    /// SIGUSR2.
    pub const USR2: Self = Self::Fixed(11);
    /// SIGTERM.
    pub const TERM: Self = Self::Fixed(14);
    /// SIGWINCH.
    pub const WINCH: Self = Self::Fixed(27);

    /// Reads a name as the table spells it: `USR1`, `RTMIN+3`; no `SIG` before it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some(index) = NAMES.iter().position(|known| *known == name) {
            return u8::try_from(index).ok().map(Self::Fixed);
        }
        let digits = name.strip_prefix("RTMIN+")?;
        let n: u8 = digits.parse().ok()?;
        // Only one spelling: `RTMIN+01` beside `RTMIN+1` would give one signal two rules.
        (n.to_string() == digits && i32::from(n) <= RTMAX - RTMIN).then_some(Self::RealTime(n))
    }

    /// The signal with this number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        if (RTMIN..=RTMAX).contains(&number) {
            return u8::try_from(number - RTMIN).ok().map(Self::RealTime);
        }
        u8::try_from(number).ok()?.checked_sub(1).filter(|index| usize::from(*index) < NAMES.len()).map(Self::Fixed)
    }

    /// Its number on Linux.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Self::Fixed(index) => i32::from(index) + 1,
            Self::RealTime(n) => RTMIN + i32::from(n),
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::Fixed(index) => NAMES.get(usize::from(index)).copied(),
            Self::RealTime(_) => None,
        }
    }

    /// Whether `[signals]` may give it a rule: not if it already has a meaning for init.
    #[must_use]
    pub fn is_wireable(self) -> bool {
        matches!(self, Self::RealTime(_)) || matches!(self.name(), Some("HUP" | "USR1" | "USR2" | "WINCH"))
    }

    /// Whether `ignore` may name it: a signal that programs are started with ignored, as nohup(1) does with HUP.
    #[must_use]
    pub fn is_ignorable(self) -> bool {
        self.is_wireable()
            || matches!(self.name(), Some("INT" | "QUIT" | "PIPE" | "ALRM" | "TERM" | "CHLD"))
            || matches!(self.name(), Some("TSTP" | "TTIN" | "TTOU" | "URG" | "IO"))
    }

    /// Whether it may ask a daemon to stop. Not KILL, which asks nobody; not STOP and CONT, which stop and continue a
    /// process; not CHLD, which tells a process about its children.
    #[must_use]
    pub fn can_stop(self) -> bool {
        !matches!(self.name(), Some("KILL" | "STOP" | "CONT" | "CHLD"))
    }

    /// Whether it ends a process that has no handler for it, and can have one: signal(7). Such a signal kills a daemon
    /// that hasn't installed its handler yet.
    #[must_use]
    pub fn ends_by_default(self) -> bool {
        !matches!(self.name(), Some("KILL" | "STOP" | "CONT" | "CHLD" | "TSTP" | "TTIN" | "TTOU" | "URG" | "WINCH"))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(_) => f.write_str(self.name().unwrap_or("?")),
            Self::RealTime(n) => write!(f, "RTMIN+{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Signal> {
        (1..=64).filter_map(Signal::from_number)
    }

    #[test]
    fn every_signal_of_linux_has_one_name_and_one_number() {
        assert_eq!(all().count(), 31 + 31);
        for signal in all() {
            assert_eq!(Signal::from_name(&signal.to_string()), Some(signal));
            assert_eq!(Signal::from_number(signal.number()), Some(signal));
        }
        for number in [i32::MIN, -1, 0, 32, 33, 65, 257, i32::MAX] {
            assert_eq!(Signal::from_number(number), None, "{number}");
        }
        for name in ["SIGHUP", "hup", "", "IOT", "RTMIN", "RTMIN+31", "RTMIN+01", "RTMIN+-1", "RTMAX-1"] {
            assert_eq!(Signal::from_name(name), None, "{name}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_names_are_those_of_the_system() {
        for signal in all() {
            let theirs = nix::sys::signal::Signal::try_from(signal.number()).map(nix::sys::signal::Signal::as_str);
            assert_eq!(theirs.ok().map(|name| &name[3..]), signal.name());
        }
        let constants = [Signal::HUP, Signal::KILL, Signal::USR1, Signal::USR2, Signal::TERM, Signal::WINCH];
        assert_eq!(constants.map(Signal::number), [1, 9, 10, 12, 15, 28]);
    }

    #[test]
    fn what_a_signal_may_be_used_for_follows_from_what_it_is() {
        let fixed = |is: fn(Signal) -> bool| {
            let names: Vec<&str> = all().filter(|signal| is(*signal)).filter_map(Signal::name).collect();
            names.join(" ")
        };
        assert_eq!(fixed(Signal::is_wireable), "HUP USR1 USR2 WINCH");
        assert_eq!(
            fixed(Signal::is_ignorable),
            "HUP INT QUIT USR1 USR2 PIPE ALRM TERM CHLD TSTP TTIN TTOU URG WINCH IO"
        );
        assert_eq!(fixed(|signal| !signal.can_stop()), "KILL CHLD CONT STOP");
        assert_eq!(fixed(|signal| !signal.ends_by_default()), "KILL CHLD CONT STOP TSTP TTIN TTOU URG WINCH");
        for is in [Signal::is_wireable, Signal::is_ignorable, Signal::can_stop, Signal::ends_by_default] {
            assert!((0..=30).map(Signal::RealTime).all(is));
        }
    }
}
