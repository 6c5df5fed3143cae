//! The commands of README and docs/, run as they are printed. What they take from a registry is replaced: the images
//! under test, and one made of this machine's busybox. Names are replaced by those of the test's own containers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

#[path = "../containers/mod.rs"]
#[allow(dead_code, reason = "not every test program needs all of it")]
mod containers;
mod pages;

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::Command;

use containers::{Container, Dir, SIDECAR, docker, image, said, scratch_image, unique, wait_until};
use pages::{blocks, read, root};

/// An image, gone with its handle.
struct Image(String);

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["image", "rm", "--force", &self.0]).output();
    }
}

/// Runs it as a reader's shell does, in `directory`, with the applets on PATH.
fn shell(script: &str, directory: &Path) -> String {
    let bin = directory.join("bin");
    fs::create_dir_all(&bin).unwrap();
    assert_eq!(said(Command::new(SIDECAR).arg("--install").arg(&bin)).0, 0);
    let _ = symlink(SIDECAR, bin.join("sidecar"));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let (_, out, err) =
        said(Command::new("bash").args(["-c", &format!("set -x\n{script}")]).env("PATH", path).current_dir(directory));
    out + &err
}

/// Busybox with its applets, as the official image has them.
fn busybox() -> Image {
    let image = Image(unique("busybox"));
    let dir = Dir::new();
    let script = format!(
        "mkdir -p root/bin root/tmp && cp \"$(command -v busybox)\" root/bin/busybox \
         && for applet in $(busybox --list); do [ $applet = busybox ] || ln -s busybox root/bin/$applet; done \
         && tar -C root -c . | docker import --change 'ENV PATH=/sbin:/bin' - {}",
        image.0
    );
    let (code, _, err) = said(Command::new("bash").args(["-c", &script]).current_dir(dir.path()));
    assert_eq!(code, 0, "{err}");
    image
}

#[test]
fn the_readmes_example_does_what_it_says() {
    let (dir, base, demo) = (Dir::new(), busybox(), Image(unique("demo")));
    let container = Container { name: unique("c") };
    let printed = &blocks("README.md", "sh")[0];
    let build = "docker build --target sidecar -t sidecar .\n";
    assert!(printed.starts_with(build), "{printed}");
    let script = printed
        .replace(build, "")
        .replace("FROM busybox", &format!("FROM {}", base.0))
        .replace("--from=sidecar", &format!("--from={}", scratch_image()))
        .replace("-t demo .", &format!("-t {} .", demo.0))
        .replace("--name demo demo", &format!("--name {} {}", container.name, demo.0))
        .replace(" demo:/", &format!(" {}:/", container.name))
        .replace("--file - demo", &format!("--file - {}", container.name))
        .replace("exec demo", &format!("exec {}", container.name));
    let all = shell(&script, dir.path());
    // As far as the page shows each line, but for numbers.
    let without_numbers =
        |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0").replace("00", "0").replace("00", "0");
    let all_said = without_numbers(&all);
    for line in blocks("README.md", "text")[0].lines() {
        let shown = line.split(['…']).next().unwrap().replace("demo: ", &format!("{}: ", container.name));
        assert!(all_said.contains(without_numbers(&shown).trim_end()), "{line}\n{all}");
    }
    assert!(all.contains("clock   running"), "{all}");
}

#[test]
fn the_bundle_pages_commands_bring_up_all_four() {
    let dir = Dir::new();
    let container = Container { name: unique("c") };
    let printed = &blocks("docs/bundle.md", "sh")[0];
    let build = "docker build --target bundle -t sidecar-bundle:local .\n";
    assert!(printed.starts_with(build) && printed.contains("--name bundle"), "{printed}");
    let (egress, git_gate) = (unique("egress"), unique("git-gate"));
    let script = printed
        .replace(build, "")
        .replace("cp bundle/", &format!("cp {}/bundle/", root().display()))
        .replace("--name bundle", &format!("--name {}", container.name))
        .replace("-v egress:", &format!("-v {egress}:"))
        .replace("-v git-gate:", &format!("-v {git_gate}:"))
        .replace("sidecar-bundle:local", &image())
        .replace("docker exec bundle", &format!("docker exec {}", container.name));
    let all = shell(&script, dir.path());
    let container = wait(container);
    assert!(container.pids().len() == 4, "{all}");
    docker(&["rm", "--force", &container.name]);
    docker(&["volume", "rm", &egress, &git_gate]);
}

fn wait(container: Container) -> Container {
    wait_until("bundle", || container.is_running().then_some(()));
    container.ready()
}

#[test]
fn each_command_of_troubleshooting_and_applets_can_be_run() {
    let (dir, config) = (Dir::new(), Dir::new());
    let allowlist = docker(&["run", "--rm", "--entrypoint=cat", &image(), "/etc/sidecar/pipelock/pipelock.yaml"]);
    // As on the page of the bundle: its user owns the file.
    chown(config.write("pipelock.yaml", &allowlist), Some(1000), Some(1000)).unwrap();
    let bundle = Container::bundle(&[&config.at("/etc/sidecar/pipelock")]).ready();
    let new = dir.write("new.yaml", &(allowlist + "\n"));
    dir.write("allowlist.yaml", &fs::read_to_string(&new).unwrap());
    let (page, applets) = (read("docs/troubleshooting.md"), blocks("docs/applets.md", "sh").concat());
    // A fleet's would reach other tests' bundles, and there is no terminal here.
    let is_alone = |line: &&str| !["--all", "--label", "--rollback-all", "-it"].iter().any(|word| line.contains(word));
    let indented = page.lines().filter(|line| line.starts_with("    ")).map(str::trim);
    let commands = applets.lines().filter(is_alone).chain(indented);
    let mut failed = Vec::new();
    for printed in commands {
        let words =
            [("THE-BUNDLE-THAT-FAILED", "BUNDLE"), ("NAME -- COMMAND", "NAME -- true"), ("'[NAME]'", "'[git-gate]'")];
        let mut command = words.iter().fold(printed.to_owned(), |text, (from, to)| text.replace(from, to));
        command = command.replace("BUNDLE", &bundle.name).replace("NAME", "git-gate");
        command = command.replace("NEW", &new.display().to_string());
        let said = shell(&format!("{command}\necho \"it exited $?\""), dir.path());
        // A stopped daemon is no failure of `status`, and git-gate needn't have printed a line yet.
        let is_an_answer = command.contains("status") && said.contains("it exited 1");
        if !said.contains("it exited 0") && !is_an_answer && !command.contains("grep") {
            failed.push(said);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
