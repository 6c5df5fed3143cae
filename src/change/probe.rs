//! Asks a daemon whether it is ready, the way its table entry says. Each probe ends by its deadline.

use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use super::command::Group;
use super::holders::Past;
use super::reason::Shortfall;
use super::{command, proof};
use crate::change::set_up;
use crate::status::{Daemon, DaemonState, Page, Plan};
use crate::table::Ready;
use crate::text::Printable;

/// How long `status --ready` asks a daemon.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// The same for init's own probes. (init kills a probe that takes more than 10 s.)
pub const INITS_TIMEOUT: Duration = Duration::from_millis(9_500);
/// How much is shown of each word of a command, in characters.
const SHOWN: usize = 40;

/// Checks that a running daemon is ready, and that no other process has answered in its place. Without `ready` a daemon is ready
/// while it runs. `past` has what ran before the restart that must be proven.
///
/// # Errors
/// What is missing.
pub fn ready(page: &Page, daemon: &str, timeout: Duration, past: &Past) -> Result<(), Shortfall> {
    let Some((_, plan)) = proof::find(page, daemon) else { return Err(Shortfall::NotReady { why: None }) };
    ask_of(page, daemon, plan, timeout, Group::Own)
        .map_err(|why| Shortfall::NotReady { why: Some(Printable::new(&why)) })?;
    past.stranger(page, daemon).map_or(Ok(()), Err)
}

/// The same check for init, which has other daemons waiting for this one; the error is a phrase for status and log. init kills the
/// caller's process group once the caller has ended.
///
/// # Errors
/// Why it isn't ready, for example "connection refused on 127.0.0.1:8888".
pub fn why_not(page: &Page, daemon: &str, timeout: Duration) -> Result<(), Printable> {
    in_words(page, daemon, timeout, Group::Callers)
}

fn in_words(page: &Page, daemon: &str, timeout: Duration, group: Group) -> Result<(), Printable> {
    let Some((_, plan)) = proof::find(page, daemon) else { return Err(Printable::new("it isn't selected")) };
    ask_of(page, daemon, plan, timeout, group).map_err(|why| Printable::new(&why))?;
    match Past::default().stranger(page, daemon) {
        None => Ok(()),
        Some(Shortfall::SocketHeld { socket, by: Some((pid, name)) }) => {
            Err(Printable::new(&format!("{socket} is held by pid {pid} ({name})")))
        }
        Some(_) => Err(Printable::new("its socket is held by another process")),
    }
}

/// Asks the daemon. (An `exec` command runs as the daemon does.)
fn ask_of(page: &Page, daemon: &str, plan: &Plan, timeout: Duration, group: Group) -> Result<(), String> {
    ask_as(&|command| set_up::command(page, daemon, set_up::Task::Probe, command), plan, timeout, group)
}

#[cfg(test)]
fn ask(plan: &Plan, timeout: Duration, group: Group) -> Result<(), String> {
    ask_as(&<[String]>::to_vec, plan, timeout, group)
}

fn ask_as(
    as_daemon: &dyn Fn(&[String]) -> Vec<String>,
    plan: &Plan,
    timeout: Duration,
    group: Group,
) -> Result<(), String> {
    let deadline = Deadline { at: Instant::now() + timeout, timeout };
    match &plan.ready {
        None => Ok(()),
        Some(Ready::Notify) if plan.notified => Ok(()),
        Some(Ready::Notify) => Err("it has not said READY=1".to_owned()),
        Some(Ready::Tcp(addr)) => connect(*addr, deadline).map(drop),
        Some(Ready::Http { addr, path }) => match http(*addr, path, deadline)? {
            200..400 => Ok(()),
            code => Err(format!("HTTP {code} from http://{addr}{path}")),
        },
        Some(Ready::Exec(command)) => exec(command, &as_daemon(command), group, deadline),
    }
}

/// For each daemon of the page, in order: whether it is ready, or why not. `None` for a oneshot, and for a daemon that doesn't run.
/// All daemons are probed at the same time.
#[must_use]
pub fn all(page: &Page) -> Vec<Option<Result<(), Printable>>> {
    thread::scope(|scope| {
        let ask = |daemon: &Daemon| {
            let name = daemon.name.clone();
            let ask = move || in_words(page, &name, TIMEOUT, Group::Own);
            // With Builder, an exhausted thread limit makes the answer "not ready" instead of a panic.
            thread::Builder::new().spawn_scoped(scope, ask)
        };
        let all = page.status.daemons.iter().zip(&page.plans);
        let is_asked = |daemon: &Daemon, plan: &Plan| !plan.is_oneshot && daemon.state == DaemonState::Running;
        let probes: Vec<_> = all.map(|(daemon, plan)| is_asked(daemon, plan).then(|| ask(daemon))).collect();
        let no_thread = || Err(Printable::new("it couldn't be asked: no more threads"));
        let answer = |probe: thread::ScopedJoinHandle<'_, _>| probe.join().unwrap_or_else(|_| no_thread());
        probes.into_iter().map(|asked| asked.map(|probe| probe.map_or_else(|_| no_thread(), answer))).collect()
    })
}

