//! Bugs that are put between the cores of a change and their hands, to see that they are found.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    CommitsUnacknowledged,
    PlacesUnchecked,
    PlacesUnrecorded,
    GoesBackWithoutARestart,
    InitSettlesUnderTheLock,
    NothingSettles,
    CountsBeforeItIsSent,
    TakesTheOldProcessForTheNew,
    SweepsBeforeTheCommit,
    ForgetsAPlaceThatFailed,
    TakesALostConnectionForLive,
    NobodySettlesWhatWasInterrupted,
    WritesOverAPerson,
    CallsAPersonsContentTheOld,
    ProvesWhatAPersonWrote,
}

pub const PLANTS: [Plant; 15] = [
    Plant::CommitsUnacknowledged,
    Plant::PlacesUnchecked,
    Plant::PlacesUnrecorded,
    Plant::GoesBackWithoutARestart,
    Plant::InitSettlesUnderTheLock,
    Plant::NothingSettles,
    Plant::CountsBeforeItIsSent,
    Plant::TakesTheOldProcessForTheNew,
    Plant::SweepsBeforeTheCommit,
    Plant::ForgetsAPlaceThatFailed,
    Plant::TakesALostConnectionForLive,
    Plant::NobodySettlesWhatWasInterrupted,
    Plant::WritesOverAPerson,
    Plant::CallsAPersonsContentTheOld,
    Plant::ProvesWhatAPersonWrote,
];
