//! Each of examples/, built and run as its README says. `scripts/test` builds the image that they take the binary from, and runs this.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "what another test file needs of the containers")]

mod containers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use containers::{Container, Dir, binary, docker, said, scratch_image, unique, wait_until};

/// Images are built and removed one at a time: with an image go layers that a build at the same time may have found in the
/// cache, and docker's classic builder then fails ("unknown parent image ID").
static IMAGES: Mutex<()> = Mutex::new(());

/// An image of the test's own, gone with it.
struct Image(String);

impl Drop for Image {
    fn drop(&mut self) {
        let _alone = IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
        said(Command::new("docker").args(["image", "rm", "--force", &self.0]));
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn build(name: &str) -> Image {
    let image = Image(format!("{}:{name}", unique("example")));
    let sidecar = format!("SIDECAR_IMAGE={}", scratch_image());
    let path = example(name).display().to_string();
    let base = "BASE_IMAGE=sidecar-base:bookworm";
    let _alone = IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
    // --network=host: as scripts/lib.sh has it.
    docker(&["build", "--network=host", "--tag", &image.0, "--build-arg", &sidecar, "--build-arg", base, &path]);
    image
}

fn run(image: &Image, options: &[&str]) -> Container {
    let hardened = ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none", "--no-healthcheck"];
    Container::run(&[&hardened[..], options].concat(), &image.0, &[]).ready()
}

/// What the command prints inside of it.
fn inside(container: &Container, command: &[&str]) -> String {
    let (code, out, err) = container.try_exec(command);
    assert_eq!(code, 0, "{command:?}: {out}{err}");
    out
}

fn fetch(container: &Container, address: &str, data: &str) -> String {
    const PROGRAM: &str = "import sys, urllib.request; \
                           print(urllib.request.urlopen(sys.argv[1], sys.argv[2].encode() or None).read().decode(), end='')";
    inside(container, &["python3", "-c", PROGRAM, address, data])
}

fn pid(container: &Container, daemon: &str) -> u64 {
    container.daemon(daemon)["pid"].as_u64().unwrap()
}

#[test]
fn the_web_app_serves_restarts_alone_and_takes_a_new_nginx_conf() {
    let image = build("web");
    let container = run(&image, &[]);
    let address = "http://127.0.0.1:8080/";
    assert_eq!(container.daemon("migrate")["state"], "done");
    assert_eq!(fetch(&container, address, "hello"), "queued as job 1\n");
    wait_until("the job's end", || (fetch(&container, address, "") == "0 queued, 1 done\n").then_some(()));

    let (nginx, worker) = (pid(&container, "nginx"), pid(&container, "worker"));
    let live = inside(&container, &["/proc/1/exe", "restart", "app"]);
    assert!(live.starts_with("live: app was restarted"), "{live}");
    assert_eq!(fetch(&container, address, ""), "0 queued, 1 done\n");
    assert_eq!((pid(&container, "nginx"), pid(&container, "worker")), (nginx, worker));

    let conf = std::fs::read_to_string(example("web").join("nginx.conf")).unwrap();
    let dir = Dir::new();
    let apply = |name: &str, text: &str| {
        let file = dir.write(name, text);
        said(Command::new(binary()).args(["apply", "--daemon=nginx", "--file"]).arg(file).arg(&container.name))
    };
    let (code, out, err) = apply("bad.conf", &conf.replace("worker_processes", "worker_process"));
    assert!(code == 1 && err.contains("worker_process"), "{out}{err}");
    assert_eq!(pid(&container, "nginx"), nginx);
    let (code, out, err) =
        apply("new.conf", &conf.replace("listen 8080;", "listen 8080; location = /new { return 200 new; }"));
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(fetch(&container, "http://127.0.0.1:8080/new", ""), "new");
}

#[test]
fn the_table_that_was_a_supervisord_conf_runs_the_same_programs() {
    let before = std::fs::read_to_string(example("supervisord").join("supervisord.conf")).unwrap();
    let mut names: Vec<_> =
        before.lines().filter_map(|line| line.strip_prefix("[program:")?.strip_suffix(']')).collect();
    let image = build("supervisord");
    let capabilities =
        ["SETUID", "SETGID", "KILL", "CHOWN", "NET_BIND_SERVICE"].map(|name| format!("--cap-add={name}"));
    let container = run(&image, &capabilities.each_ref().map(String::as_str));
    let pids = container.pids();
    let mut after: Vec<_> = pids.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    after.sort_unstable();
    assert_eq!(after, names);
    wait_until("report", || container.log().contains("[report] served: the answer").then_some(()));
    let web = pid(&container, "web");
    let live = inside(&container, &["/proc/1/exe", "restart", "api"]);
    assert!(live.starts_with("live: api was restarted"), "{live}");
    assert_eq!(pid(&container, "web"), web);
}

#[test]
fn the_bundle_from_scratch_serves_with_a_read_only_root() {
    let image = build("scratch");
    let container = run(&image, &["--read-only", "--tmpfs=/www:uid=1000"]);
    let page = || inside(&container, &["/bin/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/now"]);
    let first = page();
    assert!(first.contains("UTC"), "{first}");
    wait_until("another second", || (page() != first).then_some(()));
    let layers = docker(&["image", "inspect", "--format", "{{.Size}}", &image.0]);
    assert!(layers.parse::<u64>().unwrap() < 10_000_000, "{layers} bytes");
}

/// What stands in the manifest as `command: [...]`, in the order of the containers.
fn commands(manifest: &str) -> Vec<Vec<String>> {
    let lines = manifest.lines().filter_map(|line| line.trim().strip_prefix("command: "));
    lines.map(|list| serde_json::from_str(list).unwrap()).collect()
}

/// Docker in place of a cluster: the init container, then the container, with the pod's mounts and restrictions.
#[test]
fn the_pod_seeds_its_nginx_conf_and_takes_a_new_one() {
    let manifest = std::fs::read_to_string(example("kubernetes").join("pod.yaml")).unwrap();
    let [seed, main] = commands(&manifest).try_into().unwrap();
    let image = build("web");
    let (config_map, conf, data) = (Dir::new(), Dir::new(), Dir::new());
    let text = std::fs::read_to_string(example("web").join("nginx.conf")).unwrap();
    config_map.write("nginx.conf", &text);
    let restricted =
        ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none", "--user=1000:1000"];
    let mut seeding = Command::new("docker");
    seeding.args(["run", "--rm"]).args(restricted).args([&config_map.at("/seed"), &conf.at("/conf")]);
    let (code, out, err) = said(seeding.arg(format!("--entrypoint={}", seed[0])).arg(&image.0).args(&seed[1..]));
    assert_eq!(code, 0, "{out}{err}");

    let mounts = [conf.at("/etc/web"), data.at("/var/lib/web"), format!("--entrypoint={}", main[0])];
    let mut options: Vec<&str> = restricted.into_iter().chain(["--no-healthcheck", "--tmpfs=/tmp"]).collect();
    options.extend(mounts.iter().map(String::as_str));
    let container = Container::run(&options, &image.0, &[]).ready();
    let app = pid(&container, "app");
    let file =
        config_map.write("new.conf", &text.replace("listen 8080;", "listen 8080; location = /new { return 200 new; }"));
    let (code, out, err) =
        said(Command::new(binary()).args(["apply", "--daemon=nginx", "--file"]).arg(file).arg(&container.name));
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(fetch(&container, "http://127.0.0.1:8080/new", ""), "new");
    assert_eq!(pid(&container, "app"), app);
}
