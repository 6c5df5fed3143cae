//! A page for tests: egress and pipelock run, HUP and USR1 have the rules of the built-in table.

use std::collections::BTreeMap;

use crate::status::{Daemon, DaemonState, InitState, Page, Plan, SCHEMA, Status, Wired};
use crate::table::Ready;

/// The page.
#[must_use]
pub fn page() -> Page {
    let daemon = |name: &str, pid| Daemon {
        name: name.to_owned(),
        state: DaemonState::Running,
        pid: Some(pid),
        generation: 1,
        restarts: 0,
        revivals: 0,
        starts_in_ms: None,
        waiting_for: Vec::new(),
        requests: Vec::new(),
        uptime_ms: Some(0),
        last_exit: None,
        listen: Vec::new(),
        sandbox: None,
        transaction: Some(serde_json::Value::Null),
        ready: None,
        not_ready: None,
    };
    let plan = |ready| Plan {
        ready: Some(ready),
        notified: true,
        settle_ms: 300,
        grace_ms: 8000,
        is_oneshot: false,
        is_set_up: false,
        config: None,
    };
    let wired = |forward: Option<&str>, restart: Option<&str>| Wired {
        forward: forward.map(str::to_owned),
        restart: restart.map(str::to_owned),
        last: None,
    };
    let status = Status {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: 1,
        state: InitState::Running,
        selected: vec!["egress".to_owned(), "pipelock".to_owned()],
        unselected: Vec::new(),
        signals: BTreeMap::from([
            ("HUP".to_owned(), wired(Some("egress"), None)),
            ("USR1".to_owned(), wired(None, Some("pipelock"))),
        ]),
        daemons: vec![daemon("egress", 12), daemon("pipelock", 17)],
    };
    let tcp = Ready::Tcp(([127, 0, 0, 1], 8888).into());
    Page { status, plans: vec![plan(Ready::Notify), plan(tcp)], socket: Some("@1".to_owned()) }
}
