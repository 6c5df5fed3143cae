//! What `check --here` checks in a bundle besides programs and directories: users, variables, and what the kernel can enforce.

use sidecar::launch::sandbox::Kernel;
use sidecar::launch::setup::environment;
use sidecar::launch::setup::users::{Users, what_is_lacking};
use sidecar::status;
use sidecar::table::Table;
use sidecar::table::sandbox::Sandbox;

/// What init would refuse or warn about at its start.
pub fn lacks(table: &Table) -> Vec<String> {
    let all: Vec<usize> = (0..table.daemons.len()).collect();
    let mut warnings: Vec<String> = what_is_lacking(table, &all).into_iter().collect();
    let with_users = || table.daemons.iter().filter_map(|daemon| Some((&daemon.name, daemon.process.user.as_ref()?)));
    if with_users().next().is_some() {
        match Users::read() {
            Ok(users) => warnings.extend(with_users().filter_map(|(name, user)| {
                let why = users.find(user).err()?;
                Some(format!("user of {name:?}: {why}"))
            })),
            Err(why) => warnings.push(why.to_string()),
        }
    }
    for daemon in &table.daemons {
        let read = daemon.process.env_file.as_deref().map(environment::read);
        warnings.extend(read.and_then(Result::err).map(|why| format!("{:?}: {why}", daemon.name)));
    }
    if table.has_sandboxes() {
        let kernel = Kernel::ask();
        warnings.extend(shortfalls(table, |sandbox| kernel.shortfall(sandbox)));
    }
    warnings
}

/// One line for all daemons whose sandboxes lack the same parts.
fn shortfalls(table: &Table, shortfall: impl Fn(&Sandbox) -> status::Sandbox) -> Vec<String> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for daemon in &table.daemons {
        let Some(status::Sandbox { abi, missing, why }) = daemon.sandbox.as_ref().map(&shortfall) else { continue };
        if !missing.is_empty() {
            let why = why.unwrap_or_else(|| format!("the kernel has Landlock {abi}"));
            let what = format!("{} missing ({why})", missing.join(", "));
            let name = format!("{:?}", daemon.name);
            match found.iter_mut().find(|(other, _)| *other == what) {
                Some((_, names)) => names.push(name),
                None => found.push((what, vec![name])),
            }
        }
    }
    let effect = if table.require_sandbox {
        "the table says require_sandbox, so init starts nothing"
    } else {
        "the rest is enforced"
    };
    let line = |(what, names): (String, Vec<String>)| {
        format!("the kernel can't fully enforce the sandbox of {}: {what}; {effect}", names.join(", "))
    };
    found.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_cannot_do_is_told_once_for_all_daemons() {
        let daemon = |name: &str, lines: &str| format!("[[daemon]]\nname='{name}'\ncommand=['a']\n{lines}\n");
        let sandboxed = |name| daemon(name, "[daemon.sandbox]");
        let text = daemon("a", "[daemon.sandbox]\nbind=[80]") + &sandboxed("b") + &daemon("c", "") + &sandboxed("d");
        let told = |top: &str, abi: u32, missing: &[&str]| {
            let table = Table::parse(&format!("{top}\n{text}"), "test").unwrap();
            shortfalls(&table, |sandbox| {
                let tcp = sandbox.bind.as_ref().map(|_| "tcp".to_owned());
                let missing = missing.iter().map(|what| (*what).to_owned()).chain(tcp).collect();
                status::Sandbox { abi, missing, why: (abi == 0).then(|| "it has none".to_owned()) }
            })
        };
        let of = |names: &str, rest: &str| format!("the kernel can't fully enforce the sandbox of {names}: {rest}");
        let enforced = "the rest is enforced";
        assert_eq!(told("", 5, &[]), [of("\"a\"", &format!("tcp missing (the kernel has Landlock 5); {enforced}"))]);
        let nothing = "the table says require_sandbox, so init starts nothing";
        assert_eq!(
            told("require_sandbox=true", 0, &["files"]),
            [
                of("\"a\"", &format!("files, tcp missing (it has none); {nothing}")),
                of("\"b\", \"d\"", &format!("files missing (it has none); {nothing}")),
            ]
        );
    }
}
