//! Decides when each bundle begins, and whether those that are proven commit or go back. No I/O, no clock: an event comes in, the
//! next actions go out.
//!
//! | a bundle is | becomes                      | when                                                        |
//! |-------------|------------------------------|-------------------------------------------------------------|
//! | waiting     | under way                    | fewer than `parallel` are, and every canary ended well or is held |
//! |             | spared                       | a canary failed (together: any bundle), or a person asked to stop |
//! | under way   | held                         | together: it is proven, and stays uncommitted until the last one is |
//! |             | ended                        | it says so                                                  |
//! | held        | ended                        | all commit, or all go back, or its connection breaks        |
//!
//! "Together" means `--rollback-all`: all bundles that have begun go back if one fails, if a person asks for it, or if the time is up
//! before the last one is proven. Once they were told to commit, that is final.

/// The options of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many bundles may be under way at once. Held ones don't count; otherwise the last one might never begin.
    pub parallel: usize,
    /// How many bundles go first. All of them must end well before any other begins.
    pub canary: usize,
    /// Whether all bundles must be changed, or none.
    pub together: bool,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The bundles that can't be reached were reported. Now the others may begin.
    Start,
    /// This bundle is proven, and waits for its commit.
    Proven(usize),
    /// This bundle ended, and whether it ended well.
    Ended(usize, bool),
    /// A person pressed Ctrl-C.
    Stop,
    /// The time for all bundles is up.
    Late,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin this bundle.
    Begin(usize),
    /// Report this bundle as untouched: it is never begun.
    Spare(usize, Why),
    /// All held bundles commit. This comes at most once, and never after [`Action::GoBack`].
    Commit,
    /// All bundles that have begun go back. This comes at most once, and never after [`Action::Commit`].
    GoBack(Why),
}

/// Why a bundle is spared, or goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// This bundle failed.
    Failed(usize),
    /// A person pressed Ctrl-C.
    Stopped,
    /// The time was up.
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    UnderWay,
    Held,
    Well,
    Failed,
    Spared,
}

/// How many bundles are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counts {
    pub waiting: usize,
    pub under_way: usize,
    pub held: usize,
    pub well: usize,
    /// How many failed or were spared.
    pub failed: usize,
}

/// The state of all bundles of one apply. Each bundle has a number.
#[derive(Debug)]
pub struct Fleet {
    plan: Plan,
    bundles: Vec<State>,
    started: bool,
    /// Why no further bundle begins.
    halted: Option<Why>,
    /// Whether the bundles were told to commit or to go back.
    decided: bool,
}

impl Fleet {
    /// A fleet of `bundles` bundles, none of which has begun.
    #[must_use]
    pub fn new(plan: Plan, bundles: usize) -> Self {
        Self { plan, bundles: vec![State::Waiting; bundles], started: false, halted: None, decided: false }
    }

