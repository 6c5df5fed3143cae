//! Bugs that are put between the cores of a change and their hands, to see that they are found.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
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
}

pub const PLANTS: [Plant; 18] = [
    Plant::CommitsUnacknowledged,
    Plant::PlacesUnchecked,
    Plant::PlacesUnrecorded,
    Plant::GoesBackWithoutARestart,
    Plant::InitRecoversUnderTheLock,
    Plant::NothingSettles,
    Plant::CountsBeforeItIsSent,
    Plant::TakesTheOldProcessForTheNew,
    Plant::SweepsBeforeTheCommit,
    Plant::ForgetsAPlaceThatFailed,
    Plant::TakesALostConnectionForLive,
    Plant::NobodyRecoversWhatWasInterrupted,
    Plant::WritesOverAPerson,
    Plant::CallsAPersonsContentTheOld,
    Plant::ProvesWhatAPersonWrote,
    Plant::ForgetsToLookAtWhatCameBack,
    Plant::ForgetsThatItWasDead,
    Plant::TakesAStrangersAnswer,
];
