//! What an engine's command line looks like: docker's, and where podman's or nerdctl's is another one. No I/O.

use std::ffi::OsString;
use std::path::Path;

use super::identify;
use crate::table::Signal;

/// The label that a bundle's image or container carries.
pub const LABEL: &str = "sidecar.schema";

/// One engine: the program that reaches it, and which of those that the program knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// `docker`, or what the environment names.
    pub program: OsString,
    /// The context that it is told; `None`: its own default.
    pub context: Option<String>,
}

impl Engine {
    fn is_podman(&self) -> bool {
        Path::new(&self.program).file_name().is_some_and(|name| name == "podman")
    }

    fn command(&self, words: &[&str]) -> Vec<String> {
        let option = if self.is_podman() { "--connection" } else { "--context" };
        let context = self.context.iter().flat_map(|name| [option, name]);
        context.chain(words.iter().copied()).map(str::to_owned).collect()
    }

    /// Prints the full ids of the running containers that carry [`LABEL`] and these labels, one a line.
    #[must_use]
    pub fn list(&self, labels: &[String]) -> Vec<String> {
        let mut command = self.command(&["ps", "--quiet", "--no-trunc", "--filter", "status=running"]);
        for label in [LABEL].into_iter().chain(labels.iter().map(String::as_str)) {
            command.extend(["--filter".to_owned(), format!("label={label}")]);
        }
        command
    }

    /// Prints what [`identify::identify`] reads.
    #[must_use]
    pub fn inspect(&self, names: &[String]) -> Vec<String> {
        let mut command = self.command(&["inspect", "--type", "container", "--format", identify::FORMAT]);
        command.extend(names.iter().cloned());
        command
    }

    /// Runs an applet of the bundle's own binary in it, and is talked to.
    #[must_use]
    pub fn exec(&self, id: &str, applet: &str) -> Vec<String> {
        self.command(&["exec", "-i", id, "/proc/1/exe", applet])
    }

    /// Signals the bundle's init. A real-time signal is told by its number: docker has names for half of them.
    #[must_use]
    pub fn kill(&self, id: &str, signal: Signal) -> Vec<String> {
        let name = match signal {
            Signal::Fixed(_) => signal.to_string(),
            Signal::RealTime(_) => signal.number().to_string(),
        };
        self.command(&["kill", "--signal", &name, id])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_by_a_name_that_every_engine_knows_or_by_its_number() {
        let engine = Engine { program: "docker".into(), context: None };
        for (name, told) in [("HUP", "HUP"), ("WINCH", "WINCH"), ("RTMIN+0", "34"), ("RTMIN+30", "64")] {
            let command = engine.kill("b1", Signal::from_name(name).unwrap());
            assert_eq!(command, ["kill", "--signal", told, "b1"]);
        }
    }
}
