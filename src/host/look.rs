//! Asks an engine's CLI which containers there are, and in which state. `identify` and `pods` judge its output.

use std::time::Duration;

use super::complaint::{Complaint, call_failed};
use super::docker::{self, Output};
use super::engine::{self, BundleRef, Engine, Kind};
use super::identify::{self, Found};
use super::run::Select;
use super::{pods, to_ask};
use crate::change::reason::Reason;
use crate::protocol::MAX_BYTES;
use crate::text::Printable;

/// The most that is read of a list of containers, or of one container whose fields can't be picked, in bytes.
const MAX_LIST: usize = 1 << 20;
/// The most that is read of kubectl's list of pods, in bytes. Each pod may take some 20 KB.
const MAX_PODS: usize = 1 << 26;

/// The bundles that were found.
#[derive(Debug, Default)]
pub(super) struct Finding {
    pub found: Vec<Found>,
    /// How many pods a selection left out because they are being deleted.
    pub terminating: usize,
}

/// The state of a bundle that was found before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Paused,
    /// It has ended, or another one has its name now.
    Gone,
    /// The engine gave no answer.
    Unknown,
}

/// Finds the bundles.
pub(super) fn find(engine: &Engine, select: &Select, timeout: Duration) -> Result<Finding, Reason> {
    Look { engine, timeout, patience: 1 }.find(select)
}

/// The present state of a bundle. One Ctrl-C doesn't break off the call; a second one does.
pub(super) fn state(engine: &Engine, bundle: &BundleRef, timeout: Duration) -> State {
    let name = match bundle {
        BundleRef::Container(id) => id,
        BundleRef::Pod { pod, .. } => pod,
    };
    let look = Look { engine, timeout, patience: 2 };
    let finding = look.find(&Select::Names(vec![name.clone()])).unwrap_or_default();
    match finding.found.first().map(|found| &found.bundle) {
        Some(Ok(now)) if now == bundle => State::Running,
        Some(Err(Reason::Paused)) => State::Paused,
        Some(Ok(_) | Err(Reason::NotUp { .. } | Reason::NoSuch { .. })) => State::Gone,
        _ => State::Unknown,
    }
}

/// Calls of one engine's CLI.
struct Look<'a> {
    engine: &'a Engine,
    /// How long each may take.
    timeout: Duration,
    /// How often a person must press Ctrl-C to break off a call.
    patience: usize,
}

impl Look<'_> {
    fn find(&self, select: &Select) -> Result<Finding, Reason> {
        match &self.engine.kind {
            Kind::Docker => self.containers(select).map(|found| Finding { found, ..Finding::default() }),
            Kind::Kubectl { container, .. } => self.pods(container.as_deref(), select),
        }
    }

    fn containers(&self, select: &Select) -> Result<Vec<Found>, Reason> {
        let names = match select {
            Select::Names(names) => names.clone(),
            Select::Labels(labels) => {
                let listed = self.ask("ps", &self.engine.list(labels), MAX_LIST)?;
                if !listed.success {
                    let words = Complaint::new(&listed.stderr).words();
                    return Err(Reason::CallFailed { call: Printable::new("ps"), words });
                }
                String::from_utf8_lossy(&listed.stdout).split_whitespace().map(str::to_owned).collect()
            }
        };
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.inspect(&names)?;
        // If one name is missing, nerdctl prints nothing about the others.
        let is_missing = |found: &Found| matches!(found.bundle, Err(Reason::NoSuch { .. }));
        if found.iter().any(is_missing) {
            for one in found.iter_mut().filter(|one| one.id.is_none() && !is_missing(one)) {
                let alone = self.inspect(std::slice::from_ref(&one.asked))?.pop();
                *one = alone.unwrap_or_else(|| one.clone());
            }
        }
        Ok(found)
    }

    fn inspect(&self, names: &[String]) -> Result<Vec<Found>, Reason> {
        let call = |whole: bool, max_bytes: usize| {
            self.ask("inspect", &self.engine.inspect(names, whole), max_bytes.saturating_mul(names.len()))
        };
        let mut output = call(false, MAX_BYTES)?;
        let is_nerdctl = engine::is_nerdctl(&output.stderr);
        if engine::is_about_format(&output.stderr) {
            output = call(true, MAX_LIST)?;
        }
        let mut found = identify::identify(names, &output.stdout, &output.stderr);
        for one in found.iter_mut().filter(|_| is_nerdctl) {
            let Ok(BundleRef::Container(id)) = &one.bundle else { continue };
            let native = self.ask("inspect", &self.engine.inspect_natively(id), MAX_LIST)?;
            if let Err(why) = identify::has_own_pids(id, &native.stdout) {
                one.bundle = Err(why);
            }
        }
        Ok(found)
    }

    fn pods(&self, container: Option<&str>, select: &Select) -> Result<Finding, Reason> {
        let (names, command) = match select {
            Select::Names(names) => (Some(names.as_slice()), self.engine.pods(names)),
            Select::Labels(selectors) => (None, self.engine.pods_by_label(selectors)),
        };
        let output = self.ask("get", &command, MAX_PODS)?;
        let unreachable = |words| Reason::CallFailed { call: Printable::new("get"), words };
        if names.is_none() && !output.success {
            return Err(unreachable(Complaint::new(&output.stderr).words()));
        }
        let found = pods::identify(names, container, &output.stdout, &output.stderr);
        let no_list = || unreachable(Printable::new("its output isn't a list of pods"));
        let (found, terminating) = found.ok_or_else(no_list)?;
        Ok(Finding { found, terminating })
    }

    fn ask(&self, what: &'static str, command: &[String], max_bytes: usize) -> Result<Output, Reason> {
        let output = docker::call(&self.engine.program, command, max_bytes, to_ask(self.timeout), self.patience);
        output.map_err(|e| call_failed(self.engine, what, &e))
    }
}
