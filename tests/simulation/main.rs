//! init as a whole on a simulated kernel: its promises over random schedules, and the simulation over planted bugs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(clippy::cast_possible_truncation, reason = "of numbers that were drawn to be small")]
#![allow(missing_docs, reason = "no library")]

#[macro_use]
#[path = "../needs/mod.rs"]
mod needs;

mod bugs;
mod bundle;
mod campaign;
mod change;
mod choices;
#[path = "../harness/mod.rs"]
mod harness;
mod judge;
mod kernel;
mod plants;
mod real;
#[path = "../rng/mod.rs"]
mod rng;
mod schedule;
mod world;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bugs::{ALL, Bug};
use change::TOLD;
use choices::Choices;
use plants::{PLANTS, Plant};

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
    needs!(Native("it would take minutes, and a simulated kernel is the same everywhere"));
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
    needs!(Namespaces, Native("a program that is not there counts as one that ran and exited 127: vfork is a fork"));
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
            needs!(Native("it would take minutes, and a simulated kernel is the same everywhere"));
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
    a_stopped_process_that_never_gets_its_term_is_found: StoppedProcessNeverGetsItsTerm, "a stopped process gets its stop signal";
    a_replacement_that_meets_the_old_workers_port_is_found: ReplacementMeetsTheOldWorker, "no process of an old session is there when its replacement starts";
    a_page_read_half_written_is_found: PageReadHalfWritten, "a status page is read as a whole";
    a_fork_that_blocks_all_signals_taken_for_a_handler_is_found: ForkTakenForAHandler, "no signal reaches a process that doesn't catch it";
    members_killed_without_being_asked_are_found: MembersKilledUnasked, "what is left of a session is asked before it is killed";
    a_member_outside_the_group_that_is_forgotten_is_found: MemberOutsideTheGroupForgotten, "after an unrequested death, the rest of the session is killed at once";
    an_exec_that_never_comes_and_blocks_a_shutdown_is_found: ExecThatNeverComesBlocksAShutdown, "status shows the truth";
    a_traced_child_that_is_waited_for_for_ever_is_found: TracedChildWaitedForForEver, "a stop goes on 2 s after SIGKILL";
    a_grace_that_runs_on_in_a_pause_is_found: GraceRunsOnInAPause, "a deadline never moves";
    a_delay_that_a_crash_resets_is_found: DelayResetByACrash, "a delay is never shorter than docker's, and doubles";
    a_policy_that_starts_a_stopped_daemon_is_found: PolicyStartsAStoppedDaemon, "only a request starts a stopped daemon";
    a_failed_oneshot_taken_for_ready_is_found: FailedOneshotTakenForReady, "no daemon starts before each of its dependencies has been ready once";
    a_policy_that_starts_a_daemon_in_a_shutdown_is_found: PolicyInAShutdown, "nothing starts after a shutdown was asked for";
    a_probe_that_is_left_running_is_found: ProbeLeftRunning, "a daemon is probed only while another waits for it";
    a_probe_that_takes_for_ever_is_found: ProbeThatTakesForEver, "a probe has 10 s";
    probes_that_pile_up_are_found: ProbesPileUp, "at most one probe at a time for each daemon";
    a_ready_dependency_that_nobody_sees_is_found: ReadyAndNobodySees, "a daemon starts as soon as it may";
    an_essential_daemons_code_that_a_sibling_hides_is_found: EssentialsCodeHidden, "the exit code is what a second computation gives";
    a_dependency_that_is_stopped_first_is_found: DependencyStoppedFirst, "a dependency is asked to stop after its dependents, or at half its grace";
    a_held_signal_that_outlives_its_process_is_found: HeldSignalOutlivesItsProcess, "a forward reaches its daemon alone";
    a_request_that_is_forgotten_is_found: RequestForgotten, "every request ends in an outcome that status shows";
    a_stop_signal_that_is_always_term_is_found: AlwaysTerm, "a daemon gets its own stop signal";
}

fn kept(report: &change::Report) {
    if let Some((list, broken)) = &report.failed {
        panic!("{}", change::explain(list, broken, None));
    }
    // Each of them is told, or else it is nothing to have kept every promise.
    let untold: Vec<_> = TOLD.iter().zip(report.told).filter(|(_, n)| *n < 20).collect();
    assert!(untold.is_empty(), "{untold:?}");
}

