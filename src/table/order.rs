//! What `depends_on` means for the order in which daemons start and stop.

use std::collections::{HashMap, HashSet};

use toml::Spanned;

use super::Daemon;
use super::check::At;

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
    let Some(circle) = circle(daemons) else { return Ok(()) };
    let names_of: Vec<&str> =
        circle.iter().chain(circle.first()).filter_map(|index| Some(daemons.get(*index)?.name.as_str())).collect();
    let message = format!("depends_on goes in a circle: {}; remove one of these dependencies", names_of.join(" -> "));
    // Where the circle's first daemon names the second.
    let first = circle.first().and_then(|first| names.get(*first)).into_iter().flatten();
    let span = first.into_iter().find(|name| names_of.get(1) == Some(&name.get_ref().as_str())).map(Spanned::span);
    Err((span.unwrap_or_default(), message))
}

/// The daemons that form a circle, each of which depends on the next, and the last on the first. It begins with the one
/// that is first in the table. `None`: there is no circle.
fn circle(daemons: &[Daemon]) -> Option<Vec<usize>> {
    let levels = levels(daemons);
    let is_stuck = |index: &usize| matches!(levels.get(*index), Some(None));
    // Each daemon that can't start depends on another that can't, so this walk comes back to one where it was.
    let mut walk: Vec<usize> = Vec::new();
    let mut next = (0..daemons.len()).find(is_stuck)?;
    loop {
        if let Some(begin) = walk.iter().position(|seen| *seen == next) {
            let mut circle = walk.split_off(begin);
            let first = (0..).zip(&circle).min_by_key(|(_, daemon)| **daemon).map_or(0, |(at, _)| at);
            circle.rotate_left(first);
            return Some(circle);
        }
        walk.push(next);
        next = daemons.get(next)?.depends_on.iter().copied().find(is_stuck)?;
    }
}

/// The indices of the daemons, grouped by when they start: first those that depend on nobody, then those that depend
/// on these alone, and so on; in table order within a group. They stop in the reverse order of groups.
#[must_use]
pub fn waves(daemons: &[Daemon]) -> Vec<Vec<usize>> {
    let levels = levels(daemons);
    let count = levels.iter().flatten().max().map_or(0, |last| last + 1);
    let at = |wave| (0..).zip(&levels).filter(|(_, level)| **level == Some(wave)).map(|(index, _)| index).collect();
    (0..count).map(at).collect()
}

/// For each daemon the length of its longest chain of dependencies; `None` if it hangs on a circle.
fn levels(daemons: &[Daemon]) -> Vec<Option<usize>> {
    let mut levels = vec![None; daemons.len()];
    let mut unmet: Vec<usize> = daemons.iter().map(|daemon| daemon.depends_on.len()).collect();
    let mut dependents = vec![Vec::new(); daemons.len()];
    for (index, daemon) in daemons.iter().enumerate() {
        for dependency in &daemon.depends_on {
            if let Some(list) = dependents.get_mut(*dependency) {
                list.push(index);
            }
        }
    }
    let mut wave: Vec<usize> = (0..).zip(&unmet).filter(|(_, unmet)| **unmet == 0).map(|(index, _)| index).collect();
    for level in 0.. {
        let mut next = Vec::new();
        for index in &wave {
            if let Some(place) = levels.get_mut(*index) {
                *place = Some(level);
            }
            for dependent in dependents.get(*index).into_iter().flatten() {
                if let Some(unmet) = unmet.get_mut(*dependent) {
                    *unmet = unmet.saturating_sub(1);
                    if *unmet == 0 {
                        next.push(*dependent);
                    }
                }
            }
        }
        if next.is_empty() {
            break;
        }
        wave = next;
    }
    levels
}
