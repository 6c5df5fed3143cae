//! What happens to init in one run: drawn from a seed, and made shorter while it still fails.

use std::fmt::Write;

use sidecar::table::Table;

use crate::kernel::{
    Answer, CONT, End, Exec, HUP, INT, KILL, Kind, Millis, Nature, PLAIN, QUIT, Role, SEGV, STOP, TERM, USR1, USR2,
    WINCH,
};
use crate::rng::Rng;

/// What a daemon says to init's `sd_notify`(3) socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    Ready,
    Reloading,
    /// READY=1 with ERRNO=22.
    Refused,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Restart,
    Stop,
    Start,
    Signal(i32),
}

impl Ask {
    pub fn draw(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0..=1 => Self::Restart,
            2..=3 => Self::Stop,
            4..=5 => Self::Start,
            _ => Self::Signal(*rng.pick(&[HUP, HUP, USR1, TERM, INT, WINCH, 35, KILL])),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The clock goes on.
    Wait(Millis),
    /// A signal for init.
    Signal(i32),
    /// A stranger's signal for a daemon's process.
    Hit(usize, i32),
    /// A daemon's process exits by itself.
    Exit(usize, i32),
    /// It forks.
    Fork(usize, Kind),
    /// One of its workers, or an orphan, ends: the n-th.
    WorkerEnds(usize),
    /// init inherits a process; a dead one, or one that lives.
    Orphan(bool),
    /// The next start fails like this.
    Refuse(Exec),
    /// A daemon has its handlers from now on.
    Catch(usize),
    /// It blocks every signal for that long.
    Veil(usize, Millis),
    /// A daemon's process tells something, or one of its workers tries to.
    Note(usize, Note, bool),
    /// Somebody reads the status page.
    Read,
    /// Another process traces a daemon's for so long.
    Trace(usize, Millis),
    /// The container is paused: nobody runs, and the clock goes on.
    Pause(Millis),
    /// A request about a daemon.
    Request(usize, Ask),
    /// So many of them at once, drawn from this seed.
    Burst(u32, u64),
    /// One about nobody that init supervises, or a line that is no request.
    Garbage(bool),
    /// The kernel kills a daemon's process for want of memory.
    OutOfMemory(usize),
    /// A stranger kills the probe of a daemon.
    HitProbe(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before init begins.
    Before,
    /// init gets to run afterwards.
    Served,
    /// The machine is busy: init does not get to run.
    Unserved,
    /// While init works: before its n-th system call from here on.
    Within(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub what: What,
    pub when: When,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub seed: u64,
    /// An index into the tables.
    pub table: usize,
    pub selected: Vec<usize>,
    /// /proc tells no signal masks.
    pub no_masks: bool,
    /// The highest pid: few of them are soon used again.
    pub pids: i32,
    /// Every process behaves plainly.
    pub plain: bool,
    /// Or each daemon in the same way in every generation.
    pub natures: Vec<Nature>,
    /// In the end everything is asked to stop; else every daemon ends by itself.
    pub stop: bool,
    pub steps: Vec<Step>,
}

pub const TABLES: usize = 96;
/// From this one on, tables say what is to follow an end, and in which order daemons start.
const PLAIN_TABLES: usize = 32;

/// Tables of one to five daemons, with all kinds of graces and wirings. The first is the built-in one's like, once
/// without its policies and once with them.
pub fn tables() -> Vec<Table> {
    (0..TABLES as u64).map(table).collect()
}

fn table(number: u64) -> Table {
    let mut rng = Rng::new(number.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let names = ["egress", "pipelock", "git-gate", "supervise", "migrate"];
    let is_built_in = number == 0 || number == PLAIN_TABLES as u64;
    let has_policies = number >= PLAIN_TABLES as u64;
    let count = if is_built_in { 4 } else { 1 + rng.below(if has_policies { 5 } else { 4 }) as usize };
    let mut text = String::new();
    let graces = ["0ms", "2ms", "50ms", "500ms", "3s", "8s", "8s", "30s"];
    let grace = |rng: &mut Rng| *rng.pick(&graces);
    let _ = writeln!(text, "grace = {:?}", if is_built_in { "8s" } else { grace(&mut rng) });
    let mut oneshots = vec![false; count];
    let dependencies = draw_dependencies(count, &mut rng);
    for (at, name) in names.iter().take(count).enumerate() {
        let _ = writeln!(text, "[[daemon]]\nname = {name:?}\ncommand = [\"x\"]");
        if !is_built_in && rng.one_in(2) {
            let _ = writeln!(text, "grace = {:?}", grace(&mut rng));
        }
        let is_oneshot = has_policies && !is_built_in && rng.one_in(4);
        let ready = *rng.pick(&["{ notify = true }", "{ notify = true }", "", "{ tcp = \"127.0.0.1:8888\" }"]);
        let is_probe = ready.contains("tcp");
        if !is_oneshot && !ready.is_empty() && (has_policies || !is_probe) {
            let _ = writeln!(text, "ready = {ready}");
        }
        if is_built_in && has_policies {
            text.push_str("restart = \"on-failure\"\n");
        } else if has_policies {
            oneshots[at] = is_oneshot;
            let depends_on: Vec<&str> = dependencies[at].iter().map(|d| names[*d]).collect();
            write_policies(&mut text, is_oneshot, &depends_on, &mut rng);
        }
    }
    text.push_str("[signals]\n");
    if is_built_in {
        text.push_str(
            "HUP = { forward = \"egress\" }\nUSR1 = { restart = \"pipelock\" }\nUSR2 = { restart = \"egress\" }\n",
        );
    } else {
        for signal in ["HUP", "USR1", "USR2", "WINCH", "RTMIN+1"] {
            let at = rng.below(count as u64) as usize;
            let name = names[at];
            let _ = match rng.below(9) {
                0 => Ok(()),
                _ if oneshots[at] => Ok(()),
                1 => writeln!(text, "\"{signal}\" = {{ forward = {name:?}, when = \"always\" }}"),
                2..=4 => writeln!(text, "\"{signal}\" = {{ forward = {name:?} }}"),
                _ => writeln!(text, "\"{signal}\" = {{ restart = {name:?} }}"),
            };
        }
    }
    match Table::parse(&text, "simulated") {
        Ok(table) => table,
        Err(e) => panic!("{e}\n{text}"),
    }
}

/// Who depends on whom. It goes up in an order of its own, so there is no circle.
fn draw_dependencies(count: usize, rng: &mut Rng) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..count).collect();
    for at in (1..count).rev() {
        order.swap(at, rng.below(at as u64 + 1) as usize);
    }
    let often = *rng.pick(&[1, 2, 3, 9]);
    let mut dependencies = vec![Vec::new(); count];
    for (at, index) in order.iter().enumerate() {
        dependencies[*index] = order.iter().take(at).filter(|_| rng.one_in(often)).copied().collect();
    }
    dependencies
}

fn write_policies(text: &mut String, is_oneshot: bool, depends_on: &[&str], rng: &mut Rng) {
    let policies = ["no", "on-failure", "on-failure", "always"];
    let policy = *rng.pick(&policies[..if is_oneshot { 3 } else { 4 }]);
    let _ = writeln!(text, "restart = {policy:?}\noneshot = {is_oneshot}\ndepends_on = {depends_on:?}");
    if rng.one_in(7) {
        text.push_str("essential = true\n");
    }
    if rng.one_in(4) {
        let _ = writeln!(text, "stop_signal = {:?}", *rng.pick(&["INT", "QUIT", "USR1", "HUP", "RTMIN+1"]));
    }
}

impl Schedule {
    pub fn draw(seed: u64, tables: &[Table]) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x0051_dec0_ffee);
        let table = match rng.below(8) {
            0 => 0,
            1 => PLAIN_TABLES,
            _ => rng.below(tables.len() as u64) as usize,
        };
        let count = tables[table].daemons.len();
        let mut selected: Vec<usize> = (0..count).filter(|_| !rng.one_in(6)).collect();
        if selected.is_empty() {
            selected.push(0);
        }
        let mut schedule = Self {
            seed,
            table,
            selected,
            no_masks: rng.one_in(20),
            pids: *rng.pick(&[9, 14, 14, 30, 32_768]),
            plain: rng.one_in(8),
            natures: Vec::new(),
            stop: !rng.one_in(4),
            steps: Vec::new(),
        };
        // Each run leaves out some kinds of things, so that the others meet more often.
        let left_out = rng.next() & rng.next();
        let length = *rng.pick(&[2, 4, 8, 12, 20, 30]);
        for _ in 0..(if rng.one_in(4) { 1 + rng.below(3) } else { 0 }) {
            let signal = signal(&mut rng);
            let signal = if rng.one_in(3) { signal } else { *rng.pick(&[HUP, USR1, USR2]) };
            schedule.steps.push(Step { what: What::Signal(signal), when: When::Before });
        }
        while schedule.steps.len() < length {
            let kind = rng.below(48);
            if left_out & (1 << kind) != 0 && kind > 6 {
                continue;
            }
            let what = what(kind, &mut rng, schedule.selected.len());
            let when = match rng.below(8) {
                0 => When::Unserved,
                1 | 2 if !matches!(what, What::Wait(_) | What::Pause(_)) => When::Within(rng.below(12) as u32),
                _ => When::Served,
            };
            schedule.steps.push(Step { what, when });
        }
        schedule
    }

