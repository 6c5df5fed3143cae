//! The simulated kernel beside the real one: the same schedules, step by step, must show the same.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sidecar::request::REQUEST_FD;
use sidecar::status::{self, DaemonState, InitState, LastExit, Outcome, PAGE_FD, Page, RequestOutcome, WaitingFor};
use sidecar::supervisor::{Event, Supervisor};
use sidecar::table::Table;

use crate::judge::MARKS;
use crate::kernel::{CONT, End, Exec, HUP, KILL, Kind, Members, Millis, Nature, SEGV, STOP, TERM, USR1, USR2};
use crate::schedule::{Ask, Rng, Schedule, Step, What, When};
use crate::world::World;

/// Longer than any grace of these tables that is used up; of the simulated clock.
const CONSEQUENCES: Millis = 1_600;
/// How long the real ones may take to get there.
const PATIENCE: Duration = Duration::from_secs(20);

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

struct Real {
    dir: PathBuf,
    unshare: Child,
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Real {
    fn start(dir: PathBuf) -> Self {
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", env!("CARGO_BIN_EXE_sidecar"), "init"]);
        command.arg(format!("--config={}", dir.join("table.toml").display()));
        command.env_remove("CLAUDE_BOTTLE_SIDECAR_DAEMONS").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let unshare = command.spawn().unwrap();
        Self { dir, unshare }
    }

    fn init(&self) -> Option<i32> {
        children(&self.unshare.id().to_string()).first().copied()
    }

    /// What the page shows, with the pids as they are outside of the namespace.
    fn shown(&self, table: &Table) -> Option<Shown> {
        let page: Page =
            serde_json::from_slice(&fs::read(format!("/proc/{}/fd/{PAGE_FD}", self.init()?)).ok()?).ok()?;
        let daemon = |d: &status::Daemon| {
            let starts = [d.generation, d.restarts, d.revivals];
            (d.state, starts, d.last_exit, names(&d.waiting_for), outcomes(&d.requests))
        };
        let daemons = page.status.daemons.iter().map(daemon).collect();
        let last = |w: &sidecar::table::SignalRule| page.status.signals.get(&w.signal.to_string()).and_then(|w| w.last);
        let signals = table.wiring.iter().map(|w| last(w).map(|l| (l.seq, l.outcome, l.generation))).collect();
        Some((page.status.state, daemons, signals))
    }

    /// The process of a daemon, by its pid in the namespace.
    fn pid(&self, daemon: usize) -> Option<i32> {
        let init = self.init()?;
        let page: Page = serde_json::from_slice(&fs::read(format!("/proc/{init}/fd/{PAGE_FD}")).ok()?).ok()?;
        let inside = page.status.daemons.get(daemon)?.pid?.to_string();
        let is = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let pids = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or("");
            pids.split_whitespace().last() == Some(&inside)
        };
        children(&init.to_string()).into_iter().find(is)
    }

    /// Writes a request into init's pipe.
    fn request(&self, verb: &str, daemon: &str) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/proc/{}/fd/{REQUEST_FD}", self.init().unwrap());
        let mut pipe = fs::OpenOptions::new().write(true).open(path).unwrap();
        pipe.write_all(format!("\nreal-{n} {verb} {daemon}\n").as_bytes()).unwrap();
    }

    fn zombies(&self) -> usize {
        let Some(init) = self.init() else { return 0 };
        children(&init.to_string()).into_iter().filter(|pid| state(*pid) == 'Z').count()
    }
}

/// The letter of `/proc/PID/stat`, a blank where there is no such process.
fn state(pid: i32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or(' ')
}

fn children(pid: &str) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

fn kill(pid: i32, signal: i32) {
    let status = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).stderr(Stdio::null()).status();
    assert!(status.is_ok());
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if begun.elapsed() > PATIENCE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A schedule that can be had from real processes as well: each step has all of its consequences before the next.
fn draw(seed: u64, dir: &std::path::Path) -> (String, Schedule) {
    let mut rng = Rng::new(seed);
    let names = ["egress", "pipelock", "git-gate"];
    let count = 1 + rng.below(3) as usize;
    let habits: Vec<usize> = (0..count).map(|_| rng.below(if count > 1 { 8 } else { 5 }) as usize).collect();
    let has_policies = rng.one_in(2);
    let mut text = String::new();
    for (name, habit) in names.iter().zip(&habits) {
        let (script, nature) = HABITS[*habit];
        let script = script.replace("SAY", &format!(": > {}/{name}", dir.display()));
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
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("sidecar-real-{}-{n}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let (text, schedule) = draw(seed, &dir);
    let table = Table::parse(&text, "real").unwrap();
    fs::write(dir.join("table.toml"), &text).unwrap();
    let (states, exit) = show(&schedule, &table, CONSEQUENCES);
    let mut real = Real::start(dir);
    for (at, expected) in states.iter().enumerate() {
        if let Some(step) = at.checked_sub(1).map(|i| schedule.steps[i]) {
            match step.what {
                What::Signal(signal) => kill(real.init().unwrap(), signal),
                What::Request(daemon, ask) => {
                    let verb = match ask {
                        Ask::Restart => "restart",
                        Ask::Stop => "stop",
                        Ask::Start => "start",
                        Ask::Signal(_) => "signal HUP",
                    };
                    real.request(verb, &table.daemons[daemon].name);
                }
                What::Hit(daemon, signal) => {
                    if let Some(pid) = real.pid(daemon) {
                        kill(pid, signal);
                        // What comes before it has stopped is served before the stop.
                        let stops = signal == STOP;
                        assert!(!stops || until(|| matches!(state(pid), 'T' | 'Z' | ' ').then_some(())).is_some());
                    }
                }
                _ => {}
            }
        }
        if at + 1 == states.len() && exit.is_some() {
            break;
        }
        let mut last = None;
        let same = until(|| {
            last = real.shown(&table);
            (last.as_ref() == Some(expected) && real.zombies() == 0).then_some(())
        });
        let log = fs::read_to_string(real.dir.join("log")).unwrap_or_default();
        assert!(
            same.is_some(),
            "seed {seed}, after step {at} of {:?}\nis        {last:?}\nsimulated {expected:?}\n{text}\n{log}",
            schedule.steps
        );
        // A shell takes its time until it has its traps; the next step is for one that has.
        for (daemon, nature) in table.daemons.iter().zip(&schedule.natures) {
            let state = expected.1.iter().zip(&table.daemons).find(|(_, d)| d.name == daemon.name).map(|(s, _)| s.0);
            if nature.catches_at.is_some() && state == Some(DaemonState::Running) {
                let index = table.find(&daemon.name).unwrap();
                let has_traps = until(|| real.pid(index).filter(|pid| catches(*pid)));
                assert!(has_traps.is_some(), "seed {seed}: {} has no traps\n{log}", daemon.name);
            }
        }
    }
    if let Some(code) = exit {
        let ended = until(|| real.unshare.try_wait().unwrap());
        assert_eq!(ended.and_then(|s| s.code()), Some(code), "seed {seed}, {:?}\n{text}", schedule.steps);
    }
    states.len()
}

fn catches(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & crate::kernel::bit(USR2) != 0)
}
