//! Finds out from the output of `docker inspect` which of the named containers are bundles. No I/O.

use serde::Deserialize;
use serde_json::Value;

use super::complaint::Complaint;
use super::engine::BundleRef;
use crate::change::reason::Reason;
use crate::text::Printable;

/// Whether a container can have this name, or an id that begins like this.
#[must_use]
pub fn is_possible_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let rest = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    bytes.len() <= 255 && bytes.first().is_some_and(u8::is_ascii_alphanumeric) && bytes.iter().all(rest)
}

/// One container that the caller named, or that a label found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name or id that the caller gave.
    pub asked: String,
    /// Its name, if it exists.
    pub name: Option<String>,
    /// An identifier that no other container has, if it exists.
    pub id: Option<String>,
    /// The path of the program that it was started with, if that is one of ours.
    pub program: Option<String>,
    /// Its STOPSIGNAL, if it doesn't stop init.
    pub stop_signal: Option<Printable>,
    /// How to reach it, or why nothing may be sent to it.
    pub bundle: Result<BundleRef, Reason>,
}

/// The result for each name. `stdout` and `stderr` are those of one `docker inspect` of all names: it prints the containers that it
/// finds in the format of [`Engine::inspect`](super::engine::Engine::inspect), and complains about the others.
#[must_use]
pub fn identify(names: &[String], stdout: &[u8], stderr: &[u8]) -> Vec<Found> {
    let rows: Vec<Row> = stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let found = |name: &String| {
        // In docker's own order: the whole id, the name, the beginning of an id.
        let row = rows.iter().find(|row| row.id == *name);
        let row = row.or_else(|| rows.iter().find(|row| row.name.trim_start_matches('/') == name));
        let row = row.or_else(|| rows.iter().find(|row| row.id.starts_with(name.as_str())));
        Found {
            asked: name.clone(),
            name: row.map(|row| row.name.trim_start_matches('/').to_owned()),
            id: row.map(|row| row.id.clone()),
            program: row.and_then(|row| our_path(&row.path)),
            stop_signal: row.and_then(Row::odd_stop_signal),
            bundle: row.map_or_else(|| Err(missing("inspect", name, stderr)), Row::judge),
        }
    };
    names.iter().map(found).collect()
}

/// Whether a program of this path or name is one of ours.
pub(super) fn is_our_program(program: &str) -> bool {
    matches!(program.rsplit('/').next(), Some("init" | "sidecar"))
}

/// The path, if it is absolute and leads to a program of ours.
pub(super) fn our_path(program: &str) -> Option<String> {
    (program.starts_with('/') && is_our_program(program)).then(|| program.to_owned())
}

/// Whether this path or name is that of an init that engines use for `--init`. Only docker always says that it used one.
fn is_an_engines_init(program: &str) -> bool {
    matches!(program.rsplit('/').next(), Some("docker-init" | "podman-init" | "catatonit" | "tini" | "tini-static"))
}

/// Whether a container has a pid namespace of its own, by what
/// [`Engine::inspect_natively`](super::engine::Engine::inspect_natively) prints of it.
///
/// # Errors
/// It has none, or the engine doesn't say.
pub(super) fn has_own_pids(id: &str, stdout: &[u8]) -> Result<(), Reason> {
    let native = serde_json::from_slice::<Value>(stdout).ok().filter(|native| native["id"] == id);
    let Some(namespaces) = native.as_ref().and_then(|native| native["spec"]["linux"]["namespaces"].as_array()) else {
        return Err(Reason::CallFailed {
            call: Printable::new("inspect --mode native"),
            words: Printable::new("it doesn't say whether the container has a pid namespace of its own"),
        });
    };
    let own = namespaces.iter().find(|namespace| namespace["type"] == "pid");
    let mode = own.map_or("host", |own| own.get("path").map_or("", |path| path.as_str().unwrap_or("?")));
    if mode.is_empty() { Ok(()) } else { Err(Reason::SharesPids { mode: Printable::new(mode) }) }
}

/// Why the call `what` printed nothing for this name.
pub(super) fn missing(what: &'static str, name: &str, stderr: &[u8]) -> Reason {
    let stderr = String::from_utf8_lossy(stderr);
    let words = |line: &str| line.split(|c: char| !c.is_ascii_alphanumeric() && !"_.-".contains(c)).any(|w| w == name);
    // The phrases of docker and kubectl.
    let is_told = |line: &str| line.to_lowercase().contains("no such") || line.contains("(NotFound)");
    match stderr.lines().find(|line| is_told(line) && words(line)) {
        Some(_) => Reason::NoSuch { is_pod: what == "get" },
        None => Reason::CallFailed { call: Printable::new(what), words: Complaint::new(stderr.as_bytes()).words() },
    }
}

