//! What the error messages of docker, podman, nerdctl and kubectl mean. A message is judged as a whole, but only a part of a
//! long one is shown. No I/O.

use super::docker::CallError;
use super::engine::Engine;
use crate::change::reason::Reason;
use crate::text::Printable;

/// What a phrase in an error message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// No process of the container runs any more.
    Dead,
    /// It doesn't run, or it is paused; `inspect` can tell which.
    NotUp,
    /// The container or its engine can't be reached, so nothing was done there.
    Away,
    /// The client's connection broke, or one behind it. The call may have taken effect.
    Broken,
    /// kubectl's connection broke before anything was executed.
    Unbegun,
}

/// The phrases of docker 20 to 29, podman 4 and 5, nerdctl 2 and kubectl up to 1.36, in lower case. The test below has the sentences
/// that they come from.
const PHRASES: [(&str, Means); 30] = [
    ("no such container", Means::Dead),
    ("no container with", Means::Dead),
    ("is not running", Means::Dead),
    ("no running task found", Means::Dead),
    ("cannot exec in a stopped state", Means::Dead),
    ("cannot exec in a deleted state", Means::Dead),
    ("error from server (notfound)", Means::Dead),
    ("container not found", Means::Dead),
    ("in a completed pod", Means::Dead),
    ("container state improper", Means::NotUp),
    ("is paused", Means::NotUp),
    ("cannot exec in a paused state", Means::NotUp),
    ("is restarting", Means::Away),
    ("cannot connect to", Means::Away),
    ("failed to connect to the docker api", Means::Away),
    ("unable to connect to podman", Means::Away),
    ("cannot access containerd socket", Means::Away),
    ("unable to connect to the server", Means::Away),
    ("the connection to the server", Means::Away),
    ("error from server (forbidden)", Means::Away),
    ("error: you must be logged in", Means::Away),
    ("error during connect", Means::Broken),
    ("error sending request", Means::Broken),
    ("unexpected eof", Means::Broken),
    ("connection reset by peer", Means::Broken),
    ("i/o timeout", Means::Broken),
    ("tls handshake timeout", Means::Broken),
    ("error dialing backend", Means::Unbegun),
    ("error from server", Means::Unbegun),
    ("unable to upgrade connection", Means::Unbegun),
];

/// The whole error output of a call, without its log lines.
#[derive(Clone, Debug, Default)]
pub struct Complaint(String);

impl Complaint {
    pub fn new(stderr: &[u8]) -> Self {
        let all = String::from_utf8_lossy(stderr);
        let said: Vec<&str> = all.lines().filter(|line| !is_log(line)).collect();
        // If there is nothing but log lines, they are better than nothing.
        if said.iter().all(|line| line.trim().is_empty()) { Self(all.into_owned()) } else { Self(said.join("\n")) }
    }

    pub fn is_empty(&self) -> bool {
        self.0.trim().is_empty()
    }

    /// The part that people are shown.
    pub fn words(&self) -> Printable {
        Printable::new(&self.0)
    }

    pub fn says(&self, phrases: &[&str]) -> bool {
        let lower = self.0.to_lowercase();
        phrases.iter().any(|phrase| lower.contains(phrase))
    }

    fn means(&self, any_of: &[Means]) -> bool {
        let lower = self.0.to_lowercase();
        PHRASES.iter().any(|(phrase, means)| any_of.contains(means) && lower.contains(phrase))
    }

    /// Whether no process of the container runs any more.
    pub fn is_dead(&self) -> bool {
        self.means(&[Means::Dead])
    }

    /// Whether the engine can't be reached, or refused this call. It may be able to answer later.
    pub fn is_away(&self) -> bool {
        !self.is_dead() && (self.means(&[Means::Away]) || self.is_broken())
    }

    /// Whether the container can't be reached, so that nothing was done there.
    pub fn is_gone(&self) -> bool {
        self.means(&[Means::Dead, Means::NotUp, Means::Away])
    }

    /// Whether the connection broke, perhaps in the middle.
    pub fn is_broken(&self) -> bool {
        self.means(&[Means::Broken, Means::Unbegun])
    }

    /// Whether it is certain that nothing was executed there.
    pub fn never_began(&self) -> bool {
        self.is_gone() || self.means(&[Means::Unbegun])
    }
}

