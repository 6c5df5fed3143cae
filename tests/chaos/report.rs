//! What came of it: figures, and which promises were broken.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::DAEMONS;
use crate::world::{Gap, World};

/// The bundle at rest.
#[derive(Clone, Debug)]
pub struct Rest {
    pub pids: Vec<i64>,
    pub is_ready: bool,
    pub descriptors: u64,
    /// init's own memory, in KiB.
    pub memory: u64,
    pub zombies: u64,
}

impl Rest {
    pub fn read(text: &str) -> Option<Self> {
        let (json, rest) = text.split_once('\n')?;
        let status: Value = serde_json::from_str(json).ok()?;
        let daemons = status["daemons"].as_array()?;
        let mut numbers = rest.split_whitespace().filter_map(|word| word.parse().ok());
        let is_ready = |daemon: &Value| daemon["ready"] == true && daemon["state"] == "running";
        Some(Self {
            pids: daemons.iter().map(|daemon| daemon["pid"].as_i64().unwrap_or(0)).collect(),
            is_ready: daemons.len() == DAEMONS.len() && daemons.iter().all(is_ready),
            descriptors: numbers.next()?,
            memory: numbers.next()?,
            zombies: numbers.next()?,
        })
    }
}

/// The whole of a run.
pub struct Run {
    pub first: Rest,
    pub last: Rest,
    rests: Vec<Rest>,
    acts: BTreeMap<&'static str, u64>,
    pub took: Duration,
    pub exit_code: String,
}

impl Run {
    pub fn new(first: Rest) -> Self {
        let (last, acts, exit_code) = (first.clone(), BTreeMap::new(), String::new());
        Self { first, last, rests: Vec::new(), acts, took: Duration::ZERO, exit_code }
    }

    pub fn add(&mut self, acts: &[&'static str], rest: Rest) {
        for act in acts {
            *self.acts.entry(act).or_default() += 1;
        }
        self.last = rest.clone();
        self.rests.push(rest);
    }
}

struct Failure {
    who: String,
    since: f64,
    until: f64,
    error: String,
}

/// What the clients say.
#[derive(Default)]
pub struct Calls {
    made: BTreeMap<String, u64>,
    failed: Vec<Failure>,
    /// Who, from the last call that was served to the first that was again.
    outages: Vec<(String, f64, f64)>,
}

impl Calls {
    pub fn read(lines: impl Iterator<Item = String>) -> Self {
        let mut calls = Self::default();
        for line in lines {
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            let time = |key: &str| value[key].as_f64();
            if let (Some(since), Some(until)) = (time("since"), time("until")) {
                calls.failed.push(Failure { who: text("who"), since, until, error: text("error") });
            } else if let (Some(from), Some(to)) = (time("from"), time("to")) {
                calls.outages.push((text("who"), from, to));
            } else {
                calls.made = serde_json::from_value(value["calls"].clone()).unwrap();
            }
        }
        calls
    }
}

impl Gap {
    fn excuses(&self, who: &str, since: f64, until: f64) -> bool {
        who.split(" and ").any(|name| name == DAEMONS[self.daemon]) && since <= self.to && self.from <= until
    }
}

fn line(what: &str, figure: &str) {
    println!("{what:<12} {figure}");
}

/// Prints the report and returns what was broken.
pub fn tell(run: &Run, calls: &Calls, world: &World<'_>) -> Vec<String> {
    let mut broken = world.broken();
    let acts: u64 = run.acts.values().sum();
    let seconds = run.took.as_secs();
    line("done", &format!("{acts} acts in {} rounds, {seconds} s, up to three at once:", run.rests.len()));
    for (act, times) in &run.acts {
        line("", &format!("{times} × {act}"));
    }
    let gaps = world.gaps.lock().unwrap();
    for (who, made) in &calls.made {
        let failed: Vec<&Failure> = calls.failed.iter().filter(|f| f.who == *who).collect();
        let is_outside = |f: &&&Failure| !gaps.iter().any(|gap| gap.excuses(who, f.since, f.until));
        let outside: Vec<_> = failed.iter().filter(is_outside).collect();
        let of_them = format!("{} failed in its own gap, {} outside", failed.len() - outside.len(), outside.len());
        line("calls", &format!("{made} of {who}: {of_them}"));
        broken.extend(outside.iter().take(5).map(|f| {
            format!("a call of {who} failed outside of its gaps, from {:.3} to {:.3}: {}", f.since, f.until, f.error)
        }));
        if *made < seconds {
            broken.push(format!("{who} was called less than once a second"));
        }
    }
    let mut longest: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
    for (who, from, to) in calls.outages.iter().filter(|(who, ..)| who == "pipelock") {
        for gap in gaps.iter().filter(|gap| gap.excuses(who, *from, *to)) {
            let entry = longest.entry(gap.cause).or_default();
            *entry = (entry.0 + 1, entry.1.max(to - from));
        }
    }
    for (cause, (times, seconds)) in longest {
        let longest = format!("the longest gap by {cause}: {:.0} ms", seconds * 1000.0);
        line("pipelock", &format!("{longest} (a client saw {times})"));
    }
    let heard = world.heard.lock().unwrap();
    for (signal, sent) in world.sent.lock().unwrap().iter() {
        let served = heard.received.iter().filter(|(name, _)| name == signal).count();
        line(
            "signals",
            &format!("SIG{signal}: {sent} sent, {served} served: one not earlier than each sent, its outcome told"),
        );
    }
    line(
        "kills",
        &format!("{} of daemons, each back at the end, no sooner than its delay", world.killed.lock().unwrap()),
    );
    for (name, delays) in &heard.delays {
        let longest = delays.iter().map(|(delay, _)| *delay).fold(0.0, f64::max);
        line("revivals", &format!("{} of {name} by its policy; its longest delay: {longest} s", delays.len()));
    }
    for (verb, times) in world.asked.lock().unwrap().iter() {
        line("requests", &format!("{times} of {verb}"));
    }
    let flooded = world.flooded.lock().unwrap();
    line(
        "lines",
        &format!(
            "{flooded} written in floods, none lost; {} of daemons that were ending dropped and counted",
            heard.dropped
        ),
    );
    line("zombies", &format!("{} at rest, of {} orphans", run.last.zombies, world.orphaned.lock().unwrap()));
    line("descriptors", &format!("{} of init's at each rest, the first and the last", run.last.descriptors));
    // Memory that is touched once stays: a queue after a flood (until the next line), the heap's pages around it. So it grows
    // at first, less and less; in half an hour from 240 to 696 KiB was seen, 16 KiB of it from third to third. A leak of 1 KiB
    // a round adds five times as much. In a short run the first floods may come in any third.
    let allowed = if run.took < Duration::from_secs(600) { 128 } else { 48 };
    let thirds = run.rests.chunks(run.rests.len().div_ceil(3).max(1));
    let most: Vec<u64> = thirds.filter_map(|rests| rests.iter().map(|rest| rest.memory).max()).collect();
    if let [first, second, last] = most[..] {
        let grown = second.saturating_sub(first).min(last.saturating_sub(second));
        let text = "of init's own at rest in the first, second and last third";
        line("memory", &format!("{grown} KiB grown: at most {first}, {second} and {last} KiB {text}"));
        if grown > allowed {
            broken.push(format!(
                "init's memory grew by {grown} KiB from each third to the next, and {allowed} KiB are allowed"
            ));
        }
    }
    line("init", &format!("lived all the while, and exited {} at its TERM", run.exit_code));
    if heard.own_dropped > 0 {
        broken.push(format!("lines of init's log were dropped, {} times", heard.own_dropped));
    }
    broken
}