#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    name: String,
    path: String,
    state: String,
    host: Host,
    schema: Option<String>,
    /// A signal's name in docker; a number in some versions of podman.
    #[serde(default)]
    stop_signal: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Host {
    pid_mode: Option<String>,
    init: Option<bool>,
}

impl Row {
    fn odd_stop_signal(&self) -> Option<Printable> {
        let told = match &self.stop_signal {
            Value::String(name) => name.to_ascii_uppercase(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        let stops_init = matches!(told.trim_start_matches("SIG"), "" | "TERM" | "INT" | "QUIT" | "15" | "2" | "3");
        (!stops_init).then(|| Printable::new(&told))
    }

    fn judge(&self) -> Result<BundleRef, Reason> {
        if self.id.len() < 12 || !self.id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Reason::CallFailed {
                call: Printable::new("inspect"),
                words: Printable::new(&format!("its id is {:?}", self.id)),
            });
        }
        match self.state.as_str() {
            "running" => {}
            "paused" => return Err(Reason::Paused),
            other => return Err(Reason::NotUp { state: Printable::new(other) }),
        }
        // "private" is how podman spells docker's empty mode.
        if let Some(mode) = self.host.pid_mode.as_deref().filter(|mode| !matches!(*mode, "" | "private")) {
            return Err(Reason::SharesPids { mode: Printable::new(mode) });
        }
        if self.host.init == Some(true) || is_an_engines_init(&self.path) {
            return Err(Reason::DockerInit);
        }
        let labelled = self.schema.as_deref().is_some_and(|schema| !schema.is_empty());
        if labelled || is_our_program(&self.path) {
            Ok(BundleRef::Container(self.id.clone()))
        } else {
            Err(Reason::Stranger { program: Printable::new(&self.path) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// What inspect prints of a running bundle of ours, with one thing changed.
    fn row(from: &str, to: &str) -> String {
        let row = format!(
            r#"{{"id":"{ID}","name":"/b1","path":"/sbin/init","state":"running","host":{{"PidMode":"","Init":null}},"schema":"1"}}"#
        );
        assert!(row.contains(from), "{from}");
        row.replace(from, to) + "\n"
    }

    fn id(place: &Result<BundleRef, Reason>) -> Result<String, Reason> {
        match place {
            Ok(BundleRef::Container(id)) => Ok(id.clone()),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => Err(failure.clone()),
        }
    }

    fn one(stdout: &str) -> Result<String, Reason> {
        let names = ["b1".to_owned()];
        let found = identify(&names, stdout.as_bytes(), b"");
        assert_eq!(found.len(), 1);
        id(&found[0].bundle)
    }

    #[test]
    fn a_bundle_is_recognized_by_its_label_or_its_program() {
        assert_eq!(one(&row("", "")).unwrap(), ID);
        assert_eq!(one(&row("/sbin/init", "sh")).unwrap(), ID);
        assert_eq!(one(&row(r#""1""#, r#""""#)).unwrap(), ID);
        assert_eq!(one(&row(r#""/sbin/init""#, r#""/sidecar""#).replace(r#""1""#, "null")).unwrap(), ID);
        for path in ["sh", "/sbin/preinit", "/sbin/init.sh", ""] {
            let stranger = row("/sbin/init", path).replace(r#""1""#, r#""""#);
            assert_eq!(one(&stranger), Err(Reason::Stranger { program: Printable::new(path) }), "{path}");
        }
    }

    #[test]
    fn what_does_not_run_is_unreachable() {
        assert_eq!(one(&row("running", "paused")), Err(Reason::Paused));
        for state in ["exited", "created", "restarting", "removing", "dead"] {
            assert_eq!(one(&row("running", state)), Err(Reason::NotUp { state: Printable::new(state) }));
        }
    }

    #[test]
    fn no_program_of_a_strangers_pid_1_is_run() {
        assert_eq!(one(&row(r#""Init":null"#, r#""Init":true"#)), Err(Reason::DockerInit));
        assert_eq!(one(&row(r#""Init":null"#, r#""Init":false"#)).unwrap(), ID);
        for path in ["/run/podman-init", "/sbin/tini", "/sbin/docker-init", "/usr/bin/catatonit"] {
            assert_eq!(one(&row("/sbin/init", path)), Err(Reason::DockerInit), "it may go unsaid");
        }
        assert_eq!(one(&row(r#""PidMode":"""#, r#""PidMode":"private""#)).unwrap(), ID);
        for mode in ["host", "container:0123"] {
            let shares = row(r#""PidMode":"""#, &format!(r#""PidMode":"{mode}""#));
            assert_eq!(one(&shares), Err(Reason::SharesPids { mode: Printable::new(mode) }));
        }
    }

    #[test]
    fn of_nerdctl_a_container_has_its_own_pids_only_if_its_spec_says_so() {
        let native =
            |namespaces: &str| format!(r#"{{"id":"{ID}","spec":{{"linux":{{"namespaces":[{namespaces}]}}}}}}"#);
        let judge = |stdout: &str| has_own_pids(ID, stdout.as_bytes());
        assert_eq!(judge(&native(r#"{"type":"mount"},{"type":"pid"}"#)), Ok(()));
        assert_eq!(judge(&native(r#"{"type":"mount"}"#)), Err(Reason::SharesPids { mode: Printable::new("host") }));
        let other = native(r#"{"type":"pid","path":"/proc/7/ns/pid"}"#);
        assert_eq!(judge(&other), Err(Reason::SharesPids { mode: Printable::new("/proc/7/ns/pid") }));
        for untold in ["", "{}", &native("").replace(ID, "0123"), &native("").replace("linux", "windows")] {
            assert!(matches!(judge(untold), Err(Reason::CallFailed { .. })), "{untold}");
        }
    }

    #[test]
    fn the_path_of_a_program_is_known_only_if_it_is_one_of_ours() {
        let path = |path: &str| identify(&["b1".to_owned()], row("/sbin/init", path).as_bytes(), b"").remove(0).program;
        assert_eq!(path("/sbin/init").as_deref(), Some("/sbin/init"));
        assert_eq!(path("/usr/bin/sidecar").as_deref(), Some("/usr/bin/sidecar"));
        assert_eq!((path("init"), path("/bin/sh")), (None, None));
    }

    #[test]
    fn a_stop_signal_that_does_not_stop_init_is_told() {
        for (told, odd) in [
            (r#""SIGUSR1""#, Some("SIGUSR1")),
            (r#""SIGRTMIN+3""#, Some("SIGRTMIN+3")),
            ("28", Some("28")),
            (r#""sigterm""#, None),
            (r#""INT""#, None),
            (r#""SIGQUIT""#, None),
            (r#""""#, None),
            ("15", None),
            ("null", None),
        ] {
            let row = row(r#","schema""#, &format!(r#","stop_signal":{told},"schema""#));
            let found = identify(&["b1".to_owned()], row.as_bytes(), b"");
            assert_eq!(found[0].stop_signal.as_ref().map(Printable::as_str), odd, "{told}");
        }
    }

    #[test]
    fn a_container_is_known_by_its_name_its_id_and_the_beginning_of_that() {
        let names = ["b1", "gone", ID, &ID[..12]].map(str::to_owned);
        let found = identify(&names, row("", "").as_bytes(), b"Error: No such container: gone\n");
        let ids: Vec<_> = found.iter().map(|found| found.id.as_deref()).collect();
        assert_eq!(ids, [Some(ID), None, Some(ID), Some(ID)]);
        assert!(found.iter().all(|found| found.name.as_deref() == found.id.as_ref().map(|_| "b1")), "{found:?}");
        assert_eq!(id(&found[1].bundle), Err(Reason::NoSuch { is_pod: false }));
    }

    #[test]
    fn a_name_goes_before_the_beginning_of_an_id() {
        let other = row(ID, &ID.replace('0', "b")).replace("/b1", "/0123");
        let names = ["0123".to_owned(), "01234".to_owned()];
        let found = identify(&names, (row("", "") + &other).as_bytes(), b"");
        assert_eq!(id(&found[0].bundle), Ok(ID.replace('0', "b")));
        assert_eq!(id(&found[1].bundle), Ok(ID.to_owned()));
    }

    #[test]
    fn what_is_missing_for_another_reason_is_told_in_dockers_words() {
        let names = ["b1".to_owned()];
        let words = "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?";
        let found = identify(&names, b"", words.as_bytes());
        assert_eq!(
            id(&found[0].bundle),
            Err(Reason::CallFailed { call: Printable::new("inspect"), words: Printable::new(words) })
        );
        let found = identify(&names, b"", b"Error: No such container: b12");
        assert!(matches!(id(&found[0].bundle), Err(Reason::CallFailed { .. })));
        let found = identify(&names, b"garbage\n{}\n\xff\n", b"");
        assert!(matches!(id(&found[0].bundle), Err(Reason::CallFailed { .. })));
    }

    #[test]
    fn names_that_no_container_can_have_are_known() {
        for name in ["b1", "A_b.c-d", "0", ID] {
            assert!(is_possible_name(name), "{name}");
        }
        for name in ["", "-b", ".b", "_b", "a/b", "/b1", "a b", "a\n", "b\u{e9}", "--all", &"x".repeat(256)] {
            assert!(!is_possible_name(name), "{name}");
        }
    }
}
