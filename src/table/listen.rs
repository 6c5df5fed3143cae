//! `listen`: the sockets that init holds for a daemon.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use toml::Spanned;

use super::check::At;
use super::{Daemon, Ready};

/// The most sockets that init holds for one daemon: each takes a descriptor in both.
pub const MAX_LISTEN: usize = 64;
/// The most for all daemons of a table.
const MAX_IN_ALL: usize = 1000;

/// An entry of `listen` as it stands in the table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListen {
    tcp: Spanned<String>,
}

/// Gives each daemon the addresses of its list.
pub(super) fn resolve(daemons: &mut [Daemon], lists: &[Vec<RawListen>]) -> At<()> {
    let mut held: Vec<(SocketAddr, String)> = Vec::new();
    for (daemon, list) in daemons.iter_mut().zip(lists) {
        for RawListen { tcp } in list {
            let addr = address(tcp)?;
            let wrong = |message: String| Err((tcp.span(), message));
            if daemon.is_oneshot {
                let message = "a oneshot has no `listen`: nobody would accept a connection once it has ended; \
                               remove either `listen` or oneshot = true";
                return wrong(message.to_owned());
            }
            if let Some((other, owner)) = held.iter().find(|(other, _)| overlap(addr, *other)) {
                let whose = if *owner == daemon.name { "it".to_owned() } else { format!("{owner:?}") };
                let fix = "give each socket an address or a port of its own";
                return wrong(format!("listen has {addr}, but {whose} listens on {}; {fix}", described(*other)));
            }
            if matches!(daemon.ready, Some(Ready::Tcp(ready)) if overlap(addr, ready)) {
                return wrong(format!(
                    "ready.tcp would connect to {addr}, which init holds whether or not {:?} serves; write \
                     ready = {{ http = \"http://IP:PORT/PATH\" }} or {{ notify = true }}",
                    daemon.name
                ));
            }
            if daemon.listen.len() >= MAX_LISTEN || held.len() >= MAX_IN_ALL {
                return wrong(format!(
                    "listen has too many addresses; a daemon may have {MAX_LISTEN}, and a table {MAX_IN_ALL} in all"
                ));
            }
            daemon.listen.push(addr);
            held.push((addr, daemon.name.clone()));
        }
    }
    Ok(())
}

fn address(text: &Spanned<String>) -> At<SocketAddr> {
    let spelled = text.get_ref();
    let message = match spelled.parse::<SocketAddr>() {
        Ok(addr) if addr.port() != 0 => return Ok(addr),
        Ok(_) => format!("listen has {spelled:?} with port 0, which stands for any free port; write the daemon's port"),
        Err(_) => format!(
            "listen has {spelled:?}, which is not an address; write IP:PORT, as in \"0.0.0.0:9100\", or \"[::]:9100\" for IPv6 too"
        ),
    };
    Err((text.span(), message))
}

/// Whether the kernel refuses to bind one of the two while the other is bound. `[::]` takes IPv4 connections too.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let all_of_both = |ip: IpAddr| ip.is_ipv6() && ip.is_unspecified();
    let (a, b) = (one.ip(), other.ip());
    if one.port() != other.port() {
        return false;
    }
    if all_of_both(a) || all_of_both(b) {
        return true;
    }
    let (a, b) = (a.to_canonical(), b.to_canonical());
    let is_any = a.is_unspecified() || b.is_unspecified();
    let scope = |addr: SocketAddr| if let SocketAddr::V6(v6) = addr { v6.scope_id() } else { 0 };
    (a == b && scope(one) == scope(other)) || (is_any && a.is_ipv4() && b.is_ipv4())
}

fn described(addr: SocketAddr) -> String {
    let takes = match addr.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => " (every address, of IPv4 too)",
        IpAddr::V4(ip) if ip.is_unspecified() => " (every address of IPv4)",
        _ => " already",
    };
    format!("{addr}{takes}")
}
