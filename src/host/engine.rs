//! The command lines of docker, and how those of podman, nerdctl and kubectl differ. No I/O.

use std::ffi::OsString;
use std::path::Path;

use crate::table::Signal;

/// PID 1's own program.
pub const PID_1_EXE: &str = "/proc/1/exe";
/// The label of a bundle's image, container or pod.
pub const LABEL: &str = "sidecar.schema";

/// The `inspect` format: one JSON object a line for each container. It has only the fields that are judged, so that no container is
/// too big.
const FORMAT: &str = concat!(
    // `.ID`, since podman doesn't have `.Id` here, as the JSON calls it.
    r#"{"id":{{json .ID}},"name":{{json .Name}},"path":{{json .Path}},"state":{{json .State.Status}},"#,
    r#""host":{"PidMode":{{json .HostConfig.PidMode}},"Init":{{json .HostConfig.Init}}},"#,
    r#""schema":{{json (index .Config.Labels "sidecar.schema")}},"stop_signal":{{json .Config.StopSignal}}}"#
);
/// The format for an engine that doesn't have all of these fields. A missing field breaks the template, so this one asks for the
/// whole `HostConfig`.
const WHOLE_FORMAT: &str = concat!(
    r#"{"id":{{json .ID}},"name":{{json .Name}},"path":{{json .Path}},"state":{{json .State.Status}},"#,
    r#""host":{{json .HostConfig}},"schema":{{json (index .Config.Labels "sidecar.schema")}}}"#
);

/// The format for nerdctl, which shows a container's pid namespace only in its native mode.
const NATIVE_FORMAT: &str = r#"{"id":{{json .ID}},"spec":{{json .Spec}}}"#;
/// The first and the last real-time signal, as the engines count them.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// One engine: the program that reaches it, and its context if the program knows several engines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// `docker`, or what the environment names; `kubectl`.
    pub program: OsString,
    /// The context; `None` for the program's default.
    pub context: Option<String>,
    /// What its command line looks like.
    pub kind: Kind,
}

/// A kind of command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// docker's, which podman and nerdctl have too.
    Docker,
    /// kubectl's.
    Kubectl {
        /// The namespace; `None` for the context's own.
        namespace: Option<String>,
        /// The container named by `-c`, if any.
        container: Option<String>,
    },
}

/// How the engine is told which bundle is meant. It is different for each bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleRef {
    /// The full id.
    Container(String),
    /// kubectl takes only names.
    Pod {
        /// An identifier that no later container of that name has.
        id: String,
        /// The pod's name.
        pod: String,
        /// The container's.
        container: String,
    },
}

impl Engine {
    /// The program's name, as people know it.
    #[must_use]
    pub fn name(&self) -> String {
        let name = Path::new(&self.program).file_name().unwrap_or(&self.program);
        name.to_string_lossy().into_owned()
    }

    /// Whether its bundles are pods.
    #[must_use]
    pub fn is_kubectl(&self) -> bool {
        matches!(self.kind, Kind::Kubectl { .. })
    }

