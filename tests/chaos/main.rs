//! Chaos on the real bundle: whatever can be done to it is done, by a seed, while clients call all of its daemons.
//! `scripts/chaos --minutes M` runs this.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "what another test file needs of the containers")]

#[path = "../containers/mod.rs"]
mod containers;
mod report;
#[path = "../rng/mod.rs"]
mod rng;
mod world;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use containers::Container;
use report::{Calls, Rest, Run};
use rng::Rng;
use world::{Content, World};

const CLIENTS: &str = include_str!("clients.py");
/// In the order of the built-in table.
pub const DAEMONS: [&str; 4] = ["egress", "pipelock", "git-gate", "supervise"];
const PIPELOCK: usize = 1;
/// What restarts each of them.
pub const RESTARTS: [&str; 4] = ["USR2", "USR1", "RTMIN+1", "RTMIN+2"];
/// Far more than the daemons need, far less than the machine has.
const MEMORY: &str = "--memory=1g";

impl Rng {
    /// Not [`Rng::below`]: the seeds of the runs that docs/proof.md tells of draw the same as they did then.
    fn under(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn daemon(&mut self) -> usize {
        usize::try_from(self.under(4)).unwrap()
    }

    fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.under(most))
    }

    fn content(&mut self) -> Content {
        match self.under(4) {
            0 => Content::Typo,
            1 => Content::Deadly,
            _ => Content::Good(self.under(1_000_000)),
        }
    }
}

/// What is done to the bundle.
#[derive(Clone, Debug)]
enum Act {
    Restart { daemon: usize, times: u32 },
    Reload { times: u32 },
    Kill { daemon: usize, signal: &'static str, times: u32, ask: bool },
    Freeze { daemon: usize, length: Duration, restart: bool },
    Ask { daemon: usize, times: u32 },
    StopAndStart { daemon: usize, length: Duration },
    Flood { daemon: usize, fd: u8, kib: u64 },
    Orphans(u64),
    Memory,
    Allowlist(Content),
    Routes(Content),
}

impl Act {
    fn draw(rng: &mut Rng) -> Self {
        match rng.under(25) {
            0..=4 => Self::Restart { daemon: PIPELOCK, times: 1 },
            5 => Self::Restart { daemon: rng.daemon(), times: 1 },
            6 | 7 => Self::Restart { daemon: PIPELOCK, times: 200 },
            8 => Self::Reload { times: 1 },
            9 => Self::Reload { times: 200 },
            10 | 11 => {
                let signal = ["KILL", "SEGV", "ABRT"][usize::try_from(rng.under(3)).unwrap()];
                let times = 1 + u32::try_from(rng.under(4)).unwrap();
                Self::Kill { daemon: rng.daemon(), signal, times, ask: rng.under(3) == 0 }
            }
            12 | 13 => Self::Freeze { daemon: rng.daemon(), length: rng.millis(1500), restart: rng.under(2) == 0 },
            14 | 15 => {
                let fd = if rng.under(2) == 0 { 1 } else { 2 };
                Self::Flood { daemon: rng.daemon(), fd, kib: 256 + rng.under(4096) }
            }
            16 => Self::Orphans(500 + rng.under(1500)),
            17 => Self::Memory,
            18 | 19 => Self::Allowlist(rng.content()),
            20 | 21 => Self::Ask { daemon: rng.daemon(), times: 1 },
            22 => Self::Ask { daemon: PIPELOCK, times: 60 },
            23 => Self::StopAndStart { daemon: rng.daemon(), length: rng.millis(1500) },
            _ => Self::Routes(rng.content()),
        }
    }

    /// What it is done to: a daemon, or (5 and more) something that only one at a time is to be done to.
    fn part(&self) -> usize {
        match self {
            Self::Restart { daemon, .. }
            | Self::Kill { daemon, .. }
            | Self::Freeze { daemon, .. }
            | Self::Ask { daemon, .. }
            | Self::StopAndStart { daemon, .. }
            | Self::Flood { daemon, .. } => *daemon,
            Self::Reload { .. } | Self::Routes(_) => 0,
            Self::Allowlist(_) => PIPELOCK,
            Self::Orphans(_) => 5,
            Self::Memory => 6,
        }
    }

