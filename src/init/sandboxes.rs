//! The sandboxes that the table asks for, and what the kernel keeps of them.

use crate::launch::sandbox::Sandboxes;
use crate::table::Table;

/// Makes them, if a selected daemon has one. What the kernel can't keep is logged once.
///
/// # Errors
/// They can't be made, or the table says `require_sandbox` and the kernel lacks a part. Nothing may be started.
pub fn make(table: &Table, selected: &[usize]) -> Result<Option<Sandboxes>, String> {
    let asked = || selected.iter().filter_map(|index| table.daemons.get(*index)?.sandbox.as_ref());
    if asked().next().is_none() {
        return Ok(None);
    }
    let all = Sandboxes::new(table).map_err(|e| format!("cannot make the sandboxes: {e}; no daemon was started"))?;
    let shortfalls = asked().map(|sandbox| all.kernel().shortfall(sandbox));
    let Some(most) = shortfalls.filter(|one| !one.missing.is_empty()).max_by_key(|one| one.missing.len()) else {
        return Ok(Some(all));
    };
    let why = most.why.unwrap_or_else(|| format!("the kernel has Landlock {}", most.abi));
    let missing = most.missing.join(", ");
    if table.require_sandbox {
        return Err(format!(
            "the kernel can't keep the sandboxes: {missing} missing ({why}), and the table says require_sandbox; no daemon was started"
        ));
    }
    tracing::warn!("the kernel can't keep all of the sandboxes: {missing} missing ({why}); the rest is enforced");
    Ok(Some(all))
}
