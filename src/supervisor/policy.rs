//! Whether a daemon that has ended by itself is started again, and when: docker's delays.

use std::time::Duration;

use super::End;
use crate::table::RestartPolicy;

/// The first delay; each further death doubles it.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// Once a process has run for this long, the next delay is the first one again.
const LONG_RUN: Duration = Duration::from_secs(10);

/// The delay between the next death and the start that follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delay(Duration);

impl Delay {
    pub(super) fn first() -> Self {
        Self(FIRST)
    }

    /// The delay after the death of a process that has run for so long.
    pub(super) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= LONG_RUN {
            *self = Self::first();
        }
        let delay = self.0;
        self.0 = LONGEST.min(delay * 2);
        delay
    }
}

/// Whether a process that ended like this, and not because init stopped it, is started again.
pub(super) fn starts_again(policy: RestartPolicy, end: End) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure => end != End::Code(0),
        RestartPolicy::Always => true,
    }
}
