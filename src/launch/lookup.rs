//! Finds out whether a program could be executed, without executing it.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{AccessFlags, access};

use super::report::{HEAD, interpreter};
use super::{Environment, NotStarted, Program};

/// Looks for a command's program as a start does, with this process's PATH and user. Its interpreter must be there too.
///
/// # Errors
/// What a start would report, as far as it can be told: only execve(2) itself finds out whether the kernel can run the file.
pub fn look_up(command: &[String]) -> Result<(), NotStarted> {
    let program = Program::new(command, &Environment::new(std::env::vars_os()), Vec::new(), None);
    let refused = |errno| NotStarted::Execute(command.first().cloned().unwrap_or_default(), errno);
    let mut why = Errno::ENOENT;
    for path in &program.paths {
        match executable(path) {
            Ok(()) => return interpreted(path).map_err(|why| why.unwrap_or_else(|| refused(Errno::ENOEXEC))),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(e) => why = e,
        }
    }
    Err(refused(why))
}

fn executable(path: &CStr) -> Result<(), Errno> {
    access(path, AccessFlags::X_OK)?;
    // A directory may be "executable".
    let is_file = Path::new(OsStr::from_bytes(path.to_bytes())).is_file();
    if is_file { Ok(()) } else { Err(Errno::EACCES) }
}

/// The error has no reason if the kernel knows no way to execute such a file: a script without `#!`, for example.
fn interpreted(program: &CStr) -> Result<(), Option<NotStarted>> {
    let path = Path::new(OsStr::from_bytes(program.to_bytes()));
    let mut head = Vec::new();
    let open = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    // A program that can be executed needn't be readable.
    if open.and_then(|file| file.take(HEAD as u64).read_to_end(&mut head)).is_err() {
        return Ok(());
    }
    let Some(interpreter) = interpreter(&head) else {
        // A static program has no interpreter.
        return if head.starts_with(b"\x7fELF") { Ok(()) } else { Err(None) };
    };
    if Path::new(&interpreter).exists() {
        return Ok(());
    }
    Err(Some(NotStarted::NoInterpreter { program: program.to_string_lossy().into_owned(), interpreter }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn why(program: &str) -> String {
        look_up(&[program.to_owned()]).map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn a_program_is_found_or_it_is_told_why_a_start_would_fail() {
        let dir = std::env::temp_dir().join(format!("sidecar-lookup-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = |name: &str, text: &str, mode: u32| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        // The second is a static or a dynamic program, whichever this is.
        for good in ["sh", std::env::current_exe().unwrap().to_str().unwrap(), &file("good", "#!/bin/sh\n", 0o755)] {
            assert_eq!(why(good), "");
        }
        let none = dir.join("none").to_str().unwrap().to_owned();
        for missing in ["sidecar-no-such-program", &none, "/bin/sh/none"] {
            assert_eq!(why(missing), format!("cannot execute {missing:?}: No such file or directory (os error 2)"));
        }
        for refused in [file("plain", "#!/bin/sh\n", 0o644), dir.to_str().unwrap().to_owned()] {
            assert_eq!(why(&refused), format!("cannot execute {refused:?}: Permission denied (os error 13)"));
        }
        let bare = file("bare", "exit 0\n", 0o755);
        assert_eq!(why(&bare), format!("cannot execute {bare:?}: Exec format error (os error 8)"));
        let script = file("script", "#!/no/such\n", 0o755);
        assert_eq!(why(&script), format!("cannot execute {script:?}: its interpreter \"/no/such\" is missing"));
        let windows = file("windows", "#!/bin/sh\r\n", 0o755);
        assert!(why(&windows).ends_with("(the file has Windows line endings)"), "{}", why(&windows));
        fs::remove_dir_all(&dir).unwrap();
    }
}
