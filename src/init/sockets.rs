//! The sockets that init holds for its daemons. Whether they listen depends on the daemon's state.

use crate::launch::{NotHeld, Sockets};
use crate::supervisor::View;
use crate::table::Daemon as Spec;

/// Binds all daemons' sockets.
///
/// # Errors
/// The first address that can't be bound. Nothing may be started.
pub fn bind(specs: &[Spec]) -> Result<Vec<Sockets>, String> {
    let bind = |spec: &Spec| {
        Sockets::bind(&spec.name, &spec.listen).map_err(|NotHeld(address, e)| {
            let e = std::io::Error::from(e);
            format!("cannot listen on {address} for {}: {e}; no daemon was started", spec.name)
        })
    };
    specs.iter().map(bind).collect()
}

/// Makes a daemon's sockets refuse connections if nothing is going to accept them. (Its next start makes them listen again.)
pub fn follow(sockets: &mut Sockets, spec: &Spec, view: &View) {
    if view.listens() {
        return;
    }
    if let Err(e) = sockets.refuse() {
        tracing::warn!(
            daemon = spec.name,
            "cannot refuse connections to {}: {e}; they wait until it is started",
            spec.name
        );
    }
}
