//! Bugs that are put between the decisions of a change and their hands, to see that they are found.

use sidecar::change::record::{Content as File, Found, Name};

use crate::bundle::{Bundle, Content, bytes};

macro_rules! plants {
    ($($plant:ident,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Plant {
            $($plant,)*
        }

        pub const PLANTS: &[Plant] = &[$(Plant::$plant,)*];
    };
}

plants! {
    CommitsUnacknowledged,
    PlacesUnchecked,
    PlacesUnrecorded,
    GoesBackWithoutARestart,
    InitRecoversUnderTheLock,
    NothingSettles,
    CountsBeforeItIsSent,
    TakesTheOldProcessForTheNew,
    SweepsBeforeTheCommit,
    ForgetsAPlaceThatFailed,
    TakesALostConnectionForLive,
    NobodyRecoversWhatWasInterrupted,
    WritesOverAPerson,
    CallsAPersonsContentTheOld,
    ProvesWhatAPersonWrote,
    ForgetsToLookAtWhatCameBack,
    ForgetsThatItWasDead,
    TakesAStrangersAnswer,
    TakesAnotherStartForTheProof,
    StartsWhatWasStopped,
}

impl Plant {
    /// What is found under a name on the disk. `placed`: the new content as it was placed; `is_proving`: the proof is
    /// looked for.
    pub fn misread(
        self,
        bundle: &Bundle,
        name: Name,
        found: Found,
        is_proving: bool,
        placed: Option<&File>,
        was_install_lost: bool,
    ) -> Found {
        let Found::File(mut file) = found else { return found };
        let disk = &bundle.disk;
        let is_theirs = file.bytes == bytes(Content::Theirs);
        let is_old_kept = disk.content(Name::Kept) == Some(Content::Old);
        let content = match (self, name) {
            (Self::ForgetsAPlaceThatFailed, Name::Path) if was_install_lost => return Found::Nothing,
            (Self::ProvesWhatAPersonWrote, Name::Path) if is_theirs => {
                return Found::File(placed.filter(|_| is_proving).cloned().unwrap_or(file));
            }
            (Self::WritesOverAPerson, _) if is_theirs && disk.is_interrupted() && is_old_kept => Content::New,
            (Self::CallsAPersonsContentTheOld, Name::Path)
                if is_theirs && !is_proving && bundle.is_over_interrupted() =>
            {
                Content::Old
            }
            (Self::ForgetsToLookAtWhatCameBack, Name::Staged) if is_theirs && is_old_kept => {
                file.stamp.inode = disk.at(Name::Kept).map_or(0, |kept| kept.inode);
                Content::Old
            }
            _ => return Found::File(file),
        };
        file.bytes = bytes(content).to_vec();
        Found::File(file)
    }
}
