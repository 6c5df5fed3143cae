//! Warnings about sandboxes that are valid but would surprise you later.

use std::path::Path;

use sidecar::table::{Daemon, Ready, Table};

use super::explain::quoted;

/// Where a program without a slash in its name is looked for, unless PATH says otherwise.
const USUAL_PATH: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

pub fn warnings(table: &Table) -> Vec<String> {
    let each = |daemon| hidden_programs(table, daemon).into_iter().chain(port_it_cant_bind(daemon));
    table.daemons.iter().flat_map(each).collect()
}

/// Programs that this daemon needs but another daemon hides from it.
fn hidden_programs(table: &Table, daemon: &Daemon) -> Vec<String> {
    if daemon.sandbox.is_none() {
        return Vec::new();
    }
    let probe = if let Some(Ready::Exec(command)) = &daemon.ready { Some(command) } else { None };
    let checker = daemon.config.as_ref().and_then(|config| config.check.as_ref());
    let commands = [("command", Some(&daemon.command)), ("ready.exec", probe), ("config.check", checker)];
    let hidden = || {
        table
            .daemons
            .iter()
            .filter(|other| other.name != daemon.name)
            .flat_map(|other| other.own_paths().map(move |path| (other, path)))
    };
    let warning = |(key, command): (&str, Option<&Vec<String>>)| {
        let program = command?.first()?;
        let (other, path) = hidden().find(|(_, path)| hides(daemon, path, program))?;
        Some(format!(
            "{key} of {:?} is {}, but {} is private to {:?}, so {:?} can't execute what is in it; keep private files apart from programs",
            daemon.name,
            quoted(program),
            quoted(&path.display().to_string()),
            other.name,
            daemon.name
        ))
    };
    commands.into_iter().filter_map(warning).collect()
}

/// Whether the hidden path contains the program, and the daemon doesn't name that path, or a part of it with the program, itself.
fn hides(daemon: &Daemon, hidden: &Path, program: &str) -> bool {
    let own = |program: &Path| daemon.own_paths().any(|own| own.starts_with(hidden) && program.starts_with(own));
    let is_hidden = |program: &Path| program.starts_with(hidden) && !own(program);
    if program.contains('/') {
        is_hidden(Path::new(program))
    } else {
        USUAL_PATH.iter().any(|directory| is_hidden(&Path::new(directory).join(program)))
    }
}

/// Warns if the probe asks a port that the sandbox doesn't let the daemon bind.
fn port_it_cant_bind(daemon: &Daemon) -> Option<String> {
    let (Ready::Tcp(addr) | Ready::Http { addr, .. }) = daemon.ready.as_ref()? else { return None };
    let bind = daemon.sandbox.as_ref()?.bind.as_ref()?;
    let port = addr.port();
    let is_allowed = bind.contains(&port) || daemon.listen.iter().any(|held| held.port() == port);
    (!is_allowed).then(|| {
        format!(
            "ready of {:?} asks port {port}, which its sandbox doesn't let it bind, so it never becomes ready; add {port} to bind",
            daemon.name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        warnings(&Table::parse(text, "test").unwrap())
    }

    #[test]
    fn a_program_in_what_is_private_to_another_is_warned_of() {
        let with = |command: &str, keys: &str, private: &str| {
            of(&format!(
                "[[daemon]]\nname='a'\ncommand=['{command}']\n{keys}\n\
                 [[daemon]]\nname='b'\ncommand=['/b']\n[daemon.sandbox]\nprivate=['{private}']\n"
            ))
        };
        let told = |key: &str, program: &str, private: &str| {
            format!(
                "{key} of \"a\" is {program}, but {private} is private to \"b\", so \"a\" can't execute what is in it; keep \
                 private files apart from programs"
            )
        };
        let sandbox = "[daemon.sandbox]";
        assert_eq!(with("/usr/bin/git", sandbox, "/usr/bin"), [told("command", "/usr/bin/git", "/usr/bin")]);
        assert_eq!(with("git", sandbox, "/usr/bin"), [told("command", "git", "/usr/bin")]);
        assert_eq!(with("git", sandbox, "/usr"), [told("command", "git", "/usr")]);
        let others = "ready={exec=['/opt/probe']}\nconfig={path='/c/c', check=['/opt/check', '{}']}\n[daemon.sandbox]";
        assert_eq!(
            with("/a", others, "/opt"),
            [told("ready.exec", "/opt/probe", "/opt"), told("config.check", "/opt/check", "/opt")]
        );
        for (command, keys, private) in [
            // Nothing is hidden from one without a sandbox.
            ("/usr/bin/git", "", "/usr/bin"),
            ("/usr/bin/git", sandbox, "/usr/bin/gi"),
            ("/usr/bin/git", "[daemon.sandbox]\nwrite=[]\nprivate=['/usr/bin']", "/usr/bin"),
            ("/opt/a/run", "[daemon.sandbox]\nwrite=[]\nprivate=['/opt/a']", "/opt"),
            ("git", sandbox, "/opt"),
        ] {
            assert_eq!(with(command, keys, private), Vec::<String>::new(), "{command} {keys} {private}");
        }
        // Its own `private` elsewhere doesn't help.
        assert_eq!(with("/opt/run", "[daemon.sandbox]\nwrite=[]\nprivate=['/opt/a']", "/opt").len(), 1);
    }

    #[test]
    fn a_ready_port_that_the_daemon_may_not_bind_is_warned_of() {
        let with = |keys: &str| of(&format!("[[daemon]]\nname='a'\ncommand=['a']\n{keys}\n"));
        let told = "ready of \"a\" asks port 80, which its sandbox doesn't let it bind, so it never becomes ready; add 80 to bind";
        assert_eq!(with("ready={tcp='127.0.0.1:80'}\n[daemon.sandbox]\nbind=[81]"), [told]);
        assert_eq!(with("ready={http='http://127.0.0.1:80/'}\n[daemon.sandbox]\nbind=[]"), [told]);
        for quiet in [
            "ready={tcp='127.0.0.1:80'}",
            "ready={tcp='127.0.0.1:80'}\n[daemon.sandbox]\nconnect=[]",
            "ready={tcp='127.0.0.1:80'}\n[daemon.sandbox]\nbind=[80]",
            "ready={http='http://127.0.0.1:80/'}\nlisten=[{tcp='0.0.0.0:80'}]\n[daemon.sandbox]\nbind=[]",
            "ready={notify=true}\n[daemon.sandbox]\nbind=[]",
        ] {
            assert_eq!(with(quiet), Vec::<String>::new(), "{quiet}");
        }
    }
}
