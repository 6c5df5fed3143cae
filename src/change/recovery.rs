//! How a change is taken back: by the helper that made it, by the next one, or before init starts the daemon.
//!
//! As long as the record says `interrupted`, the file may hold content that was never proven. A process that finds such a record,
//! and that no helper is at work any more, puts the old content back. What a person wrote is never lost: content with an unknown sha256 stays where it is, or
//! is put aside.

use super::reason::{FileFault, Reason, RecordedOutcome};
use super::record::{Content, Files, Found, Name, Record};
use super::{Stop, Tried};
use crate::text::Printable;

/// What a change may leave beside the file, and its record.
pub const LEFTOVERS: [Name; 3] = [Name::Staged, Name::Kept, Name::NewRecord];

/// What is to become of a person's content that is found in place of the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theirs {
    /// It stays: the change was interrupted, and no helper is at work.
    Stays,
    /// It is put beside the file: it was written over a change under way.
    Aside,
}

/// What lies at the path now.
#[derive(Debug)]
pub struct Restored {
    /// A person's content was there, instead of the new.
    pub was_theirs: bool,
    /// What is there now, if that is a regular file.
    pub now: Option<Content>,
}

/// The record.
///
/// # Errors
/// It can't be read, and old content is kept of which nobody knows now whether it is to go back.
pub fn record(files: &mut impl Files) -> Tried<Option<Record>> {
    match files.record() {
        Err(Stop::Because(why @ Reason::File { fault: FileFault::RecordGone, .. })) => {
            // A first change that was killed before its record was written has put nothing in place.
            let (kept, now) = (files.read(Name::Kept)?, files.read(Name::Path)?);
            let is_here = match (&kept, &now) {
                (Found::Nothing, _) => true,
                (Found::File(kept), Found::File(now)) => kept.bytes == now.bytes,
                _ => false,
            };
            if is_here { Ok(None) } else { Err(why.into()) }
        }
        record => record,
    }
}

/// Puts the old content back, as the record knows it. It may be there already.
///
/// # Errors
/// What was kept isn't what was recorded, or the system refuses.
pub fn put_back(files: &mut impl Files, record: &Record, theirs: Theirs) -> Tried<Restored> {
    let is_old = |found: &Found| matches!(found, Found::File(file) if Some(file.sha256()) == record.old_sha256);
    let is_new = |found: &Found| matches!(found, Found::File(file) if file.sha256() == record.new_sha256);
    let is_theirs = |found: &Found| !matches!(found, Found::Nothing) && !is_old(found) && !is_new(found);
    let now = files.read(Name::Path)?;
    let mut was_theirs = is_theirs(&now);
    if !(is_old(&now) || was_theirs && theirs == Theirs::Stays) {
        let kept = files.read(Name::Kept)?;
        // Somebody wrote to it right before the exchange, and nobody has looked since: it is still the original file.
        let is_original = match (&kept, &files.read(Name::Staged)?) {
            (Found::File(kept), Found::File(staged)) => kept.stamp.inode == staged.stamp.inode,
            _ => false,
        };
        if !is_old(&kept) && !is_original {
            return Err(Reason::file(files.path(), FileFault::KeptGone).into());
        }
        if matches!(now, Found::Nothing) {
            files.rename(Name::Kept, Name::Path)?;
        } else if files.exchange(Name::Kept, Name::Path)? {
            // What came back is what lay there at that very moment.
            was_theirs = is_theirs(&files.read(Name::Kept)?);
            if was_theirs && theirs == Theirs::Stays {
                files.exchange(Name::Kept, Name::Path)?;
            } else if was_theirs {
                files.rename(Name::Kept, Name::Other)?;
            } else {
                files.remove(Name::Kept)?;
            }
        } else {
            if was_theirs {
                files.rename(Name::Path, Name::Other)?;
            }
            files.rename(Name::Kept, Name::Path)?;
        }
    }
    let now = files.read(Name::Path)?;
    was_theirs |= is_theirs(&now);
    Ok(Restored { was_theirs, now: if let Found::File(file) = now { Some(file) } else { None } })
}

