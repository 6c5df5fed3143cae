//! init as a whole on a simulated kernel: its promises over random schedules, and the simulation over planted bugs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
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
mod real;
mod schedule;
mod world;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bugs::{ALL, Bug};
use campaign::{Report, explain, run_all};
use judge::Mark;
use schedule::{Schedule, tables};

/// The same ones in every run of the tests: scripts/simulate draws others.
const SEED: u64 = 1;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[test]
fn every_promise_holds_over_100_000_schedules_and_they_reach_every_corner() {
    let tables = tables();
    let report = run_all(&tables, SEED, 100_000, threads(), None);
    if let Some((schedule, broken)) = &report.failed {
        panic!("{}", explain(&tables, schedule, broken, None));
    }
    let unreached: Vec<Mark> = Mark::ALL.into_iter().filter(|mark| report.marks[*mark as usize] < 10).collect();
    assert!(unreached.is_empty(), "reached less than ten times: {unreached:?}");
}

#[test]
fn a_seed_replays_exactly() {
    let tables = tables();
    for seed in 0..200 {
        let told = || world::tell(&Schedule::draw(seed, &tables), &tables, None);
        assert_eq!(told(), told());
    }
}

/// `SIMULATION_REAL=3000 cargo test --test simulation real_kernel` compares more of them.
#[test]
fn the_simulated_kernel_ends_in_the_same_states_as_the_real_kernel() {
    let schedules = std::env::var("SIMULATION_REAL").ok().map_or(40, |n| n.parse::<u64>().unwrap());
    let next = AtomicU64::new(0);
    let states = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < schedules) {
                    states.fetch_add(real::compare(SEED + seed), Ordering::Relaxed);
                }
            });
        }
    });
    println!("{schedules} schedules, {} states, the same in both", states.into_inner());
}

/// Which promise a planted bug breaks first, within this many schedules.
fn found(bug: Bug) -> String {
    let tables = tables();
    let Report { failed, schedules, .. } = run_all(&tables, SEED, 200_000, 1, Some(bug));
    let Some((schedule, broken)) = failed else { panic!("{bug:?} was not found in {schedules} schedules") };
    let told = explain(&tables, &schedule, &broken, Some(bug));
    println!("{bug:?}: schedule {}\n{told}", schedule.seed);
    assert!(told.contains("\nshortest, "), "{told}");
    broken.promise.to_owned()
}

macro_rules! finds {
    ($($name:ident: $bug:ident, $promise:literal;)*) => {
        $(#[test]
        fn $name() {
            assert_eq!(found(Bug::$bug), $promise);
        })*

        #[test]
        fn each_bug_that_can_be_planted_has_its_test() {
            assert_eq!(ALL, [$(Bug::$bug),*]);
        }
    };
}

finds! {
    one_waitpid_for_one_sigchld_is_found: OneWaitForOneSigchld, "every child is reaped exactly once";
    a_group_killed_after_the_reap_is_found: GroupKilledAfterTheReap, "the group is killed before its leader is reaped";
    an_inherited_mask_is_found: MaskInherited, "a daemon starts with an empty mask";
    a_deadline_moved_by_a_second_term_is_found: DeadlineMovedByASecondTerm, "a deadline never moves";
    a_kill_timer_of_an_earlier_stop_that_fires_in_a_later_one_is_found: KillTimerOfAnEarlierStop, "a deadline never moves";
    a_restart_that_waits_in_place_is_found: RestartWaitsInPlace, "every child is reaped exactly once";
    a_start_during_shutdown_is_found: StartDuringShutdown, "nothing starts after a shutdown was asked for";
    a_forward_before_the_handler_is_found: ForwardBeforeTheHandler, "no signal reaches a process that doesn't catch it";
    a_stale_pid_signalled_is_found: StalePidSignalled, "no signal is sent to a pid that isn't ours at that moment";
    a_stopped_process_that_never_gets_its_term_is_found: StoppedProcessNeverGetsItsTerm, "a stopped process gets its TERM";
    a_replacement_that_meets_the_old_workers_port_is_found: ReplacementMeetsTheOldWorker, "no process of an old group is there when its replacement starts";
    a_page_read_half_written_is_found: PageReadHalfWritten, "a page is read whole";
    a_fork_that_blocks_all_signals_taken_for_a_handler_is_found: ForkTakenForAHandler, "no signal reaches a process that doesn't catch it";
}
