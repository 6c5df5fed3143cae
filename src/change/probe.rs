//! Asks a daemon whether it is ready, the way its table entry says. Each probe ends by its deadline.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::holders::Past;
use super::reason::Shortfall;
use super::{command, proof};
use crate::status::{Daemon, DaemonState, Page, Plan};
use crate::table::Ready;

/// How long `status --ready` asks a daemon.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a daemon that runs is ready, and no other process has answered in its place. One that states no `ready` is so while it
/// runs. `past` is what ran before the restart that is to be proven.
///
/// # Errors
/// What is missing.
pub fn ready(page: &Page, daemon: &str, timeout: Duration, past: &Past) -> Result<(), Shortfall> {
    let Some((_, plan)) = proof::find(page, daemon) else { return Err(Shortfall::NotReady) };
    if !answers(plan, timeout) {
        return Err(Shortfall::NotReady);
    }
    past.stranger(page, daemon).map_or(Ok(()), Err)
}

fn answers(plan: &Plan, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    match &plan.ready {
        None => true,
        Some(Ready::Notify) => plan.notified,
        Some(Ready::Tcp(addr)) => TcpStream::connect_timeout(addr, at_least_a_moment(timeout)).is_ok(),
        Some(Ready::Http { addr, path }) => http(*addr, path, deadline).is_some_and(|code| (200..400).contains(&code)),
        Some(Ready::Exec(command)) => exec(command, deadline),
    }
}

/// For each daemon of the page, in its order: whether it runs and is ready. All are asked side by side.
#[must_use]
pub fn all(page: &Page) -> Vec<bool> {
    thread::scope(|scope| {
        let ask = |daemon: &Daemon| {
            let (name, runs) = (daemon.name.clone(), daemon.state == DaemonState::Running);
            let ask = move || ready(page, &name, TIMEOUT, &Past::default()).is_ok();
            // Builder: an exhausted thread limit makes an answer "not ready", not a panic.
            runs.then(|| thread::Builder::new().spawn_scoped(scope, ask).ok()).flatten()
        };
        let probes: Vec<_> = page.status.daemons.iter().map(ask).collect();
        probes.into_iter().map(|probe| probe.is_some_and(|p| p.join().unwrap_or(false))).collect()
    })
}

/// `connect_timeout` refuses a time-out of zero.
fn at_least_a_moment(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}

fn left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// How much of an answer's rest is read before the connection is closed, in bytes, and for how long.
const MAX_REST: u64 = 64 << 10;
const REST_TIMEOUT: Duration = Duration::from_millis(200);

/// The status code of a `GET`. Of the answer only the status line counts.
fn http(addr: SocketAddr, path: &str, deadline: Instant) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&addr, left(deadline)?).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: sidecar\r\nConnection: close\r\n\r\n");
    stream.set_write_timeout(Some(left(deadline)?)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = [0_u8; 64];
    let mut filled = 0;
    // "HTTP/1.1 200": twelve bytes tell, and a server may send them one at a time.
    while filled < 12 {
        stream.set_read_timeout(Some(left(deadline)?)).ok()?;
        match stream.read(answer.get_mut(filled..)?) {
            Ok(0) | Err(_) => return None,
            Ok(n) => filled += n,
        }
    }
    let line = std::str::from_utf8(answer.get(..12)?).ok()?;
    // To close what has unread bytes resets the connection (tcp(7)), and servers log that as an error of theirs.
    stream.set_read_timeout(Some(left(deadline).map_or(REST_TIMEOUT, |left| left.min(REST_TIMEOUT)))).ok()?;
    let _ = std::io::copy(&mut stream.take(MAX_REST), &mut std::io::sink());
    line.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok()
}

/// Whether the command exits 0 in time.
fn exec(words: &[String], deadline: Instant) -> bool {
    let ended = command::run(words, false, || left(deadline).is_some());
    matches!(ended, command::Ended::Exited(status, _) if status.success())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn plan(ready: Option<Ready>) -> Plan {
        Plan { ready, notified: false, settle_ms: 0, grace_ms: 0, is_oneshot: false, config: None }
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
        answers(&plan(Some(Ready::Http { addr: serve(answer), path: "/health".to_owned() })), TIMEOUT)
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
        let probe = thread::spawn(move || answers(&plan(ready), TIMEOUT));
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
        assert!(!answers(&plan(Some(Ready::Http { addr, path: "/".to_owned() })), timeout));
        assert!(answers(&plan(Some(Ready::Tcp(addr))), timeout));
        // An address of this test's own: another's port that was let go may be taken by the next test.
        let gone = TcpListener::bind("127.9.8.7:0").unwrap().local_addr().unwrap();
        assert!(!answers(&plan(Some(Ready::Tcp(gone))), timeout));
    }

    #[test]
    fn a_command_is_ready_by_its_exit_code_and_killed_with_its_children_at_the_end_of_its_time() {
        let exec = |script: &str, ms| {
            let command = ["sh", "-c", script].map(str::to_owned).to_vec();
            answers(&plan(Some(Ready::Exec(command))), Duration::from_millis(ms))
        };
        assert!(exec("exit 0", 5000));
        assert!(!exec("exit 1", 5000));
        let before = Instant::now();
        assert!(!exec("sleep 60 & wait", 50));
        assert!(before.elapsed() < Duration::from_secs(30));
        assert!(!answers(&plan(Some(Ready::Exec(vec!["/nowhere".to_owned()]))), TIMEOUT));
    }

    #[test]
    fn notify_is_told_by_the_page_and_nothing_stated_is_ready() {
        assert!(answers(&plan(None), TIMEOUT));
        assert!(!answers(&plan(Some(Ready::Notify)), TIMEOUT));
        assert!(answers(&Plan { notified: true, ..plan(Some(Ready::Notify)) }, TIMEOUT));
    }
}