    /// Whose process may be another afterwards.
    fn moves(&self) -> Option<usize> {
        match self {
            Self::Restart { daemon, .. }
            | Self::Kill { daemon, .. }
            | Self::Ask { daemon, .. }
            | Self::StopAndStart { daemon, .. } => Some(*daemon),
            Self::Freeze { daemon, restart, .. } => restart.then_some(*daemon),
            Self::Allowlist(content) => (*content != Content::Typo).then_some(PIPELOCK),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Restart { times: 1, .. } => "a restart",
            Self::Restart { .. } => "200 restarts in a burst",
            Self::Reload { times: 1 } => "a reload",
            Self::Reload { .. } => "200 reloads in a burst",
            Self::Kill { times: 1, .. } => "a daemon killed",
            Self::Kill { .. } => "a daemon killed 2 to 4 times",
            Self::Freeze { restart: false, .. } => "a daemon frozen and thawed",
            Self::Freeze { .. } => "a daemon frozen and restarted",
            Self::Ask { times: 1, .. } => "a restart by request",
            Self::Ask { .. } => "60 restarts by request in a burst",
            Self::StopAndStart { .. } => "a daemon stopped and started by request",
            Self::Flood { .. } => "a flood of output",
            Self::Orphans(_) => "500 to 2,000 orphans",
            Self::Memory => "memory to the last page",
            Self::Allowlist(Content::Good(_)) => "a good allowlist",
            Self::Allowlist(_) => "a bad allowlist",
            Self::Routes(Content::Good(_)) => "good routes",
            Self::Routes(_) => "bad routes",
        }
    }

    fn perform(&self, world: &World<'_>) {
        match self {
            Self::Restart { daemon, times } => world.restart(*daemon, *times),
            Self::Reload { times } => world.reload(*times),
            Self::Kill { daemon, signal, times, ask } => world.kill(*daemon, signal, *times, *ask),
            Self::Freeze { daemon, length, restart } => world.freeze(*daemon, *length, *restart),
            Self::Ask { daemon, times: 1 } => world.ask_restart(*daemon),
            Self::Ask { daemon, times } => world.ask_restarts(*daemon, *times),
            Self::StopAndStart { daemon, length } => world.stop_and_start(*daemon, *length),
            Self::Flood { daemon, fd, kib } => world.flood(*daemon, *fd, *kib),
            Self::Orphans(count) => world.orphans(*count),
            Self::Memory => world.memory(),
            Self::Allowlist(content) => world.allowlist(content),
            Self::Routes(content) => world.routes(content),
        }
    }
}

/// Draws up to three acts, no two of them done to the same.
fn draw_round(rng: &mut Rng) -> Vec<Act> {
    let mut round: Vec<Act> = Vec::new();
    for _ in 0..=rng.under(3) {
        let act = Act::draw(rng);
        if round.iter().all(|other| other.part() != act.part()) {
            round.push(act);
        }
    }
    round
}

/// Says the seed if the run ends in a panic.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.0);
        }
    }
}

#[test]
fn no_call_fails_outside_its_own_daemons_gap() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let minutes = number("SIDECAR_MINUTES").unwrap_or(1);
    let seed = number("SIDECAR_SEED");
    let seed = seed.unwrap_or_else(|| u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()));
    println!("seed {seed}, {minutes} min");
    let _seed = Seed(seed);
    let volumes = ["--volume=/etc/sidecar/pipelock", "--volume=/etc/sidecar/egress", MEMORY, "--memory-swap=1g"];
    let bundle = Container::bundle(&volumes).ready();
    let world = World::new(&bundle);
    world.allowlist(&Content::Good(0));

    let mut clients = bundle.client(CLIENTS, &[&(minutes + 5).to_string()]);
    let mut clients = clients.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(clients.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), r#"{"ready": true}"#);
    let calls = std::thread::spawn(move || Calls::read(lines.map_while(Result::ok)));

    let mut rng = Rng::new(seed);
    let mut run = Run::new(world.rest(None).unwrap());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(minutes * 60) && world.is_whole() {
        let round = draw_round(&mut rng);
        world.begin_round(&format!("{round:?}"));
        std::thread::scope(|scope| {
            for act in &round {
                scope.spawn(|| act.perform(&world));
            }
        });
        let moved: Vec<usize> = round.iter().filter_map(Act::moves).collect();
        let Some(rest) = world.rest(Some((&run.first, &moved, &run.last))) else { break };
        run.add(&round.iter().map(Act::kind).collect::<Vec<_>>(), rest);
        std::thread::sleep(rng.millis(200));
    }
    run.took = began.elapsed();
    clients.stdin.take().unwrap().write_all(b"end\n").unwrap();
    let calls = calls.join().unwrap();
    assert!(clients.wait().unwrap().success());
    bundle.kill("TERM");
    world.wait("init's end", || !bundle.is_running());
    run.exit_code = bundle.inspect("{{.State.ExitCode}}");
    let broken = report::tell(&run, &calls, &world);
    // Its log would bury the report.
    drop(world);
    drop(bundle);
    assert!(broken.is_empty(), "with seed {seed}: {broken:#?}");
}

impl Rest {
    /// Which daemons are other processes than before, though nobody touched them.
    fn moved_unasked(&self, before: &Self, asked: &[usize]) -> Vec<&'static str> {
        let moved = |i: &usize| self.pids[*i] != before.pids[*i] && !asked.contains(i);
        (0..DAEMONS.len()).filter(moved).map(|i| DAEMONS[i]).collect()
    }
}