#[test]
fn a_change_is_live_or_as_it_was_with_one_fault_at_each_of_its_steps() {
    kept(&change::run_all(1, None));
}

#[test]
fn a_change_is_live_or_as_it_was_over_100_000_schedules_with_many_faults() {
    kept(&change::run_random(SEED, 100_000, threads(), None));
}

#[test]
fn a_seed_of_a_change_replays_exactly() {
    for seed in 0..200 {
        let mut choices = Choices::random(seed);
        let told = change::run(&mut choices, None, true);
        let list = choices.made.iter().map(|(chosen, _)| *chosen).collect();
        let again = change::run(&mut Choices::list(list, usize::MAX), None, true);
        assert_eq!((told.log, told.steps), (again.log, again.steps));
    }
}

/// Which promise of a change a planted bug breaks first.
fn found_in_a_change(plant: Plant) -> String {
    let Some((list, broken)) = change::run_random(SEED, 400_000, 1, Some(plant)).failed else {
        panic!("{plant:?} was not found")
    };
    println!("{plant:?}\n{}", change::explain(&list, &broken, Some(plant)));
    broken.promise.to_owned()
}

macro_rules! finds_in_changes {
    ($($name:ident: $plant:ident, $promise:literal;)*) => {
        $(#[test]
        fn $name() {
            needs!(Native("it would take minutes, and a simulated kernel is the same everywhere"));
            assert_eq!(found_in_a_change(Plant::$plant), $promise);
        })*

        #[test]
        fn each_bug_of_a_change_that_can_be_planted_has_its_test() {
            assert_eq!(PLANTS, [$(Plant::$plant),*]);
        }
    };
}

finds_in_changes! {
    a_commit_without_an_acknowledgement_is_found: CommitsUnacknowledged, "it commits only once it is acknowledged";
    an_unchecked_content_is_found: PlacesUnchecked, "nothing unchecked is put in place";
    a_place_without_a_record_is_found: PlacesUnrecorded, "whoever finds new content in place can recover the change";
    a_way_back_without_a_restart_is_found: GoesBackWithoutARestart, "never a mix";
    an_init_that_recovers_under_the_lock_is_found: InitRecoversUnderTheLock, "if it says that somebody else wrote to the file, somebody did";
    a_proof_without_settling_is_found: NothingSettles, "a daemon that is found live is live, and has settled";
    a_proof_by_the_restart_of_another_is_found: CountsBeforeItIsSent, "nothing counts before the signal is sent";
    an_old_process_taken_for_the_new_is_found: TakesTheOldProcessForTheNew, "a generation of another start is never taken for the proof";
    a_sweep_before_the_commit_is_found: SweepsBeforeTheCommit, "whoever comes next recovers an interrupted change";
    a_place_that_failed_and_is_forgotten_is_found: ForgetsAPlaceThatFailed, "any other exit but 5 means that content and daemon are as they were";
    a_lost_connection_taken_for_live_is_found: TakesALostConnectionForLive, "exit 0 means that the new content is live";
    an_interrupted_change_that_nobody_recovers_is_found: NobodyRecoversWhatWasInterrupted, "whoever comes next recovers an interrupted change";
    a_way_back_over_what_a_person_wrote_is_found: WritesOverAPerson, "what a person wrote is never lost";
    a_persons_content_called_the_old_is_found: CallsAPersonsContentTheOld, "the record tells which content it is";
    a_proof_of_what_a_person_wrote_is_found: ProvesWhatAPersonWrote, "what a person wrote is never lost";
    what_came_back_and_is_not_looked_at_is_found: ForgetsToLookAtWhatCameBack, "what a person wrote is never lost";
    a_dead_daemon_that_is_forgotten_is_found: ForgetsThatItWasDead, "exit 5 means that somebody must act";
    an_answer_of_a_stranger_is_found: TakesAStrangersAnswer, "a daemon that is found live is live, and has settled";
    a_start_by_its_policy_taken_for_the_proof_is_found: TakesAnotherStartForTheProof, "a generation of another start is never taken for the proof";
    a_stopped_daemon_that_is_started_is_found: StartsWhatWasStopped, "a stopped daemon stays stopped";
}
