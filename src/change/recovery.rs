//! Undoes a change: by the helper that made it, by the next one, or before init starts the daemon.
//!
//! As long as the record says `interrupted`, the file may hold content that was never proven. If a process finds such a record, and
//! no helper is at work any more, it puts the old content back. What a person wrote is never lost: content with an unknown sha256
//! stays where it is, or is put aside.

use super::reason::{FileFault, Reason, RecordedOutcome};
use super::record::{Content, Files, Found, Name, Record};
use super::{Stop, Tried};
use crate::text::Printable;

/// What a change may leave beside the file, and its record.
pub const LEFTOVERS: [Name; 3] = [Name::Staged, Name::Kept, Name::NewRecord];

/// What to do with a person's content that is found in place of the new content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theirs {
    /// It stays: the change was interrupted, and no helper is at work.
    Stays,
    /// It is put beside the file: somebody wrote it while a change was under way.
    Aside,
}

/// The result of putting the old content back.
#[derive(Debug)]
pub struct Restored {
    /// Whether a person's content was in place instead of the new content.
    pub was_theirs: bool,
    /// The file that is in place now, if it is a regular file.
    pub now: Option<Content>,
}

/// Reads the record. One that holds garbage counts as none, unless different old content is kept beside the file.
///
/// # Errors
/// It can't be read; or it holds garbage, and nobody knows whether the kept old content must be put back.
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

/// Puts the old content back, which the record identifies by its sha256. It may be in place already.
///
/// # Errors
/// The kept content isn't what was recorded, or a system call failed.
pub fn put_back(files: &mut impl Files, record: &Record, theirs: Theirs) -> Tried<Restored> {
    let is_old = |found: &Found| matches!(found, Found::File(file) if Some(file.sha256()) == record.old_sha256);
    let is_new = |found: &Found| matches!(found, Found::File(file) if file.sha256() == record.new_sha256);
    let is_theirs = |found: &Found| !matches!(found, Found::Nothing) && !is_old(found) && !is_new(found);
    let now = files.read(Name::Path)?;
    let mut was_theirs = is_theirs(&now);
    if !(is_old(&now) || was_theirs && theirs == Theirs::Stays) {
        let kept = files.read(Name::Kept)?;
        // If somebody wrote to the original file right before the exchange, its sha256 is unknown, but it still is the original.
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
            // What came back is what was in place at the moment of the exchange.
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

/// Closes a change that was undone: it puts aside what a person wrote, writes the result into the record, and removes the rest. If a
/// step fails, the record stays `interrupted`, and the change is recovered once more later.
///
/// # Errors
/// The simulation's helper was killed.
pub fn close(files: &mut impl Files, record: &Record) -> Tried<()> {
    if unless_killed(set_aside(files, record))?.is_ok() && unless_killed(files.write_record(record))?.is_ok() {
        sweep(files)?;
    }
    Ok(())
}

/// Puts aside content that is neither the old nor the new: an exchange put it under this name, so a person wrote it.
fn set_aside(files: &mut impl Files, record: &Record) -> Tried<()> {
    let inode = |found: &Found| if let Found::File(file) = found { Some(file.stamp.inode) } else { None };
    let path = inode(&files.read(Name::Path)?);
    for name in [Name::Staged, Name::Kept] {
        let found = files.read(name)?;
        let is_ours = match &found {
            Found::Nothing => true,
            // It is only another name of the file in place.
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

/// Separates the failure of a step, which doesn't end the change here, from the helper's death, which does.
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

/// What init does before it starts a daemon: it undoes an interrupted change of the daemon's file, if no helper is at work. `lock`
/// takes the lock; its argument says whether the helper that holds it has used up its time. The text is for init's log; `None` if
/// there was nothing to do.
///
/// # Errors
/// The text is for init's log too: the file may hold content that was never proven.
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
        // The holder of the lock restarts the daemon again once the old content is back.
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
