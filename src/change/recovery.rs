//! How a change is taken back: by the helper that made it, by the next one, or before init starts the daemon.
//!
//! From the moment at which the record says `interrupted` until it says something else, what lies at the path may never have been
//! proven. Whoever finds it so, with nobody at work, puts the old content back. What a person wrote is never lost: what isn't
//! known by its sha256 is left where it is, or put aside.

use super::reason::{FileFault, Reason, RecordedOutcome};
use super::record::{Content, Files, Found, Name, Record};
use super::{Stop, Tried};
use crate::text::Plain;

/// What is to become of a person's content in the place of the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theirs {
    /// It stays: nobody has been at work since.
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
        if !is_old(&files.read(Name::Kept)?) {
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
    let now = match files.read(Name::Path)? {
        Found::File(file) => Some(file),
        Found::Nothing | Found::Odd(_) => None,
    };
    Ok(Restored { was_theirs, now })
}

/// Removes what a change left beside the file. `record`: the change had something in place, so what neither was old nor new may
/// be a person's, which came there by an exchange.
///
/// # Errors
/// The simulation's helper was killed.
pub fn sweep(files: &mut impl Files, record: Option<&Record>) -> Tried<()> {
    for name in [Name::Staged, Name::Kept] {
        let found = match files.read(name) {
            Ok(found) => found,
            Err(Stop::Killed) => return Err(Stop::Killed),
            // What can't be read now is swept by the next one.
            Err(Stop::Because(_)) => continue,
        };
        let is_theirs = match (&found, record) {
            (Found::Nothing, _) => continue,
            (_, None) => false,
            (Found::File(file), Some(record)) => {
                let sha256 = file.sha256();
                sha256 != record.new_sha256 && Some(sha256) != record.old_sha256
            }
            (Found::Odd(_), Some(_)) => true,
        };
        if is_theirs {
            unless_killed(files.rename(name, Name::Other))?;
        } else {
            files.remove(name)?;
        }
    }
    Ok(())
}

/// That it failed is no reason not to go on.
///
/// # Errors
/// The simulation's helper was killed.
pub fn unless_killed<T>(tried: Tried<T>) -> Tried<Option<T>> {
    match tried {
        Ok(done) => Ok(Some(done)),
        Err(Stop::Because(_)) => Ok(None),
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
    boot: &Plain,
    now_ms: u64,
    lock: impl FnOnce(bool) -> Tried<bool>,
) -> Option<Result<String, String>> {
    let path = files.path().display().to_string();
    let failed = |why: &Reason| {
        let why = Reason::Unrecovered { daemon: Plain::new(&path), why: Box::new(why.clone()) };
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
        // Whoever holds it restarts the daemon again after the way back.
        Ok(false) | Err(Stop::Killed) => return None,
        Err(Stop::Because(_)) if record.is_none() => return None,
        Err(Stop::Because(why)) => return failed(&why),
    }
    let Some(record) = &mut record else {
        let _ = sweep(files, None);
        return None;
    };
    let restored = match put_back(files, record, Theirs::Stays) {
        Ok(restored) => restored,
        Err(Stop::Because(why)) => return failed(&why),
        Err(Stop::Killed) => return None,
    };
    let (outcome, what) = if restored.was_theirs {
        (RecordedOutcome::NotProven, "somebody has put other content there since, which stays")
    } else {
        (RecordedOutcome::RolledBack, "the old content is back")
    };
    let said = format!("the change of {path} by {} was interrupted: {what}", record.by);
    record.outcome = outcome;
    // If it can't be written it stays `interrupted`, and is recovered once more.
    if files.write_record(record).is_ok() {
        let _ = sweep(files, Some(record));
    }
    Some(Ok(said))
}
