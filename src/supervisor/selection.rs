//! Which daemons of the table run.

use crate::table::Table;

/// What `CLAUDE_BOTTLE_SIDECAR_DAEMONS` selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Indices into the table, in its order.
    pub selected: Vec<usize>,
    /// Names that the table doesn't have; ignored with a warning.
    pub unknown: Vec<String>,
}

/// Reads the comma-separated names; unset, empty or blank means all.
#[must_use]
pub fn select(table: &Table, value: Option<&str>) -> Selection {
    let names: Vec<&str> = value.unwrap_or("").split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    let all = value.is_none_or(|v| v.trim().is_empty());
    let wanted = |name: &str| all || names.contains(&name);
    let selected = (0..).zip(&table.daemons).filter(|(_, d)| wanted(&d.name)).map(|(i, _)| i).collect();
    let unknown = names.iter().filter(|n| table.find(n).is_none()).map(|n| (*n).to_owned()).collect();
    Selection { selected, unknown }
}
