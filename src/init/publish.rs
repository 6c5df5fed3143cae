//! Publishes the status page.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};

use super::fixed::{FixedFd, memfd};
use super::millis;
use crate::launch::sandbox::Kernel;
use crate::status::{Daemon, PAGE_FD, PAGE_NAME, Page, Plan, Status};
use crate::supervisor::View;
use crate::table::Daemon as Spec;

/// One daemon's part of the page, kept as text, so that a change of one daemon doesn't serialize four hundred.
#[derive(Default)]
pub struct Entry {
    /// The data that it was written from.
    pub view: Option<View>,
    daemon: Box<[u8]>,
    plan: Box<[u8]>,
}

impl Entry {
    /// Writes it. (Neither type can fail to be written.)
    #[must_use]
    pub fn new(view: View, daemon: &Daemon, plan: &Plan) -> Self {
        let daemon = serde_json::to_vec(daemon).unwrap_or_default().into_boxed_slice();
        let plan = serde_json::to_vec(plan).unwrap_or_default().into_boxed_slice();
        Self { view: Some(view), daemon, plan }
    }
}

/// What the page shows of a daemon: points of the clock in place of ages.
#[must_use]
pub fn daemon(spec: &Spec, view: &View, kernel: Option<&Kernel>) -> Daemon {
    Daemon {
        name: spec.name.clone(),
        state: view.state,
        pid: view.pid,
        generation: view.generation,
        restarts: view.restarts,
        revivals: view.revivals,
        starts_in_ms: view.starts_at.map(millis),
        waiting_for: view.waiting_for.clone(),
        requests: view.requests.clone(),
        uptime_ms: view.since.map(millis),
        last_exit: view.last_exit,
        listen: spec.listen.clone(),
        sandbox: kernel.zip(spec.sandbox.as_ref()).map(|(kernel, sandbox)| kernel.shortfall(sandbox)),
        transaction: spec.config.as_ref().map(|_| serde_json::Value::Null),
        ready: None,
    }
}

/// The public document, as `status --json` prints it; but init reads no record of a change, so `transaction` is null.
#[must_use]
pub fn public(head: &Status, specs: &[Spec], entries: &[Entry], kernel: Option<&Kernel>, now_ms: u64) -> Vec<u8> {
    let public = |(spec, entry): (_, &Entry)| Some(daemon(spec, entry.view.as_ref()?, kernel));
    let daemons = specs.iter().zip(entries).filter_map(public);
    let status = Status { daemons: daemons.collect(), ..head.clone() };
    let page = Page { status, plans: Vec::new(), socket: None };
    // It can't fail to be written.
    serde_json::to_vec(&page.aged(now_ms)).unwrap_or_default()
}

/// A [`crate::status::Page`]: `head` is its status, without daemons, and `socket` its socket.
///
/// # Errors
/// None that is known.
pub fn text(head: &Status, entries: &[Entry], socket: Option<&str>) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    // The daemons are the last of its keys.
    let head = head.strip_suffix(b"]}").ok_or_else(|| io::Error::other("the status does not end with its daemons"))?;
    let size = entries.iter().map(|e| e.daemon.len() + e.plan.len() + 2).sum::<usize>();
    let mut text = Vec::with_capacity(head.len() + size + 64);
    text.extend_from_slice(b"{\"status\":");
    text.extend_from_slice(head);
    join(&mut text, entries.iter().map(|e| &e.daemon));
    text.extend_from_slice(b"]},\"plans\":[");
    join(&mut text, entries.iter().map(|e| &e.plan));
    text.extend_from_slice(b"],\"socket\":");
    serde_json::to_writer(&mut text, &socket)?;
    text.push(b'}');
    Ok(text)
}

fn join<'a>(text: &mut Vec<u8>, parts: impl Iterator<Item = &'a Box<[u8]>>) {
    for (index, part) in parts.enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(part);
    }
}

/// The page's descriptor, [`PAGE_FD`]. Its number is kept even while there is no page.
pub struct PageFd {
    fd: FixedFd,
    said: bool,
}

impl PageFd {
    /// `placeholder` is anything but a page, for example /dev/null.
    #[must_use]
    pub fn new(placeholder: OwnedFd) -> Self {
        Self { fd: FixedFd::new(PAGE_FD, placeholder), said: false }
    }

    /// See [`FixedFd::reserve`].
    pub fn reserve(&mut self) {
        self.fd.reserve();
    }

    /// Replaces the page as a whole. If that fails there is no page, since the old one would be out of date. The failure
    /// is logged, and the next change tries again.
    pub fn put(&mut self, text: impl FnOnce() -> io::Result<Vec<u8>>) -> bool {
        let put = text().and_then(|text| sealed(&text)).and_then(|file| self.fd.set(&file));
        if let Err(e) = &put {
            if !self.said {
                tracing::warn!(
                    "no status page: {e}; status, apply and requests don't work on this bundle until there is one"
                );
            }
            self.fd.take_back();
        }
        self.said = put.is_err();
        put.is_ok()
    }
}

/// It is sealed before it is put in place: a daemon of the same user could open it through /proc and rewrite it.
fn sealed(text: &[u8]) -> io::Result<File> {
    let mut file = memfd(PAGE_NAME)?;
    file.write_all(text)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::sample;
    use crate::status::DaemonState;

    #[test]
    fn a_page_put_together_from_its_parts_reads_as_the_whole() {
        let page: Page = sample::page();
        let view = View {
            state: DaemonState::Running,
            pid: None,
            since: None,
            generation: 1,
            restarts: 0,
            revivals: 0,
            starts_at: None,
            waiting_for: Vec::new(),
            requests: Vec::new(),
            last_exit: None,
            notified: false,
        };
        let entries: Vec<Entry> = page
            .status
            .daemons
            .iter()
            .zip(&page.plans)
            .map(|(daemon, plan)| Entry::new(view.clone(), daemon, plan))
            .collect();
        let mut head = page.status.clone();
        head.daemons.clear();
        assert_eq!(
            serde_json::from_slice::<Page>(&text(&head, &entries, page.socket.as_deref()).unwrap()).unwrap(),
            page
        );
    }
}
