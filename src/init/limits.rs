//! Limits that init changes for itself; daemons get back what it was started with.

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::launch::Limit;

/// How many signals init's user may have queued before the kernel stops queueing more for init: the target's limit counts
/// (`__sigqueue_alloc` in the kernel). It has no effect on kill(2): a signal that can't be queued still becomes pending; only its
/// sender is unknown.
const MAX_QUEUED: u64 = 128;

/// Changes them, and returns what they were. It changes only soft limits, since a hard one can't be raised again without privilege.
pub fn take_over() -> Vec<Limit> {
    let change = |resource, to: fn(u64, u64) -> u64| {
        let (soft, hard) = getrlimit(resource).ok()?;
        setrlimit(resource, to(soft, hard), hard).ok()?;
        Some((resource, libc::rlimit { rlim_cur: soft, rlim_max: hard }))
    };
    let queue = change(Resource::RLIMIT_SIGPENDING, |soft, _| soft.min(MAX_QUEUED));
    // A daemon takes two of them, and a third until its exec; the usual 1024 are too few for four hundred.
    let descriptors = change(Resource::RLIMIT_NOFILE, |_, hard| hard);
    queue.into_iter().chain(descriptors).collect()
}
