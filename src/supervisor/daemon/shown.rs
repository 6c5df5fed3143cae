//! What the status page shows of a daemon.

use super::{Daemon, ReadyBy, State};
use crate::status::{DaemonState, LastExit};
use crate::supervisor::stop::{After, Fate};
use crate::supervisor::{End, Moment, View};

impl Daemon {
    pub(in crate::supervisor) fn view(&self) -> View {
        let (state, process) = match &self.state {
            State::Starting(process, _) => (DaemonState::Starting, Some(process)),
            State::Running(process) => (DaemonState::Running, Some(process)),
            State::Stopping(process, ..) => (DaemonState::Stopping, Some(process)),
            State::Clearing(clearing) => match clearing.stop.after {
                After::Death(fate) => (fate.shown(), None),
                _ => (DaemonState::Stopping, None),
            },
            State::Fresh | State::Forking | State::Exited => (DaemonState::Exited, None),
            State::Waiting => (DaemonState::Waiting, None),
            State::Backoff(_) => (DaemonState::Backoff, None),
            State::Failed => (DaemonState::Failed, None),
            State::Stopped => (DaemonState::Stopped, None),
            State::Done => (DaemonState::Done, None),
        };
        View {
            state,
            pid: process.map(|p| p.pid),
            since: process.map(|p| p.since),
            generation: self.generation,
            // Each start after the first one is by request or by its policy.
            restarts: self.generation.saturating_sub(1 + self.revivals),
            revivals: self.revivals,
            starts_at: self.starts_at(),
            waiting_for: Vec::new(),
            requests: self.requests.view(),
            last_exit: self.last_exit,
            notified: self.said.ready,
        }
    }

    pub(super) fn starts_at(&self) -> Option<Moment> {
        match self.state {
            State::Backoff(at) => Some(at),
            _ => match self.stop()?.after {
                After::Death(Fate::Backoff(at)) => Some(at),
                _ => None,
            },
        }
    }

    /// Why those that depend on it can't start yet.
    pub(in crate::supervisor) fn why_unready(&self) -> String {
        match &self.state {
            State::Waiting => "waiting".to_owned(),
            State::Fresh | State::Forking | State::Starting(..) => "starting".to_owned(),
            State::Running(_) => match self.ready_by {
                ReadyBy::Exec => "starting".to_owned(),
                ReadyBy::Probe => self.probes.why().to_owned(),
                ReadyBy::Notify => "has not said READY=1".to_owned(),
                ReadyBy::Success => "not finished".to_owned(),
            },
            State::Stopped => "stopped".to_owned(),
            _ if self.is_being_ended() => "stopping".to_owned(),
            _ => {
                let end = self.last_exit.map_or_else(|| "never ran".to_owned(), ended);
                if self.starts_at().is_some() { format!("{end}; in backoff") } else { end }
            }
        }
    }
}

impl Fate {
    fn shown(self) -> DaemonState {
        match self {
            Self::Backoff(_) => DaemonState::Backoff,
            Self::Exited => DaemonState::Exited,
            Self::Failed => DaemonState::Failed,
            Self::Done => DaemonState::Done,
        }
    }
}

fn ended(exit: LastExit) -> String {
    match (exit.code, exit.signal) {
        (_, Some(signal)) => End::Signal(signal).to_string(),
        (code, None) => End::Code(code.unwrap_or(0)).to_string(),
    }
}
