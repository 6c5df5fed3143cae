//! Which daemon depends on which: the order of the first start, and of a shutdown.

use crate::table::Table;

/// The dependencies among the selected daemons, by their index in the selection.
#[derive(Debug)]
pub(super) struct Order {
    dependencies: Vec<Vec<usize>>,
    dependents: Vec<Vec<usize>>,
    /// Every daemon, each after all of its dependents.
    dependents_first: Vec<usize>,
    /// A daemon, and the name of a dependency of it that isn't selected.
    unselected: Vec<(usize, String)>,
}

impl Order {
    pub(super) fn new(table: &Table, selected: &[usize]) -> Self {
        let mut slots = vec![None; table.daemons.len()];
        for (slot, index) in selected.iter().enumerate() {
            if let Some(entry) = slots.get_mut(*index) {
                *entry = Some(slot);
            }
        }
        let lists: Vec<Vec<usize>> = vec![Vec::new(); selected.len()];
        let (mut dependencies, mut dependents) = (lists.clone(), lists);
        let mut unselected = Vec::new();
        for (slot, daemon) in selected.iter().filter_map(|index| table.daemons.get(*index)).enumerate() {
            for index in &daemon.depends_on {
                let Some(dependency) = slots.get(*index).copied().flatten() else {
                    unselected.extend(table.daemons.get(*index).map(|d| (slot, d.name.clone())));
                    continue;
                };
                if let (Some(its), Some(whose)) = (dependencies.get_mut(slot), dependents.get_mut(dependency)) {
                    its.push(dependency);
                    whose.push(slot);
                }
            }
        }
        let dependents_first = dependents_first(&dependencies, &dependents);
        Self { dependencies, dependents, dependents_first, unselected }
    }

    /// What this daemon depends on.
    pub(super) fn dependencies(&self, daemon: usize) -> &[usize] {
        self.dependencies.get(daemon).map_or(&[], Vec::as_slice)
    }

    /// The daemons with a dependency that isn't selected, and its name.
    pub(super) fn unselected(&self) -> &[(usize, String)] {
        &self.unselected
    }

    /// For each daemon, the dependents that live: direct ones, and those through dependents that don't live. One is
    /// named for each, as an example.
    pub(super) fn living_dependents(&self, lives: &[bool]) -> Vec<Option<usize>> {
        let mut found = vec![None; self.dependents.len()];
        let lives = |daemon: usize| lives.get(daemon).copied().unwrap_or(false);
        for daemon in &self.dependents_first {
            let dependents = self.dependents.get(*daemon).into_iter().flatten();
            let example = dependents.copied().find_map(|dependent| {
                if lives(dependent) { Some(dependent) } else { found.get(dependent).copied().flatten() }
            });
            if let Some(found) = found.get_mut(*daemon) {
                *found = example;
            }
        }
        found
    }
}

fn dependents_first(dependencies: &[Vec<usize>], dependents: &[Vec<usize>]) -> Vec<usize> {
    let mut missing: Vec<usize> = dependents.iter().map(Vec::len).collect();
    let mut order: Vec<usize> = (0..missing.len()).filter(|d| missing.get(*d) == Some(&0)).collect();
    let mut next = 0;
    while let Some(daemon) = order.get(next).copied() {
        next += 1;
        for dependency in dependencies.get(daemon).into_iter().flatten() {
            if let Some(count) = missing.get_mut(*dependency) {
                *count -= 1;
                if *count == 0 {
                    order.push(*dependency);
                }
            }
        }
    }
    order
}
