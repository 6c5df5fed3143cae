//! The signals that a table may name, and which of them may have a rule in `[signals]`.

use std::fmt;

/// A signal that the table may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// A signal with a fixed number, by its index in [`FIXED`].
    Fixed(u8),
    /// `RTMIN+N`; libc decides the number of RTMIN.
    RealTime(u8),
}

/// Name, number on Linux (the same on `x86_64` and aarch64: signal(7)), and whether `[signals]` may give it a rule.
const FIXED: [(&str, i32, bool); 15] = [
    ("HUP", 1, true),
    ("INT", 2, false),
    ("QUIT", 3, false),
    ("USR1", 10, true),
    ("USR2", 12, true),
    ("PIPE", 13, false),
    ("ALRM", 14, false),
    ("TERM", 15, false),
    ("CHLD", 17, false),
    ("TSTP", 20, false),
    ("TTIN", 21, false),
    ("TTOU", 22, false),
    ("URG", 23, false),
    ("WINCH", 28, true),
    ("IO", 29, false),
];
/// glibc's first real-time signal; it keeps 32 and 33 for itself. Docker's CLI counts from the same number.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self::Fixed(0);
    /// SIGUSR1.
    pub const USR1: Self = Self::Fixed(3);
    /// SIGUSR2.
    pub const USR2: Self = Self::Fixed(4);
    /// SIGTERM.
    pub const TERM: Self = Self::Fixed(7);
    /// SIGWINCH.
    pub const WINCH: Self = Self::Fixed(13);

    /// Reads a name as the table spells it: `USR1`, `RTMIN+3`; no `SIG` before it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some(index) = FIXED.iter().position(|(n, _, _)| *n == name) {
            return u8::try_from(index).ok().map(Self::Fixed);
        }
        let digits = name.strip_prefix("RTMIN+")?;
        let n: u8 = digits.parse().ok()?;
        // Only one spelling: `RTMIN+01` beside `RTMIN+1` would give one signal two rules.
        (n.to_string() == digits && i32::from(n) <= RTMAX - RTMIN).then_some(Self::RealTime(n))
    }

    /// The signal with this number, if the table could name it.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        if (RTMIN..=RTMAX).contains(&number) {
            return u8::try_from(number - RTMIN).ok().map(Self::RealTime);
        }
        let index = FIXED.iter().position(|(_, n, _)| *n == number)?;
        u8::try_from(index).ok().map(Self::Fixed)
    }

    /// Its number on Linux.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Self::Fixed(index) => FIXED.get(usize::from(index)).map_or(0, |(_, number, _)| *number),
            Self::RealTime(n) => RTMIN + i32::from(n),
        }
    }

    /// Whether `[signals]` may give it a rule: not if it already has a meaning for init.
    #[must_use]
    pub fn is_wireable(self) -> bool {
        match self {
            Self::Fixed(index) => FIXED.get(usize::from(index)).is_some_and(|(_, _, wireable)| *wireable),
            Self::RealTime(_) => true,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(index) => f.write_str(FIXED.get(usize::from(*index)).map_or("?", |(name, _, _)| name)),
            Self::RealTime(n) => write!(f, "RTMIN+{n}"),
        }
    }
}