/// Whether a line belongs to a program's log and isn't an error message: a line of klog, like `E1127 22:37:45.580133    2054
/// memcache.go:265] ...`, or one of logrus below level error, like `time="2026-11-27T22:37:45Z" level=warning msg="..."`. (nerdctl's
/// error messages have that form too, with level=fatal.)
fn is_log(line: &str) -> bool {
    let line = line.trim_start();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit() || b":.".contains(&b));
    let mut words = line.split_whitespace();
    let head = [words.next(), words.next(), words.next(), words.next()];
    let is_klog = match head {
        [Some(day), Some(time), Some(thread), Some(place)] => {
            let day = day.strip_prefix(['I', 'W', 'E', 'F']);
            day.is_some_and(|day| day.len() == 4 && is_number(day))
                && is_number(time)
                && is_number(thread)
                && place.ends_with(']')
        }
        _ => false,
    };
    let is_below_error =
        |line: &str| ["debug", "info", "warning"].iter().any(|l| line.contains(&format!(" level={l} ")));
    is_klog || line.starts_with("time=") && is_below_error(line)
}

/// The reason for a call that failed before anything was sent.
pub fn call_failed(engine: &Engine, what: &str, e: &CallError) -> Reason {
    match e {
        CallError::Spawn(e) => Reason::NoProgram {
            program: Printable::from_bytes(engine.program.as_encoded_bytes()),
            words: Printable::new(&e.to_string()),
        },
        CallError::Left => Reason::Interrupted,
        CallError::TimedOut => {
            Reason::CallFailed { call: Printable::new(what), words: Printable::new("it gave no answer in time") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sentences as they were printed (nerdctl's: as its code has them), by whom, and what they mean.
    const SAID: &[(&str, &str, Means)] = &[
        ("docker 20 to 29", "Error response from daemon: No such container: b1", Means::Dead),
        ("docker 20", "Error response from daemon: Cannot kill container: b1: No such container: b1", Means::Dead),
        ("docker 20 to 29", "Error response from daemon: Container c4489ab2 is not running", Means::Dead),
        (
            "docker 28",
            "Error response from daemon: cannot kill container: b1: container c896 is not running",
            Means::Dead,
        ),
        (
            "docker 20 to 29",
            "Error response from daemon: Container b1 is paused, unpause the container before exec",
            Means::NotUp,
        ),
        (
            "docker 28",
            "Error response from daemon: Container bca7 is restarting, wait until the container is running",
            Means::Away,
        ),
        (
            "docker 20 to 28",
            "Cannot connect to the Docker daemon at unix:///nowhere. Is the docker daemon running?",
            Means::Away,
        ),
        (
            "docker 29",
            "failed to connect to the docker API at unix:///nowhere; check if the path is correct and if the daemon is \
             running: dial unix /nowhere: connect: no such file or directory",
            Means::Away,
        ),
        (
            "docker 20 to 29",
            "error during connect: Post \"http://docker.example.com/v1.56/containers/w/kill\": command [ssh -- far docker system \
             dial-stdio] has exited with exit status 255: stderr=ssh: connect to host far port 22: Connection refused",
            Means::Broken,
        ),
        (
            "docker 20",
            "error during connect: Get \"https://far:2376/v1.41/info\": net/http: TLS handshake timeout",
            Means::Broken,
        ),
        ("podman 4 and 5", "Error: no container with name or ID \"b1\" found: no such container", Means::Dead),
        (
            "podman 4 and 5",
            "Error: can only create exec sessions on running containers: container state improper",
            Means::NotUp,
        ),
        (
            "podman 5",
            "Error: can only kill running containers. b7abebd2 is in state exited: container state improper",
            Means::NotUp,
        ),
        (
            "podman 4 and 5",
            "Cannot connect to Podman. Please verify your connection to the Linux system using `podman system connection list`\n\
             Error: unable to connect to Podman socket: Get \"http://d/v5.8.6/libpod/_ping\": dial unix /nowhere: connect: no such \
             file or directory: unix:///nowhere",
            Means::Away,
        ),
        ("nerdctl 2", "time=\"2026-11-28T07:00:00Z\" level=fatal msg=\"no such container b1\"", Means::Dead),
        (
            "nerdctl 2",
            "level=fatal msg=\"1 errors:\\ncannot kill container 0123: container is not running\"",
            Means::Dead,
        ),
        ("nerdctl 2", "level=fatal msg=\"no running task found: task 0123 not found: not found\"", Means::Dead),
        ("nerdctl 2", "level=fatal msg=\"cannot exec in a stopped state\"", Means::Dead),
        ("nerdctl 2", "level=fatal msg=\"cannot exec in a deleted state\"", Means::Dead),
        ("nerdctl 2", "level=fatal msg=\"cannot exec in a paused state\"", Means::NotUp),
        (
            "nerdctl 2",
            "level=fatal msg=\"cannot access containerd socket \\\"/run/containerd/containerd.sock\\\": no such file or directory\"",
            Means::Away,
        ),
        ("kubectl", "Error from server (NotFound): pods \"b1\" not found", Means::Dead),
        ("kubectl", "error: unable to upgrade connection: container not found (\"bundle\")", Means::Dead),
        ("kubectl", "error: cannot exec into a container in a completed pod; current phase is Succeeded", Means::Dead),
        ("kubectl", "Unable to connect to the server: dial tcp: lookup far: no such host", Means::Away),
        (
            "kubectl 1.36",
            "E1128 07:17:10.978985    2060 memcache.go:265] \"Unhandled Error\" err=\"couldn't get current server API group list: Get \
             \\\"http://localhost:8080/api?timeout=32s\\\": dial tcp [::1]:8080: connect: connection reset by peer\"\n\
             The connection to the server localhost:8080 was refused - did you specify the right host or port?",
            Means::Away,
        ),
        (
            "kubectl",
            "Error from server (Forbidden): pods \"b1\" is forbidden: User \"me\" cannot create resource",
            Means::Away,
        ),
        ("kubectl", "error: You must be logged in to the server (Unauthorized)", Means::Away),
        ("kubectl", "error: error sending request: Post \"https://far/exec\": EOF", Means::Broken),
        ("kubectl", "error: websocket: close 1006 (abnormal closure): unexpected EOF", Means::Broken),
        ("kubectl", "error: read tcp 10.0.0.1:4->10.0.0.2:443: read: connection reset by peer", Means::Broken),
        ("kubectl", "error: read tcp 10.0.0.1:4->10.0.0.2:443: i/o timeout", Means::Broken),
        (
            "kubectl",
            "Error from server: error dialing backend: dial tcp 10.0.0.1:10250: connect: no route to host",
            Means::Unbegun,
        ),
        (
            "kubectl",
            "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
            Means::Unbegun,
        ),
        ("kubectl", "error: unable to upgrade connection: pod does not exist", Means::Unbegun),
    ];

    #[test]
    fn what_each_engine_says_is_known() {
        for (by, said, means) in SAID {
            let it = Complaint::new(said.as_bytes());
            let is_away = it.means(&[Means::Away]) && !it.is_dead();
            let is = match means {
                Means::Dead => it.is_dead(),
                Means::NotUp => it.means(&[Means::NotUp]) && it.is_gone() && !it.is_dead(),
                Means::Away => is_away && it.is_gone(),
                Means::Broken => it.is_broken() && !it.never_began(),
                Means::Unbegun => it.is_broken() && it.never_began() && !it.is_gone(),
            };
            assert!(is, "{by}: {said}");
        }
        let all = SAID.iter().map(|(_, said, _)| Complaint::new(said.as_bytes()).0.to_lowercase()).collect::<String>();
        let phrases = PHRASES.iter().map(|(phrase, _)| phrase);
        let unused: Vec<_> = phrases.filter(|phrase| !all.contains(**phrase)).collect();
        assert!(unused.is_empty(), "said by nobody: {unused:?}");
    }

    #[test]
    fn a_programs_own_log_is_left_out_unless_it_said_nothing_else() {
        let log =
            "E1127 22:37:45.580133    2054 memcache.go:265] \"Unhandled Error\" err=\"unexpected EOF\"\n".repeat(20);
        let refused = "The connection to the server far:6443 was refused - did you specify the right host or port?";
        let complaint = Complaint::new((log.clone() + refused).as_bytes());
        assert_eq!(complaint.words().as_str(), refused);
        assert!(complaint.is_gone() && !complaint.is_broken());
        assert!(Complaint::new(log.as_bytes()).is_broken());
        let warned = "time=\"2026-11-28T07:00:00Z\" level=warning msg=\"is paused\"\nError: no such container";
        assert_eq!(Complaint::new(warned.as_bytes()).words().as_str(), "Error: no such container");
        for said in ["E1127 is a container that is paused", "Error: x]", "", "time=1 level=fatal msg=\"is paused\""] {
            assert_eq!(Complaint::new(said.as_bytes()).0, said);
        }
    }

    #[test]
    fn a_complaint_is_judged_by_all_of_it_though_little_is_shown() {
        let long =
            [&b"x".repeat(1000)[..], b"Error response from daemon: No such container: b1", &b"y".repeat(1000)].concat();
        let complaint = Complaint::new(&long);
        assert!(complaint.is_dead() && complaint.is_gone() && complaint.never_began() && !complaint.is_broken());
        assert!(!complaint.words().as_str().contains("No such"), "{}", complaint.words());
    }
}
