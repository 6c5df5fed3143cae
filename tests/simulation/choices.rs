//! Where a schedule's choices come from: a seed, a list, or one after the other all that there are.

use crate::rng::Rng;

/// Makes choices, and keeps them.
#[derive(Clone, Debug)]
pub struct Choices {
    source: Source,
    /// What was chosen, of how many.
    pub made: Vec<(usize, usize)>,
    /// How many faults may still come.
    faults: usize,
}

#[derive(Clone, Debug)]
enum Source {
    /// A random one, and how seldom a fault comes: one in so many.
    Seed(Rng, u64),
    /// These; 0 from their end on.
    List(Vec<usize>),
}

impl Choices {
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let one_in = *rng.pick(&[4, 12, 40, 200]);
        Self { source: Source::Seed(rng, one_in), made: Vec::new(), faults: 9 }
    }

    pub fn list(list: Vec<usize>, faults: usize) -> Self {
        Self { source: Source::List(list), made: Vec::new(), faults }
    }

    /// The next list after what was chosen, in the order of an odometer; `None` after the last.
    pub fn next(self) -> Option<Vec<usize>> {
        let mut made = self.made;
        while let Some((chosen, of)) = made.pop() {
            if chosen + 1 < of {
                return Some(made.iter().map(|(chosen, _)| *chosen).chain([chosen + 1]).collect());
            }
        }
        None
    }

    fn draw(&mut self, n: usize) -> usize {
        match &mut self.source {
            Source::Seed(rng, _) => rng.index(n),
            Source::List(list) => list.get(self.made.len()).copied().unwrap_or(0).min(n - 1),
        }
    }

    /// One of `n`.
    pub fn pick(&mut self, n: usize) -> usize {
        let chosen = self.draw(n);
        self.made.push((chosen, n));
        chosen
    }

    /// One of `n`, where chance has a say mostly the first.
    pub fn pick_mostly_first(&mut self, n: usize) -> usize {
        let is_random = matches!(self.source, Source::Seed(..));
        let chosen = if is_random && self.draw(2) == 0 { 0 } else { self.draw(n) };
        self.made.push((chosen, n));
        chosen
    }

    /// 0, or one of `n` things that go wrong, counted from 1.
    pub fn fault(&mut self, n: usize) -> usize {
        if self.faults == 0 {
            return 0;
        }
        let one_in = match self.source {
            Source::Seed(_, one_in) => Some(one_in as usize),
            Source::List(_) => None,
        };
        let chosen = match one_in {
            Some(one_in) if self.draw(one_in) > 0 => 0,
            Some(_) => 1 + self.draw(n),
            None => self.draw(n + 1),
        };
        self.made.push((chosen, n + 1));
        self.faults -= usize::from(chosen > 0);
        chosen
    }

    /// Nothing goes wrong from here on.
    pub fn end_faults(&mut self) {
        self.faults = 0;
    }
}
