//! The simulated kernel beside the real one: the same schedules, step by step, must show the same.

use std::fmt::Write as _;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sidecar::status::{self, DaemonState, InitState, LastExit, Outcome, Page, RequestOutcome, WaitingFor};
use sidecar::supervisor::{Event, Supervisor};
use sidecar::table::Table;

use crate::harness::{self, Bundle, stat};
use crate::judge::MARKS;
use crate::kernel::{CONT, End, Exec, HUP, KILL, Kind, Members, Millis, Nature, SEGV, STOP, TERM, USR1, USR2};
use crate::rng::Rng;
use crate::schedule::{Ask, Schedule, Step, What, When};
use crate::world::World;

/// Longer than any grace of these tables that is used up; of the simulated clock.
const CONSEQUENCES: Millis = 1_600;

/// A daemon as a real program, and as the simulation has it.
const HABITS: [(&str, Nature); 8] = [
    // Dies of what it gets.
    ("exec sleep 1000", Nature { catches_at: None, ..PLAIN }),
    // Takes it all, and obeys.
    ("trap 'exit 7' TERM; trap : HUP USR2 WINCH; SAY; while :; do sleep 0.05; done", Nature { term: (0, 7), ..PLAIN }),
    // Outlives its grace.
    ("trap '' TERM; trap : HUP USR2 WINCH; SAY; while :; do sleep 0.05; done", Nature { ignores_term: true, ..PLAIN }),
    // Leaves a worker in its group.
    ("sleep 1000 & exec sleep 1000", Nature { catches_at: None, forks_at: WORKER, ..PLAIN }),
    // Leaves one that ignores what it may.
    (
        "trap '' TERM HUP; sleep 1000 & trap - TERM HUP; exec sleep 1000",
        Nature { catches_at: None, forks_at: WORKER, members: Members::IgnoreTerm, ..PLAIN },
    ),
    // A oneshot that succeeds, and one that fails.
    ("exit 0", Nature { dies_at: Some((0, End::Code(0))), ..PLAIN }),
    ("exit 3", Nature { dies_at: Some((0, End::Code(3))), ..PLAIN }),
    ("", Nature { exec: Exec::NotFound, ..PLAIN }),
];
/// The first of the oneshots, and the one that can't be executed.
const ONESHOT: usize = 5;
const NOT_FOUND: usize = 7;
/// So often a daemon is hit at most: a policy's delay after that is no longer than what a step waits for.
const HITS: usize = 3;

const PLAIN: Nature = Nature { catches_at: Some(0), ..crate::kernel::PLAIN };
const WORKER: Option<(Millis, Kind)> = Some((0, Kind::Worker));

/// What status shows at a moment of rest.
type Shown = (InitState, Vec<ShownDaemon>, Vec<Option<(u64, Outcome, Option<u64>)>>);

/// The same of a daemon: its state, its starts, how it ended, for whom it waits, and what became of requests.
type ShownDaemon = (DaemonState, [u64; 3], Option<LastExit>, Vec<String>, Vec<(String, RequestOutcome, Option<u64>)>);

fn names(waiting_for: &[WaitingFor]) -> Vec<String> {
    waiting_for.iter().map(|waiting| waiting.daemon.clone()).collect()
}

fn outcomes(requests: &[status::Request]) -> Vec<(String, RequestOutcome, Option<u64>)> {
    requests.iter().map(|request| (request.verb.clone(), request.outcome, request.generation)).collect()
}

/// What status shows after init's start and after each step with its consequences, and the code that init exits with.
fn show(schedule: &Schedule, table: &Table, consequences: Millis) -> (Vec<Shown>, Option<i32>) {
    let mut world = World::new(schedule, table, None, &[0; MARKS]);
    let mut core = Supervisor::new(table, &schedule.selected);
    world.take(&mut core, vec![Event::Begin]);
    world.work(&mut core);
    world.wait(&mut core, consequences, true);
    let mut shown = vec![shown(&core, table)];
    for step in &schedule.steps {
        if world.is_over() {
            break;
        }
        world.happen(step.what);
        world.work(&mut core);
        world.wait(&mut core, consequences, true);
        shown.push(self::shown(&core, table));
    }
    assert_eq!(world.judge.broken, None);
    (shown, world.judge.exited)
}