    /// The shortest schedule that can be had by leaving things out, one after the other, while it fails.
    pub fn shrink(mut self, fails: impl Fn(&Self) -> bool) -> Self {
        if !self.plain {
            let plain = Self { plain: true, ..self.clone() };
            if fails(&plain) {
                self = plain;
            }
        }
        loop {
            let before = self.steps.clone();
            let mut size = self.steps.len().max(1);
            while size > 0 {
                let mut at = 0;
                while at < self.steps.len() {
                    let mut shorter = self.clone();
                    shorter.steps.drain(at..(at + size).min(self.steps.len()));
                    if fails(&shorter) {
                        self = shorter;
                    } else {
                        at += size;
                    }
                }
                size /= 2;
            }
            for at in 0..self.steps.len() {
                let mut simpler = self.clone();
                if simpler.steps[at].when == When::Before || simpler.steps[at].when == When::Served {
                    continue;
                }
                simpler.steps[at].when = When::Served;
                if fails(&simpler) {
                    self = simpler;
                }
            }
            while self.selected.len() > 1 {
                let fewer: Option<Self> = (0..self.selected.len()).find_map(|at| {
                    let mut fewer = self.clone();
                    fewer.selected.remove(at);
                    fails(&fewer).then_some(fewer)
                });
                let Some(fewer) = fewer else { break };
                self = fewer;
            }
            if self.steps == before {
                return self;
            }
        }
    }

