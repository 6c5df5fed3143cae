//! What `depends_on` means for the order in which daemons start and stop.

use std::collections::{HashMap, HashSet};

use toml::Spanned;

use super::Daemon;
use super::check::At;

/// For each daemon, other daemons as indices: its dependencies or its dependents.
type Edges = Vec<Vec<usize>>;

/// Turns the names that each daemon depends on into indices.
pub(super) fn resolve(daemons: &mut [Daemon], names: &[Vec<Spanned<String>>]) -> At<()> {
    let known: HashMap<String, usize> = (0..).zip(&*daemons).map(|(index, d)| (d.name.clone(), index)).collect();
    for (daemon, names) in daemons.iter_mut().zip(names) {
        let mut seen = HashSet::new();
        for name in names {
            let wrong = |message: String| Err((name.span(), message));
            let spelled = name.get_ref();
            let Some(index) = known.get(spelled) else {
                return wrong(format!(
                    "depends_on has {spelled:?}, which is not a daemon in this table; name one that is"
                ));
            };
            if *spelled == daemon.name {
                return wrong(format!("{spelled:?} depends on itself; remove it from its depends_on"));
            }
            if !seen.insert(index) {
                return wrong(format!("depends_on has {spelled:?} twice; keep one of the two"));
            }
            daemon.depends_on.push(*index);
        }
    }
    let Some(circle) = circle(&dependencies(daemons)) else { return Ok(()) };
    let around: Vec<&str> =
        circle.iter().chain(circle.first()).filter_map(|index| Some(daemons.get(*index)?.name.as_str())).collect();
    let message = format!("depends_on goes in a circle: {}; remove one of these dependencies", around.join(" -> "));
    // Report the line in which the circle's first daemon names the second.
    let mut first = circle.first().and_then(|first| names.get(*first)).into_iter().flatten();
    let second = first.find(|name| around.get(1) == Some(&name.get_ref().as_str()));
    Err((second.map(Spanned::span).unwrap_or_default(), message))
}

/// The order in which daemons start, as indices: first those without dependencies, then those that depend only on these, and so on;
/// each group in table order.
#[must_use]
pub fn start_order(daemons: &[Daemon]) -> Vec<Vec<usize>> {
    grouped(&levels(&dependencies(daemons)))
}

/// The order in which a shutdown asks daemons to stop, as indices: first those without dependents, then those on which only these
/// depend, and so on; each group in table order.
#[must_use]
pub fn stop_order(daemons: &[Daemon]) -> Vec<Vec<usize>> {
    grouped(&levels(&reversed(&dependencies(daemons))))
}

fn dependencies(daemons: &[Daemon]) -> Edges {
    daemons.iter().map(|daemon| daemon.depends_on.clone()).collect()
}

fn reversed(edges: &[Vec<usize>]) -> Edges {
    let mut reversed = vec![Vec::new(); edges.len()];
    for (from, list) in edges.iter().enumerate() {
        for to in list {
            if let Some(list) = reversed.get_mut(*to) {
                list.push(from);
            }
        }
    }
    reversed
}

/// Daemons that form a circle, each followed by the one that it waits for. It begins with the one that is first in the table. `None`
/// if there is no circle.
fn circle(waits_for: &[Vec<usize>]) -> Option<Vec<usize>> {
    let levels = levels(waits_for);
    let is_stuck = |index: &usize| matches!(levels.get(*index), Some(None));
    // Each stuck daemon waits for another stuck one, so this walk must come back to a daemon that it has seen.
    let mut walk: Vec<usize> = Vec::new();
    let mut next = (0..waits_for.len()).find(is_stuck)?;
    loop {
        if let Some(begin) = walk.iter().position(|seen| *seen == next) {
            let mut circle = walk.split_off(begin);
            let first = (0..).zip(&circle).min_by_key(|(_, index)| **index).map_or(0, |(at, _)| at);
            circle.rotate_left(first);
            return Some(circle);
        }
        walk.push(next);
        next = waits_for.get(next)?.iter().copied().find(is_stuck)?;
    }
}

/// For each daemon, the length of the longest chain of daemons that it waits for; `None` if that leads into a circle.
fn levels(waits_for: &[Vec<usize>]) -> Vec<Option<usize>> {
    let waiting = reversed(waits_for);
    let mut unmet: Vec<usize> = waits_for.iter().map(Vec::len).collect();
    let mut levels = vec![None; unmet.len()];
    let mut group: Vec<usize> = (0..).zip(&unmet).filter(|(_, unmet)| **unmet == 0).map(|(index, _)| index).collect();
    for level in 0.. {
        if group.is_empty() {
            break;
        }
        let mut next = Vec::new();
        for index in group {
            if let Some(place) = levels.get_mut(index) {
                *place = Some(level);
            }
            for other in waiting.get(index).into_iter().flatten() {
                if let Some(unmet) = unmet.get_mut(*other) {
                    *unmet = unmet.saturating_sub(1);
                    if *unmet == 0 {
                        next.push(*other);
                    }
                }
            }
        }
        group = next;
    }
    levels
}

fn grouped(levels: &[Option<usize>]) -> Vec<Vec<usize>> {
    let count = levels.iter().flatten().max().map_or(0, |last| last + 1);
    let mut groups = vec![Vec::new(); count];
    for (index, level) in levels.iter().enumerate() {
        if let Some(group) = level.and_then(|level| groups.get_mut(level)) {
            group.push(index);
        }
    }
    groups
}
