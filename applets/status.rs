//! `status`: what each daemon is doing, as a table for people or as JSON. A health check can use its exit code.

use std::fmt::Write;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};
use sidecar::change::record::Files;
use sidecar::change::store::Store;
use sidecar::status::{Daemon, DaemonState, InitState, LastExit, Outcome, Plan, Status, Wired};
use sidecar::{change::probe, page};

use crate::args::{self, Early};
use crate::out;

/// What `--help` adds to argh's text.
pub const CODES: &str = "
Exit codes:
  0  every selected daemon is running (with --ready: and ready); a oneshot is running or done
  1  at least one isn't
  2  usage
  4  PID 1 is not `sidecar init`
";

/// Show what each daemon of this bundle is doing: docker exec BUNDLE /proc/1/exe status.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
pub struct Options {
    /// print one JSON object on stdout
    #[argh(switch)]
    json: bool,
    /// also check whether each running daemon is ready, for at most 2 s
    #[argh(switch)]
    ready: bool,
}

/// Runs the applet.
pub fn run(args: &[String]) -> ExitCode {
    let options: Options = match args::parse("status", args) {
        Ok(options) => options,
        Err(Early::Help(text)) => return out::exit(0, out::print(&(text + CODES))),
        Err(Early::Usage(message)) => return out::usage("status", &message),
    };
    let page = match page::read_when_up() {
        Ok(page) => page,
        Err(message) => {
            out::error(&format!("status: {message}"));
            return ExitCode::from(4);
        }
    };
    let ready = options.ready.then(|| probe::all(&page));
    let plans = page.plans.clone();
    let mut status = page.aged(page::now_ms());
    for (daemon, plan) in status.daemons.iter_mut().zip(&plans) {
        let config = plan.config.as_ref();
        let Some(mut store) = config.and_then(|config| Store::open(&config.path).ok()) else { continue };
        match store.record() {
            Ok(Some(record)) => daemon.transaction = Some(record.shown()),
            Ok(None) => {}
            Err(_) => daemon.transaction = Some(serde_json::json!({ "outcome": "unreadable" })),
        }
    }
    if let Some(ready) = ready {
        for ((daemon, plan), ready) in status.daemons.iter_mut().zip(&plans).zip(ready) {
            daemon.ready = (!plan.is_oneshot).then_some(matches!(ready, Some(Ok(()))));
            daemon.not_ready = ready.and_then(Result::err).map(|why| why.to_string());
        }
    }
    let well = status.daemons.iter().zip(&plans).all(|(daemon, plan)| is_well(daemon, plan));
    let text = if options.json {
        // A plain struct of strings and numbers: it can't fail to serialize.
        serde_json::to_string(&status).unwrap_or_default() + "\n"
    } else {
        table(&status)
    };
    out::exit(u8::from(!well), out::print(&text))
}

/// Whether a daemon is well, as a health check sees it.
fn is_well(daemon: &Daemon, plan: &Plan) -> bool {
    let is_up = match daemon.state {
        DaemonState::Running => true,
        DaemonState::Done => plan.is_oneshot,
        _ => false,
    };
    is_up && daemon.ready != Some(false)
}

fn table(status: &Status) -> String {
    let state = match status.state {
        InitState::Running => "running",
        InitState::Stopping => "stopping",
    };
    let head = format!("sidecar {}, pid {}: {state}\n\n", status.version, status.pid);
    let heads = ["DAEMON", "STATE", "PID", "GENERATION", "RESTARTS", "REVIVALS", "UP", "READY", "LAST EXIT"];
    let mut daemons = vec![heads.map(str::to_owned)];
    for d in &status.daemons {
        let ready = d.ready.map_or("-", |ready| if ready { "yes" } else { "no" });
        daemons.push([
            d.name.clone(),
            match d.starts_in_ms {
                Some(ms) => format!("{}, in {}", daemon_state(d.state), age(ms)),
                None => daemon_state(d.state).to_owned(),
            },
            or_dash(d.pid.map(|pid| pid.to_string())),
            d.generation.to_string(),
            d.restarts.to_string(),
            d.revivals.to_string(),
            or_dash(d.uptime_ms.map(age)),
            ready.to_owned(),
            or_dash(d.last_exit.map(last_exit)),
        ]);
    }
    let mut signals = vec![["SIGNAL", "ACTION", "LAST"].map(str::to_owned)];
    for (name, wired) in &status.signals {
        signals.push([name.clone(), action(wired), or_dash(last(wired))]);
    }
    let mut text = head + &columns(&daemons);
    if signals.len() > 1 {
        text = text + "\n" + &columns(&signals);
    }
    if status.daemons.iter().any(|d| !d.waiting_for.is_empty() || d.not_ready.is_some()) {
        text.push('\n');
    }
    for d in &status.daemons {
        for for_whom in &d.waiting_for {
            let _ = writeln!(text, "{} waits for {}: {}", d.name, for_whom.daemon, for_whom.why);
        }
        if let Some(why) = &d.not_ready {
            let _ = writeln!(text, "{} isn't ready: {why}", d.name);
        }
    }
    for d in &status.daemons {
        let Some(change) = d.transaction.as_ref().filter(|change| change.is_object()) else { continue };
        let said = |key: &str| change.get(key).and_then(serde_json::Value::as_str).unwrap_or("-");
        let _ =
            write!(text, "\nlast change of {}: {}, by {}, at {}\n", d.name, said("outcome"), said("by"), said("at"));
    }
    if !status.unselected.is_empty() {
        text = text + "\nnot selected: " + &status.unselected.join(", ") + "\n";
    }
    text
}

fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|n| rows.iter().filter_map(|row| row.get(n)).map(String::len).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn daemon_state(state: DaemonState) -> &'static str {
    match state {
        DaemonState::Starting => "starting",
        DaemonState::Running => "running",
        DaemonState::Stopping => "stopping",
        DaemonState::Exited => "exited",
        DaemonState::Failed => "failed",
        DaemonState::Waiting => "waiting",
        DaemonState::Backoff => "backoff",
        DaemonState::Stopped => "stopped",
        DaemonState::Done => "done",
    }
}

fn last_exit(exit: LastExit) -> String {
    let by = if exit.by_init { ", asked to" } else { "" };
    match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("signal {signal}{by}"),
        (Some(code), None) => format!("code {code}{by}"),
        (None, None) => "unknown".to_owned(),
    }
}

fn action(wired: &Wired) -> String {
    match (&wired.restart, &wired.forward) {
        (Some(name), _) => format!("restart {name}"),
        (None, Some(name)) => format!("forward to {name}"),
        (None, None) => "none".to_owned(),
    }
}

fn last(wired: &Wired) -> Option<String> {
    let last = wired.last?;
    let outcome = match last.outcome {
        Outcome::Restarting => "restarting",
        Outcome::Restarted => "restarted",
        Outcome::Failed => "failed",
        Outcome::Held => "held",
        Outcome::Delivered => "delivered",
        Outcome::Refused => "refused",
        Outcome::NeverCaught => "never caught",
    };
    let reload = match last.reload_errno {
        None => String::new(),
        Some(0) => ", reloaded".to_owned(),
        Some(errno) => format!(", reload refused (errno {errno})"),
    };
    Some(format!("{outcome}{reload} {} ago (no. {})", age(last.age_ms), last.seq))
}

/// An age in its two largest units.
fn age(ms: u64) -> String {
    let (s, m, h) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match (h, m, s) {
        (0, 0, 0) => format!("{ms}ms"),
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{}s", s % 60),
        (h, m, _) if h < 48 => format!("{h}h{}m", m % 60),
        (h, ..) => format!("{}d{}h", h / 24, h % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_shows_its_two_largest_units() {
        let ages = [0, 999, 61_000, 3_661_000, 200_000_000].map(age);
        assert_eq!(ages, ["0ms", "999ms", "1m1s", "1h1m", "2d7h"]);
    }

    #[test]
    fn the_table_shows_what_runs_what_ended_and_what_is_not_selected() {
        let status: Status = serde_json::from_str(
            r#"{"schema":1,"version":"1.0.0","pid":1,"state":"running","selected":["a","b"],"unselected":["c"],
                "signals":{"HUP":{"forward":"a","last":null},
                           "USR1":{"restart":"b","last":{"seq":2,"outcome":"restarted","age_ms":1240}}},
                "daemons":[
                 {"name":"a","state":"running","pid":17,"generation":2,"restarts":1,"uptime_ms":1234,
                  "last_exit":{"code":0,"signal":null,"by_init":true},"ready":false,
                  "not_ready":"HTTP 503 from http://127.0.0.1:90/",
                  "transaction":{"outcome":"live","by":"me@here","at":"2026-11-24T10:00:00Z"}},
                 {"name":"b","state":"exited","pid":null,"generation":1,"restarts":0,"uptime_ms":null,
                  "last_exit":{"code":null,"signal":9,"by_init":false},
                  "transaction":{"outcome":"unreadable"}},
                 {"name":"d","state":"backoff","pid":null,"generation":5,"restarts":0,"revivals":4,"uptime_ms":null,
                  "starts_in_ms":3400,"last_exit":{"code":1,"signal":null,"by_init":false}},
                 {"name":"e","state":"waiting","pid":null,"generation":0,"restarts":0,"uptime_ms":null,"last_exit":null,
                  "waiting_for":[{"daemon":"d","why":"its process has ended"},
                                 {"daemon":"b","why":"connection refused on 127.0.0.1:80"}]}]}"#,
        )
        .unwrap();
        let expected = "sidecar 1.0.0, pid 1: running

DAEMON  STATE           PID  GENERATION  RESTARTS  REVIVALS  UP  READY  LAST EXIT
a       running         17   2           1         0         1s  no     code 0, asked to
b       exited          -    1           0         0         -   -      signal 9
d       backoff, in 3s  -    5           0         4         -   -      code 1
e       waiting         -    0           0         0         -   -      -

SIGNAL  ACTION        LAST
HUP     forward to a  -
USR1    restart b     restarted 1s ago (no. 2)

a isn't ready: HTTP 503 from http://127.0.0.1:90/
e waits for d: its process has ended
e waits for b: connection refused on 127.0.0.1:80

last change of a: live, by me@here, at 2026-11-24T10:00:00Z

last change of b: unreadable, by -, at -

not selected: c
";
        assert_eq!(table(&status), expected);
    }

    #[test]
    fn a_health_check_passes_for_a_oneshot_that_runs_or_is_done() {
        let is_well = |state: &str, is_oneshot: bool, ready: Option<bool>| {
            let daemon = serde_json::json!({ "name": "a", "state": state, "pid": null, "generation": 1, "restarts": 0,
                "uptime_ms": null, "last_exit": null, "ready": ready });
            let plan = Plan {
                ready: None,
                notified: false,
                settle_ms: 0,
                grace_ms: 0,
                is_oneshot,
                is_set_up: false,
                config: None,
            };
            is_well(&serde_json::from_value(daemon).unwrap(), &plan)
        };
        assert!(is_well("running", false, None) && is_well("running", false, Some(true)));
        assert!(!is_well("running", false, Some(false)));
        assert!(is_well("running", true, None) && is_well("done", true, None));
        for state in ["starting", "stopping", "exited", "failed", "waiting", "backoff", "stopped"] {
            assert!(!is_well(state, false, None) && !is_well(state, true, None), "{state}");
        }
    }
}