    pub fn nature(&self, daemon: usize, generation: u64, role: Role) -> Nature {
        if let Some(nature) = self.natures.get(daemon) {
            return *nature;
        }
        match role {
            Role { is_oneshot: true, .. } if self.plain => Nature { dies_at: Some((30, End::Code(0))), ..PLAIN },
            _ if self.plain => PLAIN,
            _ => Nature::draw(self.seed, daemon, generation, role),
        }
    }

    /// What the n-th probe of a daemon does.
    pub fn answer(&self, daemon: usize, n: u64) -> Answer {
        if self.plain { Answer::Exits(1, i32::from(n < 2)) } else { Answer::draw(self.seed, daemon, n) }
    }
}

fn signal(rng: &mut Rng) -> i32 {
    *rng.pick(&[HUP, HUP, HUP, USR1, USR1, USR1, USR2, USR2, WINCH, 35, 36, TERM, INT, QUIT])
}

fn what(kind: u64, rng: &mut Rng, daemons: usize) -> What {
    let daemon = rng.below(daemons as u64) as usize;
    match kind {
        0..=6 => What::Wait(match rng.below(12) {
            0..=2 => 1,
            3 | 4 => 1 + rng.below(10),
            5 | 6 => rng.below(100),
            7 => 1_000,
            8 => 1_995 + rng.below(10),
            9 => rng.below(10_000),
            10 => 19_990 + rng.below(40),
            _ => rng.below(40_000),
        }),
        7..=13 => {
            let signal = signal(rng);
            // A shutdown ends the fun: seldom.
            let seldom = matches!(signal, TERM | INT | QUIT) && !rng.one_in(2);
            What::Signal(if seldom { HUP } else { signal })
        }
        14..=17 => {
            let signal = *rng.pick(&[KILL, KILL, TERM, SEGV, STOP, STOP, CONT, HUP, USR1]);
            What::Hit(daemon, signal)
        }
        18 | 19 => What::Exit(daemon, *rng.pick(&[0, 0, 1, 3, 143, 255])),
        20..=22 => What::Fork(daemon, Kind::draw(rng)),
        23 | 24 => What::WorkerEnds(rng.below(6) as usize),
        25 => What::Orphan(rng.one_in(2)),
        26 => What::Refuse(*rng.pick(&[Exec::NoFork, Exec::NotFound, Exec::Denied])),
        27 => What::Catch(daemon),
        28 => What::Veil(daemon, 1 + rng.below(300)),
        32 => What::Trace(daemon, *rng.pick(&[40, 1_000, 9_000, 60_000])),
        34..=41 => What::Request(daemon, Ask::draw(rng)),
        42 => What::Burst(*rng.pick(&[2, 3, 5, 20]), rng.next()),
        43 => What::Garbage(rng.one_in(2)),
        44 => What::OutOfMemory(daemon),
        45 => What::HitProbe(daemon),
        // A crash loop is seen only if nothing else happens for a while.
        46 => What::Wait(60_000 + rng.below(120_000)),
        33 => What::Pause(*rng.pick(&[400, 900, 1_600, 9_000, 30_000])),
        29 | 30 => What::Note(daemon, *rng.pick(&[Note::Ready, Note::Reloading, Note::Refused]), rng.one_in(5)),
        _ => What::Read,
    }
}
