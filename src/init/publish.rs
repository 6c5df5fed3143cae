//! Publishes the status page.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};

use super::fixed::{FixedFd, memfd};
use super::millis;
use crate::launch::sandbox::Kernel;
use crate::status::{Daemon, PAGE_FD, PAGE_NAME, Page, Plan, Status};
use crate::supervisor::View;
use crate::table::Daemon as Spec;

/// The daemons' parts of the status page, kept as text. If one daemon changes, only its part is serialized again, and the parts are
/// written to the page without being joined first.
#[derive(Default)]
pub struct Parts {
    daemons: List,
    plans: List,
}

impl Parts {
    /// Writes the parts of a daemon anew. (Neither type can fail to be written.)
    pub fn set(&mut self, index: usize, daemon: &Daemon, plan: &Plan) {
        self.daemons.set(index, serde_json::to_vec(daemon).unwrap_or_default());
        self.plans.set(index, serde_json::to_vec(plan).unwrap_or_default());
    }
}

/// Items of a JSON array, each after a comma.
#[derive(Default)]
struct List {
    text: Vec<u8>,
    sizes: Vec<usize>,
}

impl List {
    fn set(&mut self, index: usize, item: Vec<u8>) {
        self.sizes.resize(self.sizes.len().max(index + 1), 0);
        let from = self.sizes.iter().take(index).sum::<usize>();
        if let Some(size) = self.sizes.get_mut(index) {
            let to = from + std::mem::replace(size, item.len() + 1);
            self.text.splice(from..to, std::iter::once(b',').chain(item));
        }
    }

    /// Without the first comma.
    fn items(&self) -> &[u8] {
        self.text.get(1..).unwrap_or_default()
    }
}

/// What the status page shows of a daemon, with points of the clock instead of ages.
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
        not_ready: None,
    }
}

/// The public document, as `status --json` prints it; but init reads no record of a change, so `transaction` is null.
#[must_use]
pub fn public(head: &Status, specs: &[Spec], views: &[Option<View>], kernel: Option<&Kernel>, now_ms: u64) -> Vec<u8> {
    let public = |(spec, view): (_, &Option<View>)| Some(daemon(spec, view.as_ref()?, kernel));
    let daemons = specs.iter().zip(views).filter_map(public);
    let status = Status { daemons: daemons.collect(), ..head.clone() };
    let page = Page { status, plans: Vec::new(), socket: None };
    // It can't fail to be written.
    serde_json::to_vec(&page.aged(now_ms)).unwrap_or_default()
}

/// Writes a [`Page`]: `head` is its status, without daemons, and `socket` its socket.
fn write(to: &mut impl Write, head: &Status, parts: &Parts, socket: Option<&str>) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    // The daemons are the last of its keys.
    let head = head.strip_suffix(b"]}").ok_or_else(|| io::Error::other("the status does not end with its daemons"))?;
    let socket = serde_json::to_vec(&socket)?;
    let (daemons, plans) = (parts.daemons.items(), parts.plans.items());
    let all = [b"{\"status\":", head, daemons, b"]},\"plans\":[", plans, b"],\"socket\":", &socket, b"}"];
    let size = all.iter().map(|part| part.len()).sum::<usize>();
    if to.write_vectored(&all.map(IoSlice::new))? == size { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The page's descriptor, [`PAGE_FD`]. Its number is kept even while there is no page.
pub struct PageFd {
    fd: FixedFd,
    said: bool,
}

impl PageFd {
    /// Takes the descriptor's number. `placeholder` is anything but a page, for example /dev/null.
    #[must_use]
    pub fn new(placeholder: OwnedFd) -> Self {
        Self { fd: FixedFd::new(PAGE_FD, placeholder), said: false }
    }

    /// See [`FixedFd::reserve`].
    pub fn reserve(&mut self) {
        self.fd.reserve();
    }

    /// Replaces the status page as a whole. If that fails, there is no page, since the old one would be out of date; the failure is
    /// logged, and the next change tries again.
    pub fn put(&mut self, head: &Status, parts: &Parts, socket: Option<&str>) -> bool {
        let put = sealed(head, parts, socket).and_then(|file| self.fd.set(&file));
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

/// It is sealed before it is put in place, since a daemon of the same user could open it through /proc and rewrite it.
fn sealed(head: &Status, parts: &Parts, socket: Option<&str>) -> io::Result<File> {
    let mut file = memfd(PAGE_NAME)?;
    write(&mut file, head, parts, socket)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::sample;

    #[test]
    fn a_page_put_together_from_its_parts_reads_as_the_whole() {
        let page: Page = sample::page();
        let mut parts = Parts::default();
        for (index, (daemon, plan)) in page.status.daemons.iter().zip(&page.plans).enumerate() {
            parts.set(index, daemon, plan);
        }
        // Longer, and then what it was.
        let longer = Daemon { name: "a longer name than it had".to_owned(), ..page.status.daemons[0].clone() };
        parts.set(0, &longer, &page.plans[0]);
        parts.set(0, &page.status.daemons[0], &page.plans[0]);
        let mut head = page.status.clone();
        head.daemons.clear();
        let mut text = Vec::new();
        write(&mut text, &head, &parts, page.socket.as_deref()).unwrap();
        assert_eq!(serde_json::from_slice::<Page>(&text).unwrap(), page);
    }
}