fn shown(core: &Supervisor, table: &Table) -> Shown {
    let daemon = |i: usize| {
        let view = core.view(i)?;
        let starts = [view.generation, view.restarts, view.revivals];
        Some((view.state, starts, view.last_exit, names(&view.waiting_for), outcomes(&view.requests)))
    };
    let daemons = (0..table.daemons.len()).map_while(daemon).collect();
    let signals = (0..table.wiring.len()).map(|i| core.last(i).map(|l| (l.seq, l.outcome, l.generation))).collect();
    (core.state(), daemons, signals)
}

/// What the page shows.
fn shown_by(bundle: &Bundle, table: &Table) -> Option<Shown> {
    let page: Page = serde_json::from_value(bundle.page()).ok()?;
    let daemon = |d: &status::Daemon| {
        let starts = [d.generation, d.restarts, d.revivals];
        (d.state, starts, d.last_exit, names(&d.waiting_for), outcomes(&d.requests))
    };
    let daemons = page.status.daemons.iter().map(daemon).collect();
    let last = |w: &sidecar::table::SignalRule| page.status.signals.get(&w.signal.to_string()).and_then(|w| w.last);
    let signals = table.wiring.iter().map(|w| last(w).map(|l| (l.seq, l.outcome, l.generation))).collect();
    Some((page.status.state, daemons, signals))
}

/// The process of a daemon, as it is seen outside of the namespace.
fn pid(bundle: &Bundle, daemon: usize) -> Option<i32> {
    let inside = bundle.daemon(daemon)["pid"].as_i64()?.to_string();
    let is = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pids = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or("");
        pids.split_whitespace().last() == Some(&inside)
    };
    bundle.children().into_iter().find(is)
}

/// The letter of `/proc/PID/stat`, a blank where there is no such process.
fn state(pid: i32) -> char {
    stat(pid, 3).and_then(|letter| letter.chars().next()).unwrap_or(' ')
}

/// A schedule that can be had from real processes as well: each step has all of its consequences before the next.
fn draw(seed: u64) -> (String, Schedule) {
    let mut rng = Rng::new(seed);
    let names = ["egress", "pipelock", "git-gate"];
    let count = 1 + rng.below(3) as usize;
    let habits: Vec<usize> = (0..count).map(|_| rng.below(if count > 1 { 8 } else { 5 }) as usize).collect();
    let has_policies = rng.one_in(2);
    let mut text = String::new();
    for (name, habit) in names.iter().zip(&habits) {
        let (script, nature) = HABITS[*habit];
        let script = script.replace("SAY", &format!(": > DIR/{name}"));
        let command = if nature.exec == Exec::Works {
            format!("[\"sh\", \"-c\", {script:?}]")
        } else {
            "[\"/no/such\"]".to_owned()
        };
        // One that obeys has the time that it takes on a busy machine.
        let slow = match nature.members {
            _ if nature.ignores_term => "300ms",
            Members::IgnoreTerm => "1s",
            _ => "15s",
        };
        let grace = *rng.pick(&["0ms", slow, slow]);
        let _ = writeln!(text, "[[daemon]]\nname = {name:?}\ncommand = {command}\ngrace = {grace:?}");
        if (ONESHOT..NOT_FOUND).contains(habit) {
            text.push_str("oneshot = true\n");
        } else if *habit != NOT_FOUND && has_policies {
            let _ = writeln!(text, "restart = {:?}", *rng.pick(&["no", "on-failure", "on-failure", "always"]));
        }
        if has_policies && rng.one_in(8) {
            text.push_str("essential = true\n");
        }
        let other = names[rng.below(count as u64) as usize];
        if has_policies && other < *name && rng.one_in(2) {
            let _ = writeln!(text, "depends_on = [{other:?}]");
        }
    }
    text.push_str("[signals]\n");
    for (signal, action) in [("HUP", "forward"), ("USR1", "restart"), ("USR2", "restart")] {
        let at = rng.below(count as u64) as usize;
        // A oneshot has no signal rule.
        if !(ONESHOT..NOT_FOUND).contains(&habits[at]) {
            let _ = writeln!(text, "{signal} = {{ {action} = {:?} }}", names[at]);
        }
    }
    let mut steps = Vec::new();
    let mut hits = vec![0; count];
    for _ in 0..=rng.below(6) {
        let daemon = rng.below(count as u64) as usize;
        let what = match rng.below(if has_policies { 16 } else { 12 }) {
            10.. => What::Request(
                daemon,
                *rng.pick(&[Ask::Restart, Ask::Stop, Ask::Stop, Ask::Start, Ask::Start, Ask::Signal(HUP)]),
            ),
            0..=5 => What::Signal(*rng.pick(&[HUP, USR1, USR1, USR2])),
            6 => What::Signal(*rng.pick(&[TERM, HUP])),
            _ if hits[daemon] == HITS => continue,
            _ => What::Hit(daemon, *rng.pick(&[KILL, SEGV, TERM, STOP, CONT])),
        };
        hits[daemon] += usize::from(matches!(what, What::Hit(..)));
        steps.push(Step { what, when: When::Served });
    }
    steps.push(Step { what: What::Signal(TERM), when: When::Served });
    let schedule = Schedule {
        seed,
        table: 0,
        selected: (0..count).collect(),
        no_masks: false,
        pids: 32_768,
        plain: true,
        natures: habits.iter().map(|h| HABITS[*h].1).collect(),
        stop: true,
        steps,
    };
    (text, schedule)
}

