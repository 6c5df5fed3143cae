//! Runs schedules of the simulated init and prints one line of result; `scripts/simulate --help` says how.

#![allow(clippy::unwrap_used, clippy::panic, reason = "it serves the tests, which fail by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "of numbers that were drawn to be small")]
#![allow(missing_docs, reason = "no library")]

mod bugs;
mod bundle;
mod campaign;
mod change;
mod choices;
mod judge;
mod kernel;
mod plants;
#[path = "../rng/mod.rs"]
mod rng;
mod schedule;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use bugs::{ALL, Bug};
use campaign::{explain, run_all};
use change::TOLD;
use choices::Choices;
use plants::{PLANTS, Plant};
use schedule::{Schedule, tables};
use world::tell;

const USAGE: &str = "usage: simulate [--schedules N] [--seed S] [--threads N] [--trace] [--plant BUG]

Runs N schedules (100000) of the real core on a simulated kernel, the i-th drawn from seed S+i (1), and checks
every promise after every event. One that fails is made as short as it will, and told; exit 1.
--seed S --schedules 1 runs the one of seed S again, --trace tells it whole. --plant puts a bug in.

usage: simulate --transactions [--schedules N] [--seed S] [--threads N] [--faults F] [--choices C,C...] [--plant BUG]

The same for a change of a daemon's file: the real cores of the transaction and of its proof. --faults F: every
schedule that there is with at most F faults. --choices runs one again, and tells it.";

struct Wanted {
    schedules: u64,
    seed: u64,
    threads: usize,
    trace: bool,
    bug: Option<Bug>,
    transactions: bool,
    faults: Option<usize>,
    choices: Option<Vec<usize>>,
    plant: Option<Plant>,
}

fn arguments() -> Option<Wanted> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut wanted = Wanted {
        schedules: 100_000,
        seed: 1,
        threads,
        trace: false,
        bug: None,
        transactions: false,
        faults: None,
        choices: None,
        plant: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--schedules" => wanted.schedules = args.next()?.parse().ok()?,
            "--seed" => wanted.seed = args.next()?.parse().ok()?,
            "--threads" => wanted.threads = args.next()?.parse().ok()?,
            "--trace" => wanted.trace = true,
            "--plant" => {
                let name = args.next()?;
                wanted.bug = ALL.iter().find(|bug| format!("{bug:?}") == name).copied();
                wanted.plant = PLANTS.iter().find(|plant| format!("{plant:?}") == name).copied();
                (wanted.bug.is_some() || wanted.plant.is_some()).then_some(())?;
            }
            "--transactions" => wanted.transactions = true,
            "--faults" => wanted.faults = Some(args.next()?.parse().ok()?),
            "--choices" => {
                let choices = args.next()?;
                wanted.choices = Some(choices.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?);
            }
            _ => return None,
        }
    }
    Some(wanted)
}

fn main() -> ExitCode {
    let Some(wanted) = arguments() else {
        println!("{USAGE}\nBUG: {ALL:?}, or with --transactions: {PLANTS:?}");
        return ExitCode::from(2);
    };
    if wanted.transactions {
        return transactions(&wanted);
    }
    let tables = tables();
    if wanted.trace {
        let schedule = Schedule::draw(wanted.seed, &tables);
        println!("{}", tell(&schedule, &tables, wanted.bug).join("\n"));
    }
    let begun = Instant::now();
    let report = run_all(&tables, wanted.seed, wanted.schedules, wanted.threads, wanted.bug);
    let took = begun.elapsed();
    println!(
        "seed {}: {} schedules, {} events in {:.1} s, {} events a second; {}",
        wanted.seed,
        report.schedules,
        report.events,
        took.as_secs_f64(),
        u128::from(report.events) * 1_000 / took.as_millis().max(1),
        if report.failed.is_some() { "a promise was broken" } else { "every promise held" },
    );
    let Some((schedule, broken)) = report.failed else { return ExitCode::SUCCESS };
    println!("{}", explain(&tables, &schedule, &broken, wanted.bug));
    ExitCode::FAILURE
}

fn transactions(wanted: &Wanted) -> ExitCode {
    if let Some(choices) = &wanted.choices {
        let outcome = change::run(&mut Choices::list(choices.clone(), usize::MAX), wanted.plant, true);
        println!("{}\n{:?}", outcome.log.join("\n"), outcome.broken);
        return ExitCode::from(u8::from(outcome.broken.is_some()));
    }
    let begun = Instant::now();
    let report = match wanted.faults {
        Some(faults) => change::run_all(faults, wanted.plant),
        None => change::run_random(wanted.seed, wanted.schedules, wanted.threads, wanted.plant),
    };
    let took = begun.elapsed();
    let told: Vec<String> = TOLD.iter().zip(report.told).map(|(told, n)| format!("{told:?} {n}")).collect();
    println!(
        "{}: {} schedules, {} steps in {:.1} s; {}; {}",
        wanted.faults.map_or_else(|| format!("seed {}", wanted.seed), |n| format!("all with at most {n} faults")),
        report.schedules,
        report.steps,
        took.as_secs_f64(),
        told.join(", "),
        if report.failed.is_some() { "a promise was broken" } else { "every promise held" },
    );
    let Some((list, broken)) = report.failed else { return ExitCode::SUCCESS };
    println!("{}", change::explain(&list, &broken, wanted.plant));
    ExitCode::FAILURE
}
