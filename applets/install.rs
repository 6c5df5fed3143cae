//! `--install`: a link for each applet.
//!
//! It makes all links or none: it looks for files that are in the way before it makes the first link.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::out;

/// What must be done for one name.
enum Todo {
    /// Nothing: it is there.
    Nothing,
    Create,
    /// A link to an older sidecar is there.
    Replace,
}

/// Links each name in `directory` to this program.
pub fn run(directory: &Path, names: impl Iterator<Item = &'static str>) -> ExitCode {
    match install(directory, names) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            out::error(&format!("sidecar: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn install(directory: &Path, names: impl Iterator<Item = &'static str>) -> Result<(), String> {
    let program =
        std::env::current_exe().map_err(|e| format!("cannot find this program's own file: {e}; no link was made"))?;
    if !program.exists() {
        let program = program.display();
        return Err(format!(
            "{program}, which the links would point to, is gone; no link was made; run the installed one"
        ));
    }
    if !directory.is_dir() {
        return Err(format!("{} is not a directory; no link was made; create it first", directory.display()));
    }
    let mut todo = Vec::new();
    let mut in_the_way = Vec::new();
    for path in names.map(|name| directory.join(name)) {
        match look(&path, &program) {
            Ok(Some(what)) => todo.push((path, what)),
            Ok(None) => in_the_way.push(path.display().to_string()),
            Err(e) => return Err(format!("cannot look at {}: {e}; no link was made", path.display())),
        }
    }
    if !in_the_way.is_empty() {
        let files = in_the_way.join(", ");
        return Err(format!(
            "{files}: not a link to sidecar; no link was made; move it away or choose another directory"
        ));
    }
    for (path, what) in todo {
        let done = match what {
            Todo::Nothing => Ok(()),
            Todo::Create => symlink(&program, &path),
            Todo::Replace => replace(&program, &path),
        };
        done.map_err(|e| format!("cannot make {}: {e}; the links before it were made", path.display()))?;
    }
    Ok(())
}

/// What must be done for this path; `None` if the file there isn't ours.
fn look(path: &Path, program: &Path) -> io::Result<Option<Todo>> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Some(Todo::Create)),
        Err(e) => return Err(e),
    };
    if !there.is_symlink() {
        // The program itself may lie here under an applet's name.
        let same = fs::canonicalize(path)? == fs::canonicalize(program)?;
        return Ok(same.then_some(Todo::Nothing));
    }
    let points_to = fs::read_link(path)?;
    if points_to == program {
        return Ok(Some(Todo::Nothing));
    }
    Ok(is_sidecar(&points_to, program).then_some(Todo::Replace))
}

/// Whether a link is one of ours, judged by the name that it points to, since an older program may be gone.
fn is_sidecar(points_to: &Path, program: &Path) -> bool {
    let Some(name) = points_to.file_name() else { return false };
    let version = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    Some(name) == program.file_name()
        || name.to_str().is_some_and(|n| n == "sidecar" || n.strip_prefix("sidecar-").is_some_and(version))
}

/// Replaces a link in one step, so that the name never disappears: it may be an image's entrypoint.
fn replace(program: &Path, path: &Path) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".sidecar-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    symlink(program, &beside)?;
    fs::rename(&beside, path).inspect_err(|_| drop(fs::remove_file(&beside)))
}