    /// Takes in an event, and returns what to do next.
    #[must_use]
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Start => self.started = true,
            Event::Proven(bundle) => self.set(bundle, State::Held),
            Event::Ended(bundle, true) => self.set(bundle, State::Well),
            Event::Ended(bundle, false) => {
                self.set(bundle, State::Failed);
                if self.plan.together || bundle < self.plan.canary {
                    self.halt(Why::Failed(bundle), &mut actions);
                }
            }
            Event::Stop => self.halt(Why::Stopped, &mut actions),
            Event::Late if self.plan.together => self.halt(Why::Late, &mut actions),
            Event::Late => {}
        }
        if self.started {
            self.go_on(&mut actions);
        }
        actions
    }

    /// Whether nothing is left to wait for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.started && !self.bundles.iter().any(|b| matches!(b, State::Waiting | State::UnderWay | State::Held))
    }

    /// The progress.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for bundle in &self.bundles {
            *match bundle {
                State::Waiting => &mut counts.waiting,
                State::UnderWay => &mut counts.under_way,
                State::Held => &mut counts.held,
                State::Well => &mut counts.well,
                State::Failed | State::Spared => &mut counts.failed,
            } += 1;
        }
        counts
    }

    fn set(&mut self, bundle: usize, state: State) {
        if let Some(bundle) = self.bundles.get_mut(bundle) {
            *bundle = state;
        }
    }

    /// From now on no further bundle begins. If a person asked for it, those under way go back too; with `--rollback-all`, also if one
    /// failed or the time is up.
    fn halt(&mut self, why: Why, actions: &mut Vec<Action>) {
        self.halted.get_or_insert(why);
        if !self.decided && (self.plan.together || why == Why::Stopped) {
            self.decided = true;
            actions.push(Action::GoBack(why));
        }
    }

    fn go_on(&mut self, actions: &mut Vec<Action>) {
        if let Some(why) = self.halted {
            for (n, bundle) in self.bundles.iter_mut().enumerate().filter(|(_, b)| **b == State::Waiting) {
                *bundle = State::Spared;
                actions.push(Action::Spare(n, why));
            }
            return;
        }
        let is_proven = |b: &State| matches!(b, State::Held | State::Well);
        let open = if self.bundles.iter().take(self.plan.canary).all(is_proven) {
            self.bundles.len()
        } else {
            self.plan.canary
        };
        let free = self.plan.parallel.max(1).saturating_sub(self.counts().under_way);
        let waiting = self.bundles.iter_mut().enumerate().take(open).filter(|(_, b)| **b == State::Waiting);
        for (n, bundle) in waiting.take(free) {
            *bundle = State::UnderWay;
            actions.push(Action::Begin(n));
        }
        if self.plan.together && !self.decided && self.bundles.iter().all(is_proven) {
            self.decided = true;
            actions.push(Action::Commit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// What a bundle really is, whatever the fleet believes of it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Real {
        Untouched,
        Changing,
        /// Proven and uncommitted.
        Offering,
        Changed,
        WentBack,
        Spared,
    }

    struct World {
        plan: Plan,
        fleet: Fleet,
        real: Vec<Real>,
        /// What is told to all.
        told: Option<Action>,
        stopped: bool,
        late: bool,
        failed: Vec<usize>,
        seed: u64,
    }

    impl World {
        fn happens(&mut self, event: Event) {
            match event {
                Event::Ended(n, false) => self.failed.push(n),
                Event::Stop => self.stopped = true,
                Event::Late => self.late = true,
                _ => {}
            }
            for action in self.fleet.on(event) {
                match action {
                    Action::Begin(n) => {
                        assert_eq!(self.real[n], Real::Untouched, "{self:?}");
                        assert!(!self.stopped, "begun after a stop: {self:?}");
                        assert!(!self.plan.together || self.failed.is_empty(), "begun after a failure: {self:?}");
                        let canaries = || self.real.iter().take(self.plan.canary);
                        if n >= self.plan.canary {
                            assert!(canaries().all(|r| matches!(r, Real::Offering | Real::Changed)), "{self:?}");
                        }
                        self.real[n] = Real::Changing;
                        let busy = self.real.iter().filter(|r| **r == Real::Changing).count();
                        assert!(busy <= self.plan.parallel, "{self:?}");
                    }
                    Action::Spare(n, why) => {
                        assert_eq!(self.real[n], Real::Untouched, "{self:?}");
                        self.real[n] = Real::Spared;
                        self.is_true(why);
                    }
                    Action::Commit => {
                        assert!(self.plan.together && self.told.is_none() && !self.stopped && !self.late, "{self:?}");
                        assert!(self.real.iter().all(|r| matches!(r, Real::Offering | Real::Changed)), "{self:?}");
                        self.told = Some(action);
                    }
                    Action::GoBack(why) => {
                        assert!(self.told.is_none(), "{self:?}");
                        assert!(self.plan.together || why == Why::Stopped, "{self:?}");
                        self.told = Some(action);
                        self.is_true(why);
                    }
                }
            }
        }

        fn is_true(&self, why: Why) {
            assert!(
                match why {
                    Why::Failed(n) => self.failed.contains(&n),
                    Why::Stopped => self.stopped,
                    Why::Late => self.late,
                },
                "{why:?}: {self:?}"
            );
        }

        /// One bundle takes a step of its own.
        fn step(&mut self, n: usize, rng: &mut Rng) {
            let goes_back = matches!(self.told, Some(Action::GoBack(_)));
            let event = match self.real[n] {
                Real::Changing if rng.index(12) == 0 || goes_back && rng.index(3) > 0 => {
                    self.real[n] = Real::WentBack;
                    Event::Ended(n, false)
                }
                // The content was live already, or nothing holds it.
                Real::Changing if !self.plan.together || rng.index(12) == 0 => {
                    self.real[n] = Real::Changed;
                    Event::Ended(n, true)
                }
                Real::Changing => {
                    self.real[n] = Real::Offering;
                    Event::Proven(n)
                }
                Real::Offering if self.told == Some(Action::Commit) => {
                    self.real[n] = Real::Changed;
                    Event::Ended(n, true)
                }
                // It is stopped, or its connection breaks.
                Real::Offering if goes_back || rng.index(60) == 0 => {
                    self.real[n] = Real::WentBack;
                    Event::Ended(n, false)
                }
                _ => return,
            };
            self.happens(event);
        }
    }

    impl std::fmt::Debug for World {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(
                f,
                "seed {} {:?} {:?} told {:?} failed {:?}",
                self.seed, self.plan, self.real, self.told, self.failed
            )
        }
    }

    #[test]
    fn over_20_000_schedules_each_bundle_is_served_or_spared_exactly_once() {
        let mut whole = 0;
        for seed in 1..=20_000 {
            let mut rng = Rng::new(seed);
            let bundles = rng.index(12);
            let plan = Plan {
                parallel: 1 + rng.index(5),
                canary: if rng.index(2) == 0 { 0 } else { rng.index(bundles + 3) },
                together: rng.index(2) == 0,
            };
            let (fleet, real) = (Fleet::new(plan, bundles), vec![Real::Untouched; bundles]);
            let mut world =
                World { plan, fleet, real, told: None, stopped: false, late: false, failed: Vec::new(), seed };
            for n in 0..bundles {
                // One that isn't there.
                if rng.index(40) == 0 {
                    world.real[n] = Real::WentBack;
                    world.happens(Event::Ended(n, false));
                }
            }
            world.happens(Event::Start);
            let mut steps = 0;
            while !world.fleet.is_over() {
                match rng.index(100) {
                    0 if rng.index(4) == 0 => world.happens(Event::Stop),
                    1 if rng.index(4) == 0 => world.happens(Event::Late),
                    _ => world.step(rng.index(bundles), &mut rng),
                }
                steps += 1;
                assert!(steps < 10_000, "it hangs: {world:?}");
            }
            assert!(world.real.iter().all(|r| matches!(r, Real::Changed | Real::WentBack | Real::Spared)), "{world:?}");
            let counts = world.fleet.counts();
            assert_eq!(counts.well + counts.failed, bundles, "{world:?}");
            assert_eq!(counts.well, world.real.iter().filter(|r| **r == Real::Changed).count(), "{world:?}");
            let held_back = matches!(world.told, Some(Action::GoBack(_)));
            if plan.together && world.told == Some(Action::Commit) && world.failed.is_empty() {
                whole += 1;
                assert!(world.real.iter().all(|r| *r == Real::Changed), "{world:?}");
            }
            if bundles > 0 && plan.together && !held_back {
                assert_eq!(world.told, Some(Action::Commit), "{world:?}");
            }
        }
        assert!(whole > 1000, "the schedules hardly ever succeed: {whole}");
    }

    #[test]
    fn only_a_failed_canary_spares_the_rest() {
        let plan = Plan { parallel: 8, canary: 2, together: false };
        let mut fleet = Fleet::new(plan, 4);
        assert_eq!(fleet.on(Event::Start), [Action::Begin(0), Action::Begin(1)]);
        assert_eq!(fleet.on(Event::Ended(1, true)), []);
        let spared = |n| Action::Spare(n, Why::Failed(0));
        assert_eq!(fleet.on(Event::Ended(0, false)), [spared(2), spared(3)]);
        assert!(fleet.is_over());

        let mut fleet = Fleet::new(Plan { canary: 0, parallel: 2, ..plan }, 3);
        assert_eq!(fleet.on(Event::Start), [Action::Begin(0), Action::Begin(1)]);
        assert_eq!(fleet.on(Event::Late), []);
        assert_eq!(fleet.on(Event::Ended(0, false)), [Action::Begin(2)]);
    }

    #[test]
    fn together_the_canaries_are_held_too_and_the_last_proof_commits_all() {
        let plan = Plan { parallel: 1, canary: 1, together: true };
        let mut fleet = Fleet::new(plan, 2);
        assert_eq!(fleet.on(Event::Start), [Action::Begin(0)]);
        assert_eq!(fleet.on(Event::Proven(0)), [Action::Begin(1)]);
        assert_eq!(fleet.on(Event::Proven(1)), [Action::Commit]);
        // Too late for either.
        assert_eq!(fleet.on(Event::Stop), []);
        assert_eq!(fleet.on(Event::Late), []);
        assert_eq!(fleet.on(Event::Ended(0, true)), []);
        assert!(!fleet.is_over());
        assert_eq!(fleet.on(Event::Ended(1, true)), []);
        assert!(fleet.is_over());
    }
}
