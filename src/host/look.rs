//! Asks an engine's CLI who is there, and in which state. What it prints is judged by `identify` and `pods`.

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
/// The most that is read of kubectl's pods, of which each may take some 20 KB.
const MAX_PODS: usize = 1 << 26;

/// Who was asked for.
#[derive(Debug, Default)]
pub(super) struct Finding {
    pub found: Vec<Found>,
    /// How many pods a selection left out, since they are being deleted.
    pub terminating: usize,
}

/// What an engine says of a bundle that was found before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Paused,
    /// It ended, or another one has its name now.
    Gone,
    /// It can't be told.
    Unknown,
}

/// Who is there.
pub(super) fn find(engine: &Engine, select: &Select, timeout: Duration) -> Result<Finding, Reason> {
    match &engine.kind {
        Kind::Docker => containers(engine, select, timeout).map(|found| Finding { found, ..Finding::default() }),
        Kind::Kubectl { container, .. } => in_pods(engine, container.as_deref(), select, timeout),
    }
}

/// In which state one is now.
pub(super) fn state(engine: &Engine, bundle: &BundleRef, timeout: Duration) -> State {
    let name = match bundle {
        BundleRef::Container(id) => id,
        BundleRef::Pod { pod, .. } => pod,
    };
    let finding = find(engine, &Select::Names(vec![name.clone()]), timeout).unwrap_or_default();
    match finding.found.first().map(|found| &found.bundle) {
        Some(Ok(now)) if now == bundle => State::Running,
        Some(Err(Reason::Paused)) => State::Paused,
        Some(Ok(_) | Err(Reason::NotUp { .. } | Reason::NoSuch { .. })) => State::Gone,
        _ => State::Unknown,
    }
}

fn containers(engine: &Engine, select: &Select, timeout: Duration) -> Result<Vec<Found>, Reason> {
    let names = match select {
        Select::Names(names) => names.clone(),
        Select::Labels(labels) => {
            let listed = ask(engine, "ps", &engine.list(labels), MAX_LIST, timeout)?;
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
    let mut found = inspect(engine, &names, timeout)?;
    // nerdctl says nothing of those that are there if one of them is missing.
    let is_missing = |found: &Found| matches!(found.bundle, Err(Reason::NoSuch { .. }));
    if found.iter().any(is_missing) {
        for one in found.iter_mut().filter(|one| one.id.is_none() && !is_missing(one)) {
            *one = inspect(engine, std::slice::from_ref(&one.asked), timeout)?.pop().unwrap_or_else(|| one.clone());
        }
    }
    Ok(found)
}

fn inspect(engine: &Engine, names: &[String], timeout: Duration) -> Result<Vec<Found>, Reason> {
    let call = |whole: bool, max_bytes: usize| {
        ask(engine, "inspect", &engine.inspect(names, whole), max_bytes.saturating_mul(names.len()), timeout)
    };
    let mut output = call(false, MAX_BYTES)?;
    let is_nerdctl = engine::is_nerdctl(&output.stderr);
    if engine::is_about_format(&output.stderr) {
        output = call(true, MAX_LIST)?;
    }
    let mut found = identify::identify(names, &output.stdout, &output.stderr);
    for one in found.iter_mut().filter(|_| is_nerdctl) {
        let Ok(BundleRef::Container(id)) = &one.bundle else { continue };
        let native = ask(engine, "inspect", &engine.inspect_natively(id), MAX_LIST, timeout)?;
        if let Err(why) = identify::has_own_pids(id, &native.stdout) {
            one.bundle = Err(why);
        }
    }
    Ok(found)
}

fn in_pods(engine: &Engine, container: Option<&str>, select: &Select, timeout: Duration) -> Result<Finding, Reason> {
    let (names, command) = match select {
        Select::Names(names) => (Some(names.as_slice()), engine.pods(names)),
        Select::Labels(selectors) => (None, engine.pods_by_label(selectors)),
    };
    let output = ask(engine, "get", &command, MAX_PODS, timeout)?;
    let unreachable = |words| Reason::CallFailed { call: Printable::new("get"), words };
    if names.is_none() && !output.success {
        return Err(unreachable(Complaint::new(&output.stderr).words()));
    }
    let found = pods::identify(names, container, &output.stdout, &output.stderr);
    let (found, terminating) = found.ok_or_else(|| unreachable(Printable::new("what it prints is no list of pods")))?;
    Ok(Finding { found, terminating })
}

fn ask(
    engine: &Engine,
    what: &'static str,
    command: &[String],
    max_bytes: usize,
    timeout: Duration,
) -> Result<Output, Reason> {
    let output = docker::call(&engine.program, command, max_bytes, to_ask(timeout), 1);
    output.map_err(|e| call_failed(engine, what, &e))
}