/// When a probe must end, and how long it has in all.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    fn left(self) -> Option<Duration> {
        self.at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    fn is_over(self, of: &impl Display) -> String {
        format!("no answer from {of} within {:?}", self.timeout)
    }
}

fn connect(addr: SocketAddr, deadline: Deadline) -> Result<TcpStream, String> {
    TcpStream::connect_timeout(&addr, at_least_a_moment(deadline.timeout)).map_err(|e| match e.kind() {
        ErrorKind::ConnectionRefused => format!("connection refused on {addr}"),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => deadline.is_over(&addr),
        _ => format!("cannot connect to {addr}: {e}"),
    })
}

/// Never zero, which `connect_timeout` would refuse.
fn at_least_a_moment(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}

/// How much of the rest of an answer is read before the connection is closed, in bytes, and for how long.
const MAX_REST: u64 = 64 << 10;
const REST_TIMEOUT: Duration = Duration::from_millis(200);

/// Sends a `GET` and returns the status code. Only the answer's status line counts.
fn http(addr: SocketAddr, path: &str, deadline: Deadline) -> Result<u16, String> {
    let mut stream = connect(addr, deadline)?;
    let url = format!("http://{addr}{path}");
    let left = || deadline.left().ok_or_else(|| deadline.is_over(&url));
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => deadline.is_over(&url),
        _ => format!("no answer from {url}: {e}"),
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: sidecar\r\nConnection: close\r\n\r\n");
    stream.set_write_timeout(Some(left()?)).map_err(failed)?;
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let no_http = || format!("the answer from {url} is not HTTP");
    let mut answer = [0_u8; 12];
    let mut filled = 0;
    // "HTTP/1.1 200": twelve bytes are enough, and a server may send them one at a time.
    while let Some(rest) = answer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        stream.set_read_timeout(Some(left()?)).map_err(failed)?;
        match stream.read(rest).map_err(failed)? {
            0 => return Err(no_http()),
            n => filled += n,
        }
    }
    // Closing a connection with unread bytes resets it (tcp(7)), and servers log that as an error.
    let rest_timeout = deadline.left().map_or(REST_TIMEOUT, |left| left.min(REST_TIMEOUT));
    stream.set_read_timeout(Some(rest_timeout)).map_err(failed)?;
    let _ = std::io::copy(&mut stream.take(MAX_REST), &mut std::io::sink());
    let line = std::str::from_utf8(&answer).ok().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..));
    line.and_then(|code| code.parse().ok()).ok_or_else(no_http)
}

