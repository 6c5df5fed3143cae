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

/// Runs the first so many schedules in several threads, until one of them fails. `run` adds the one of that number to what its
/// thread has come to, and says whether every promise held; `add` brings the threads together.
pub fn run_each<R: Send>(
    schedules: u64,
    threads: usize,
    new: impl Fn() -> R + Sync,
    run: impl Fn(&mut R, u64) -> bool + Sync,
    add: impl Fn(&mut R, R) + Sync,
) -> R {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let all = Mutex::new(new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut own = new();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= schedules {
                        break;
                    }
                    if !run(&mut own, number) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                add(&mut all.lock().unwrap_or_else(PoisonError::into_inner), own);
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs schedules until one fails.
pub fn run_all(tables: &[Table], seed: u64, schedules: u64, threads: usize, bug: Option<Bug>) -> Report {
    let new = || Report { schedules: 0, events: 0, marks: [0; MARKS], failed: None };
    let one = |report: &mut Report, number: u64| {
        let schedule = Schedule::draw(seed.wrapping_add(number), tables);
        let outcome = run(&schedule, tables, bug, &mut report.marks);
        report.schedules += 1;
        report.events += outcome.events;
        report.failed = outcome.broken.map(|broken| (schedule, broken));
        report.failed.is_none()
    };
    let add = |all: &mut Report, own: Report| {
        all.schedules += own.schedules;
        all.events += own.events;
        all.marks.iter_mut().zip(own.marks).for_each(|(sum, n)| *sum += n);
        all.failed = all.failed.take().into_iter().chain(own.failed).min_by_key(|(schedule, _)| schedule.seed);
    };
    run_each(schedules, threads, new, one, add)
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