/// Runs one schedule in both and returns the number of states that were compared.
pub fn compare(seed: u64) -> usize {
    let (text, schedule) = draw(seed);
    let table = Table::parse(&text, "real").unwrap();
    let (states, exit) = show(&schedule, &table, CONSEQUENCES);
    let mut bundle = Bundle::start(&text);
    for (at, expected) in states.iter().enumerate() {
        if let Some(step) = at.checked_sub(1).map(|i| schedule.steps[i]) {
            match step.what {
                What::Signal(signal) => bundle.signal_number(signal),
                What::Request(daemon, ask) => {
                    let verb = match ask {
                        Ask::Restart => "restart",
                        Ask::Stop => "stop",
                        Ask::Start => "start",
                        Ask::Signal(_) => "signal HUP",
                    };
                    bundle.ask(&format!("real-{at} {verb} {}", table.daemons[daemon].name));
                }
                What::Hit(daemon, signal) => {
                    if let Some(pid) = pid(&bundle, daemon) {
                        // It may have ended.
                        let _ = kill(Pid::from_raw(pid), Signal::try_from(signal).unwrap());
                        // What comes before it has stopped is served before the stop.
                        let stops = signal == STOP;
                        bundle.wait_until("its stop", || !stops || matches!(state(pid), 'T' | 'Z' | ' '));
                    }
                }
                _ => {}
            }
        }
        if at + 1 == states.len() && exit.is_some() {
            break;
        }
        let what = format!("seed {seed}, after step {at} of {:?}\nsimulated {expected:?}\n{text}", schedule.steps);
        let wait_until = |condition: &dyn Fn() -> bool| {
            let context = || format!("is {:?}\n{}", shown_by(&bundle, &table), bundle.read("err"));
            harness::wait_until(&what, context, condition);
        };
        let has_zombies = || bundle.children().into_iter().any(|pid| state(pid) == 'Z');
        wait_until(&|| shown_by(&bundle, &table).as_ref() == Some(expected) && !has_zombies());
        // A shell takes its time until it has its traps; the next step is for one that has.
        for (index, (daemon, nature)) in table.daemons.iter().zip(&schedule.natures).enumerate() {
            let state = expected.1.iter().zip(&table.daemons).find(|(_, d)| d.name == daemon.name).map(|(s, _)| s.0);
            if state != Some(DaemonState::Running) {
                continue;
            }
            if nature.catches_at.is_some() {
                wait_until(&|| pid(&bundle, index).is_some_and(catches));
            }
            if nature.members == Members::IgnoreTerm {
                // Until then it ignores TERM as its worker does.
                wait_until(&|| pid(&bundle, index).is_some_and(is_sleep));
            }
        }
    }
    if let Some(code) = exit {
        assert_eq!(bundle.exit_code(), code, "seed {seed}, {:?}\n{text}", schedule.steps);
    }
    states.len()
}

fn is_sleep(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "sleep")
}

fn catches(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & crate::kernel::bit(USR2) != 0)
}