/// Checks that the command exits 0 in time.
fn exec(words: &[String], confined: &[String], group: Group, deadline: Deadline) -> Result<(), String> {
    let cut = |word: &String| word.chars().take(SHOWN).collect::<String>();
    let more = if words.len() > 2 { " ..." } else { "" };
    let name = format!("`{}{more}`", words.iter().take(2).map(cut).collect::<Vec<_>>().join(" "));
    let (status, said) = match command::run(confined, group, || deadline.left().is_some()) {
        command::Ended::Exited(status, _) if status.success() => return Ok(()),
        command::Ended::Exited(status, said) => (status, said),
        command::Ended::Stopped => return Err(format!("{name} did not end within {:?}", deadline.timeout)),
        command::Ended::NotRun(e) => return Err(format!("cannot execute {name}: {e}")),
    };
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "failed".to_owned(),
    };
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
    Err(last.map_or_else(|| format!("{name} {how}"), |last| format!("{name} {how}: {last}")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn plan(ready: Option<Ready>) -> Plan {
        Plan { ready, notified: false, settle_ms: 0, grace_ms: 0, is_oneshot: false, is_set_up: false, config: None }
    }

    fn is_ready(plan: &Plan, timeout: Duration) -> bool {
        ask(plan, timeout, Group::Own).is_ok()
    }

    /// A server that answers each connection with `answer`, then closes it.
    fn serve(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 512]);
                let _ = stream.write_all(answer);
            }
        });
        addr
    }

    fn http_ready(answer: &'static [u8]) -> bool {
        is_ready(&plan(Some(Ready::Http { addr: serve(answer), path: "/health".to_owned() })), TIMEOUT)
    }

    #[test]
    fn http_is_ready_from_200_to_399() {
        assert!(http_ready(b"HTTP/1.1 200 OK\r\n\r\n"));
        assert!(http_ready(b"HTTP/1.0 399\r\n\r\n"));
        assert!(!http_ready(b"HTTP/1.1 400 Bad\r\n\r\n"));
        assert!(!http_ready(b"HTTP/1.1 199 \r\n\r\n"));
        assert!(!http_ready(b"SSH-2.0-OpenSSH_9.2\r\n"));
        assert!(!http_ready(b"HTTP/1.1"));
    }

    #[test]
    fn a_probe_reads_the_whole_answer_so_that_the_server_sees_no_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ready = Some(Ready::Http { addr: listener.local_addr().unwrap(), path: "/".to_owned() });
        let probe = thread::spawn(move || is_ready(&plan(ready), TIMEOUT));
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 512]).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        stream.write_all(&[b'x'; 4096]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(probe.join().unwrap());
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_server_that_says_nothing_is_not_ready_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let timeout = Duration::from_millis(50);
        assert!(!is_ready(&plan(Some(Ready::Http { addr, path: "/".to_owned() })), timeout));
        assert!(is_ready(&plan(Some(Ready::Tcp(addr))), timeout));
        // An address of this test's own: another's port that was let go may be taken by the next test.
        let gone = TcpListener::bind("127.9.8.7:0").unwrap().local_addr().unwrap();
        // A child that another test forks meanwhile holds it too, until its exec.
        let is_gone = || !is_ready(&plan(Some(Ready::Tcp(gone))), timeout);
        assert!((0..100).any(|_| is_gone() || {
            thread::sleep(Duration::from_millis(10));
            false
        }));
    }

    #[test]
    fn a_command_probe_that_takes_too_long_is_killed_with_its_children() {
        let exec = |script: &str, ms| {
            let command = ["sh", "-c", script].map(str::to_owned).to_vec();
            is_ready(&plan(Some(Ready::Exec(command))), Duration::from_millis(ms))
        };
        assert!(exec("exit 0", 5000));
        assert!(!exec("exit 1", 5000));
        let before = Instant::now();
        assert!(!exec("sleep 60 & wait", 50));
        assert!(before.elapsed() < Duration::from_secs(30));
        assert!(!is_ready(&plan(Some(Ready::Exec(vec!["/nowhere".to_owned()]))), TIMEOUT));
    }

    #[test]
    fn notify_is_told_by_the_page_and_nothing_stated_is_ready() {
        assert!(is_ready(&plan(None), TIMEOUT));
        assert!(!is_ready(&plan(Some(Ready::Notify)), TIMEOUT));
        assert!(is_ready(&Plan { notified: true, ..plan(Some(Ready::Notify)) }, TIMEOUT));
    }

    #[test]
    fn what_keeps_a_daemon_from_being_ready_is_told_in_a_few_words() {
        let why = |ready| ask(&plan(Some(ready)), Duration::from_secs(5), Group::Own).unwrap_err();
        let exec = |words: &[&str]| why(Ready::Exec(words.iter().map(|word| (*word).to_owned()).collect()));
        // An address of this test's own: another's port that was let go may be taken by the next test.
        let gone = TcpListener::bind("127.9.8.6:0").unwrap().local_addr().unwrap();
        assert_eq!(why(Ready::Tcp(gone)), format!("connection refused on {gone}"));
        let addr = serve(b"HTTP/1.1 503 no\r\n\r\n");
        assert_eq!(why(Ready::Http { addr, path: "/up".to_owned() }), format!("HTTP 503 from http://{addr}/up"));
        let addr = serve(b"SSH-2.0-OpenSSH_9.2\r\n");
        assert_eq!(
            why(Ready::Http { addr, path: "/".to_owned() }),
            format!("the answer from http://{addr}/ is not HTTP")
        );
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = silent.local_addr().unwrap();
        let plan_of_silent = plan(Some(Ready::Http { addr, path: "/".to_owned() }));
        let why_silent = ask(&plan_of_silent, Duration::from_millis(50), Group::Own).unwrap_err();
        assert_eq!(why_silent, format!("no answer from http://{addr}/ within 50ms"));
        assert_eq!(why(Ready::Notify), "it has not said READY=1");
        assert_eq!(exec(&["sh", "-c", "echo a; echo last >&2; echo; exit 128"]), "`sh -c ...` exited 128: last");
        assert_eq!(exec(&["false"]), "`false` exited 1");
        assert_eq!(exec(&["sh", "-c", "kill -9 $$"]), "`sh -c ...` was killed by signal 9");
        assert_eq!(exec(&["/nowhere"]), "cannot execute `/nowhere`: No such file or directory (os error 2)");
        let sleep = plan(Some(Ready::Exec(vec!["sleep".to_owned(), "60".to_owned()])));
        assert_eq!(
            ask(&sleep, Duration::from_millis(50), Group::Own).unwrap_err(),
            "`sleep 60` did not end within 50ms"
        );
    }
}
