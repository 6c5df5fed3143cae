//! Many schedules, on every core of the machine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sidecar::table::Table;

use crate::bugs::Bug;
use crate::judge::{Broken, MARKS};
use crate::schedule::Schedule;
use crate::world::{run, tell};

/// What a number of schedules came to.
#[derive(Debug)]
pub struct Report {
    pub schedules: u64,
    pub events: u64,
    pub marks: [u64; MARKS],
    /// The failing schedule of the lowest seed that was met, as it was drawn.
    pub failed: Option<(Schedule, Broken)>,
}

/// Runs schedules until one fails.
pub fn run_all(tables: &[Table], seed: u64, schedules: u64, threads: usize, bug: Option<Bug>) -> Report {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let report = Mutex::new(Report { schedules: 0, events: 0, marks: [0; MARKS], failed: None });
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let (mut done, mut events, mut marks, mut failed) = (0, 0, [0; MARKS], None);
                while !stop.load(Ordering::Relaxed) {
                    let from = next.fetch_add(256, Ordering::Relaxed);
                    if from >= schedules {
                        break;
                    }
                    for i in from..(from + 256).min(schedules) {
                        let schedule = Schedule::draw(seed.wrapping_add(i), tables);
                        let outcome = run(&schedule, tables, bug, &mut marks);
                        (done, events) = (done + 1, events + outcome.events);
                        if let Some(broken) = outcome.broken {
                            failed = Some((schedule, broken));
                            stop.store(true, Ordering::Relaxed);
                            break;
                        }
                    }
                }
                let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                report.schedules += done;
                report.events += events;
                report.marks.iter_mut().zip(marks).for_each(|(sum, n)| *sum += n);
                if let Some((schedule, broken)) = failed
                    && report.failed.as_ref().is_none_or(|(old, _)| schedule.seed < old.seed)
                {
                    report.failed = Some((schedule, broken));
                }
            });
        }
    });
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What is said of a failing schedule: the promise, the way to run it again, and its shortest trace.
pub fn explain(tables: &[Table], schedule: &Schedule, broken: &Broken, bug: Option<Bug>) -> String {
    let fails = |s: &Schedule| run(s, tables, bug, &mut [0; MARKS]).broken.is_some_and(|b| b.promise == broken.promise);
    let short = schedule.clone().shrink(fails);
    let how = run(&short, tables, bug, &mut [0; MARKS]).broken.map_or_else(String::new, |b| b.how);
    let wiring: Vec<String> = tables[short.table]
        .wiring
        .iter()
        .map(|w| format!("{} {:?} {}", w.signal, w.action, tables[short.table].daemons[w.daemon].name))
        .collect();
    let graces: Vec<String> = tables[short.table].daemons.iter().map(|d| format!("{} {:?}", d.name, d.grace)).collect();
    let trace = tell(&short, tables, bug).join("\n");
    format!(
        "broken: {}: {how}\nagain: scripts/simulate --schedules 1 --seed {}\ntable {}: {}; {}\nselected {:?}, pids to {}{}{}\nshortest, {} of {} steps:\n{trace}",
        broken.promise,
        schedule.seed,
        short.table,
        graces.join(", "),
        wiring.join(", "),
        short.selected,
        short.pids,
        if short.no_masks { ", no masks" } else { "" },
        if short.plain { ", plain daemons" } else { "" },
        short.steps.len(),
        schedule.steps.len(),
    )
}
