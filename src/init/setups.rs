//! How the table says that the daemons' processes are set up, and what the kernel can enforce of their sandboxes.

use super::CannotBegin;
use super::fixed::memfd;
use crate::launch::setup::{Published, Setups, users};
use crate::request::SETUPS_NAME;
use crate::table::Table;

/// Makes them, if a daemon of the table needs one. What the kernel can't enforce of the selected daemons' sandboxes is logged once.
///
/// # Errors
/// They can't be made, init lacks what it needs to start a selected daemon as its user, or the table says `require_sandbox` and
/// the kernel lacks a part. Nothing may be started.
pub fn make(table: &Table, selected: &[usize]) -> Result<Option<Published>, CannotBegin> {
    let wrong = |why: String| CannotBegin::wrong_table(format!("{why}; no daemon was started"));
    if let Some(why) = users::what_is_lacking(table, selected) {
        return Err(wrong(why));
    }
    let Some(all) = Setups::new(table).map_err(|e| wrong(e.to_string()))? else { return Ok(None) };
    let all = memfd(SETUPS_NAME)
        .and_then(|file| all.publish(file))
        .map_err(|e| CannotBegin::new(format!("cannot publish how daemons are set up: {e}; no daemon was started")))?;
    let asked = selected.iter().filter_map(|index| table.daemons.get(*index)?.sandbox.as_ref());
    let shortfalls = asked.map(|sandbox| all.kernel.shortfall(sandbox));
    let Some(most) = shortfalls.filter(|one| !one.missing.is_empty()).max_by_key(|one| one.missing.len()) else {
        return Ok(Some(all));
    };
    let why = most.why.unwrap_or_else(|| format!("the kernel has Landlock {}", most.abi));
    let missing = most.missing.join(", ");
    if table.require_sandbox {
        return Err(CannotBegin::new(format!(
            "the kernel can't fully enforce the sandboxes: {missing} missing ({why}), and the table says require_sandbox; no daemon was started"
        )));
    }
    tracing::warn!("the kernel can't fully enforce the sandboxes: {missing} missing ({why}); the rest is enforced");
    Ok(Some(all))
}