/// Closes a change that is taken back: what a person wrote is put aside, the record says what came of it, and the rest is removed. If
/// a step of that fails, the record stays `interrupted`, and the change is recovered once more later.
///
/// # Errors
/// The simulation's helper was killed.
pub fn close(files: &mut impl Files, record: &Record) -> Tried<()> {
    if unless_killed(set_aside(files, record))?.is_ok() && unless_killed(files.write_record(record))?.is_ok() {
        sweep(files)?;
    }
    Ok(())
}

/// Content that is neither the old nor the new got there by an exchange, so a person wrote it.
fn set_aside(files: &mut impl Files, record: &Record) -> Tried<()> {
    let inode = |found: &Found| if let Found::File(file) = found { Some(file.stamp.inode) } else { None };
    let path = inode(&files.read(Name::Path)?);
    for name in [Name::Staged, Name::Kept] {
        let found = files.read(name)?;
        let is_ours = match &found {
            Found::Nothing => true,
            // Another name of what lies there.
            found if inode(found).is_some() && inode(found) == path => true,
            Found::File(file) => {
                let sha256 = file.sha256();
                sha256 == record.new_sha256 || Some(sha256) == record.old_sha256
            }
            Found::Odd(_) => false,
        };
        if !is_ours {
            files.rename(name, Name::Other)?;
        }
    }
    Ok(())
}

/// Removes what a change left beside the file.
///
/// # Errors
/// The simulation's helper was killed.
pub fn sweep(files: &mut impl Files) -> Tried<()> {
    for name in LEFTOVERS {
        files.remove(name)?;
    }
    Ok(())
}

/// What came of a step whose failure doesn't end the change.
///
/// # Errors
/// The simulation's helper was killed.
pub fn unless_killed<T>(tried: Tried<T>) -> Tried<Result<T, Reason>> {
    match tried {
        Ok(done) => Ok(Ok(done)),
        Err(Stop::Because(why)) => Ok(Err(why)),
        Err(Stop::Killed) => Err(Stop::Killed),
    }
}

/// What init does before it starts a daemon: an interrupted change of its file, with nobody at work, is taken back. `lock` takes
/// the lock, and is told whether the helper that holds it has had all its time. The text is for init's log; `None`: there was
/// nothing to do.
///
/// # Errors
/// The text is for init's log too: the file may hold what was never proven.
pub fn before_start(
    files: &mut impl Files,
    boot: &Printable,
    now_ms: u64,
    lock: impl FnOnce(bool) -> Tried<bool>,
) -> Option<Result<String, String>> {
    let path = files.path().display().to_string();
    let failed = |why: &Reason| {
        let why = Reason::Unrecovered { daemon: Printable::new(&path), why: Box::new(why.clone()) };
        Some(Err(format!("{why} ({path})")))
    };
    let mut record = match record(files) {
        Ok(record) => record.filter(Record::is_interrupted),
        Err(Stop::Because(why)) => return failed(&why),
        Err(Stop::Killed) => return None,
    };
    let is_overdue = record.as_ref().is_some_and(|record| record.is_overdue(boot, now_ms));
    match lock(is_overdue) {
        Ok(true) => {}
        // The holder restarts the daemon again once the old content is back.
        Ok(false) | Err(Stop::Killed) => return None,
        Err(Stop::Because(_)) if record.is_none() => return None,
        Err(Stop::Because(why)) => return failed(&why),
    }
    let Some(record) = &mut record else {
        let _ = sweep(files);
        return None;
    };
    let restored = match put_back(files, record, Theirs::Stays) {
        Ok(restored) => restored,
        Err(Stop::Because(why)) => return failed(&why),
        Err(Stop::Killed) => return None,
    };
    record.outcome = if restored.was_theirs { RecordedOutcome::NotProven } else { RecordedOutcome::RolledBack };
    let _ = close(files, record);
    Some(Ok(format!("the change of {path} by {} was interrupted: {}", record.by, record.outcome.of_recovery())))
}