    fn command(&self, words: &[&str]) -> Vec<String> {
        let option = if self.name() == "podman" { "--connection" } else { "--context" };
        let context = self.context.iter().map(|name| format!("{option}={name}"));
        let namespace = match &self.kind {
            Kind::Kubectl { namespace: Some(namespace), .. } => Some(format!("--namespace={namespace}")),
            Kind::Kubectl { .. } | Kind::Docker => None,
        };
        context.chain(namespace).chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    /// Prints the full ids of the running containers that have [`LABEL`] and these labels, one a line.
    #[must_use]
    pub fn list(&self, labels: &[String]) -> Vec<String> {
        let mut command = self.command(&["ps", "--quiet", "--no-trunc", "--filter", "status=running"]);
        for label in [LABEL].into_iter().chain(labels.iter().map(String::as_str)) {
            command.extend(["--filter".to_owned(), format!("label={label}")]);
        }
        command
    }

    /// Prints what [`identify`](super::identify::identify) reads. `whole` is for an engine that complained about the format
    /// ([`is_about_format`]).
    #[must_use]
    pub fn inspect(&self, names: &[String], whole: bool) -> Vec<String> {
        let format = if whole { WHOLE_FORMAT } else { FORMAT };
        let mut command = self.command(&["inspect", "--type", "container", "--format", format]);
        command.extend(names.iter().cloned());
        command
    }

    /// Prints what [`has_own_pids`](super::identify::has_own_pids) reads; for nerdctl.
    #[must_use]
    pub fn inspect_natively(&self, id: &str) -> Vec<String> {
        self.command(&["inspect", "--type", "container", "--mode", "native", "--format", NATIVE_FORMAT, id])
    }

    /// Prints the pods of these names.
    #[must_use]
    pub fn pods(&self, names: &[String]) -> Vec<String> {
        let mut command = self.command(&["get", "pods", "--output=json"]);
        command.extend(names.iter().cloned());
        command
    }

    /// Prints the running pods that have [`LABEL`] and match these selectors.
    #[must_use]
    pub fn pods_by_label(&self, selectors: &[String]) -> Vec<String> {
        let all: Vec<&str> = [LABEL].into_iter().chain(selectors.iter().map(String::as_str)).collect();
        let selector = format!("--selector={}", all.join(","));
        self.command(&["get", "pods", "--output=json", "--field-selector=status.phase=Running", &selector])
    }

    /// Runs an applet in the bundle, with stdin connected. `program` is sidecar's path there.
    #[must_use]
    pub fn exec(&self, place: &BundleRef, program: &str, applet: &str) -> Vec<String> {
        match place {
            BundleRef::Container(id) => self.command(&["exec", "-i", id, program, applet]),
            BundleRef::Pod { pod, container, .. } => {
                let container = format!("--container={container}");
                self.command(&["exec", "--stdin", pod, &container, "--", program, applet])
            }
        }
    }

    /// Signals the bundle's init. `None` for kubectl, which can't; the helper inside does it.
    #[must_use]
    pub fn kill(&self, place: &BundleRef, signal: Signal) -> Option<Vec<String>> {
        let name = name_of(signal);
        match place {
            BundleRef::Container(id) => Some(self.command(&["kill", "--signal", &name, id])),
            BundleRef::Pod { .. } => None,
        }
    }
}

/// The engines' name for a signal. They count the upper half of the real-time signals down from the last one. nerdctl takes no
/// numbers.
fn name_of(signal: Signal) -> String {
    match (signal, signal.number()) {
        (Signal::Fixed(_), _) => signal.to_string(),
        (_, RTMIN) => "RTMIN".to_owned(),
        (_, RTMAX) => "RTMAX".to_owned(),
        (_, number) if number <= RTMIN + 15 => format!("RTMIN+{}", number - RTMIN),
        (_, number) => format!("RTMAX-{}", RTMAX - number),
    }
}

/// Whether `inspect` complains about a field of the format. This phrase comes from Go's templates.
#[must_use]
pub fn is_about_format(stderr: &[u8]) -> bool {
    String::from_utf8_lossy(stderr).contains(": executing \"")
}

/// Whether the engine that complains like this is nerdctl, which has docker's fields in a type of its own.
#[must_use]
pub fn is_nerdctl(stderr: &[u8]) -> bool {
    String::from_utf8_lossy(stderr).contains("dockercompat.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_by_a_name_that_every_engine_knows() {
        let engine = Engine { program: "docker".into(), context: None, kind: Kind::Docker };
        let b1 = BundleRef::Container("b1".to_owned());
        for (name, told) in [
            ("HUP", "HUP"),
            ("WINCH", "WINCH"),
            ("RTMIN+0", "RTMIN"),
            ("RTMIN+15", "RTMIN+15"),
            ("RTMIN+16", "RTMAX-14"),
            ("RTMIN+29", "RTMAX-1"),
            ("RTMIN+30", "RTMAX"),
        ] {
            let command = engine.kill(&b1, Signal::from_name(name).unwrap()).unwrap();
            assert_eq!(command, ["kill", "--signal", told, "b1"]);
        }
    }

    #[test]
    fn context_and_namespace_are_spelled_as_each_program_wants_them() {
        let engine = |program: &str, kind| Engine { program: program.into(), context: Some("far".to_owned()), kind };
        let container = BundleRef::Container("0123".to_owned());
        let exec = |option: &str| [option, "exec", "-i", "0123", "/proc/1/exe", "helper"].map(str::to_owned);
        assert_eq!(engine("docker", Kind::Docker).exec(&container, PID_1_EXE, "helper"), exec("--context=far"));
        assert_eq!(
            engine("/usr/bin/podman", Kind::Docker).exec(&container, PID_1_EXE, "helper"),
            exec("--connection=far")
        );
        let pod = BundleRef::Pod { id: "0123".to_owned(), pod: "p".to_owned(), container: "c".to_owned() };
        let kubectl = engine("kubectl", Kind::Kubectl { namespace: Some("n".to_owned()), container: None });
        let words =
            ["--context=far", "--namespace=n", "exec", "--stdin", "p", "--container=c", "--", "/proc/1/exe", "helper"];
        assert_eq!(kubectl.exec(&pod, PID_1_EXE, "helper"), words);
        assert_eq!((kubectl.kill(&pod, Signal::USR1), kubectl.kill(&container, Signal::USR1).is_some()), (None, true));
    }
}
