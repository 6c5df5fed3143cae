//! The `sd_notify` socket: whose word counts, and who asks it for the status.

use serde_json::Value;

use super::faults::Strace;
use super::harness::stat;
use super::{Bundle, Setup};

/// beta is to say that it is ready, and never does. It ends once DIR/go is there.
const SILENT: &str = r#"
grace = "30s"
[[daemon]]
name = "alpha"
command = ["sleep", "1000"]
[[daemon]]
name = "beta"
ready = { notify = true }
command = ["perl", "-e", '''
    $SIG{TERM} = sub { $asked = 1 }; open F, ">DIR/up"; sleep 1 until $asked; select undef, undef, undef, 0.01 until -e "DIR/go"''']
[signals]
USR1 = { restart = "beta" }
"#;

/// A process of init's pid namespace that has this script run by perl, and its output.
fn inside(bundle: &Bundle, script: &str) -> String {
    String::from_utf8(bundle.inside(&["perl", "-MSocket", "-e", script]).output().unwrap().stdout).unwrap()
}

/// Says READY=1 in a process that has ended when this returns; the next process to be started gets its pid.
pub fn ready_from_the_next_pid(bundle: &Bundle) -> i32 {
    let socket = bundle.page()["socket"].as_str().unwrap().replace('@', "");
    let say = "socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die; send($s, 'READY=1', 0, pack_sockaddr_un(chr(0) . q(SOCKET))) or die; print $$";
    let pid: i32 = inside(bundle, &say.replace("SOCKET", &socket)).parse().unwrap();
    inside(bundle, &format!("open F, '>/proc/sys/kernel/ns_last_pid'; print F {}", pid - 1));
    pid
}

fn restarting() -> Bundle {
    let bundle = Setup::new(SILENT).start();
    bundle.wait_for_generation(1, 1);
    bundle.wait_until("beta's handler", || bundle.dir.join("up").exists());
    bundle.signal("USR1");
    bundle.wait_until("a stop", || bundle.daemon(1)["state"] == "stopping");
    bundle
}

/// The process of beta's that was to end has ended, and isn't reaped.
fn wait_for_a_zombie(bundle: &Bundle) {
    bundle.wait_until("beta's end", || bundle.children().iter().any(|pid| stat(*pid, 3).as_deref() == Some("Z")));
}

/// Whether beta is taken for ready, once it runs; `None` if another process got the pid before it did.
fn is_notified(bundle: &Bundle, pid: i32) -> Option<bool> {
    bundle.wait_for_generation(1, 2);
    // Whatever the socket held has been served.
    bundle.signal("USR2");
    bundle.wait_for("err", "SIGUSR2");
    (bundle.daemon(1)["pid"] == pid).then(|| bundle.page()["plans"][1]["notified"] == true)
}

#[test]
fn a_message_read_before_its_pid_became_a_daemons_does_not_count() {
    for _ in 0..5 {
        let bundle = restarting();
        bundle.signal("STOP");
        bundle.wait_until("a stopped init", || stat(bundle.pid(), 3).as_deref() == Some("T"));
        // Both wait for init: the word, and the end that brings the replacement.
        bundle.write("go", "");
        wait_for_a_zombie(&bundle);
        let pid = ready_from_the_next_pid(&bundle);
        bundle.signal("CONT");
        if let Some(notified) = is_notified(&bundle, pid) {
            return assert!(!notified);
        }
    }
    panic!("beta never got the pid");
}

#[test]
fn a_message_that_waits_when_its_pid_becomes_a_daemons_does_not_count() {
    // More and more time for what is done meanwhile: a loaded machine takes long.
    for seconds in [2, 2, 5, 15, 45] {
        let bundle = restarting();
        let delay = ["--trace=waitid".to_owned(), format!("--inject=waitid:delay_enter={seconds}s:when=2")];
        let strace = Strace::attach(&bundle, &delay);
        bundle.write("go", "");
        // init has read the socket, and is about to reap beta and to start it again.
        wait_for_a_zombie(&bundle);
        bundle.wait_until("the second look, which reaps it", || bundle.read("trace").matches("waitid(").count() == 2);
        let pid = ready_from_the_next_pid(&bundle);
        bundle.wait_for_generation(1, 2);
        strace.detach();
        if let Some(notified) = is_notified(&bundle, pid) {
            return assert!(!notified);
        }
    }
    panic!("beta never got the pid");
}

#[test]
fn a_daemons_message_is_not_lost_when_another_daemon_starts() {
    let table = SILENT.replace("name = \"alpha\"\n", "name = \"alpha\"\nready = { notify = true }\n");
    let says = r#"command = ["perl", "-MSocket", "-e", '''
        $n = $ENV{NOTIFY_SOCKET}; $n =~ s/^@/\0/; $SIG{HUP} = sub { socket S, PF_UNIX, SOCK_DGRAM, 0;
        send S, "READY=1", 0, pack_sockaddr_un($n); open F, ">DIR/said" }; open F, ">DIR/alpha-is-up"; sleep 1 while 1''']"#;
    let bundle = Setup::new(&table.replace(r#"command = ["sleep", "1000"]"#, says)).start();
    bundle.wait_until("alpha's handler", || bundle.dir.join("alpha-is-up").exists());
    bundle.wait_for_generation(1, 1);
    bundle.write("go", "");
    let delay = ["--trace=waitid".to_owned(), "--inject=waitid:delay_enter=2s:when=2".to_owned()];
    let strace = Strace::attach(&bundle, &delay);
    bundle.signal("USR1");
    bundle.wait_until("the second look, which reaps it", || bundle.read("trace").matches("waitid(").count() == 2);
    let alpha = bundle.daemon(0)["pid"].as_i64().unwrap();
    inside(&bundle, &format!("kill HUP => {alpha}"));
    bundle.wait_until("alpha's word", || bundle.dir.join("said").exists());
    bundle.wait_until("READY=1", || bundle.page()["plans"][0]["notified"] == true);
    strace.detach();
}

/// alpha asks for the status with sockets of several names, the kernel's choice last, and writes the answers down.
const ASKS: &str = r#"
[[daemon]]
name = "alpha"
command = ["perl", "-MSocket", "-MFcntl", "-e", '''
    my $name = $ENV{NOTIFY_SOCKET}; $name =~ s/^@/\0/;
    my @names = (pack_sockaddr_un("DIR/path"), pack_sockaddr_un("\0mine1"), pack_sockaddr_un("\0abcde0"), pack_sockaddr_un("\0ABCDE"), pack("S", AF_UNIX));
    my @all = map { socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die; bind($s, $_) or die "$!"; $s } @names;
    for my $s (@all) { send($s, "STATUS?\n", 0, pack_sockaddr_un($name)); send($s, "STATUS?", 0, pack_sockaddr_un($name)) or die }
    my $mine = pop @all; recv($mine, my $answer, 1 << 20, 0);
    my $others = grep { defined recv($_, my $a, 1 << 20, MSG_DONTWAIT) } @all;
    my $again = defined recv($mine, my $a, 1 << 20, MSG_DONTWAIT) ? 1 : 0;
    open(my $f, ">", "DIR/answer.new"); print $f "$others $again\n$answer";
    close($f); rename("DIR/answer.new", "DIR/answer"); sleep 1000''']
[[daemon]]
name = "beta"
command = ["sleep", "1000"]
[signals]
USR1 = { restart = "beta" }
"#;

#[test]
fn the_socket_answers_a_status_request_with_the_public_document() {
    let bundle = Setup::new(ASKS).start();
    bundle.wait_for("answer", "\n{");
    let answer = bundle.read("answer");
    let (counts, text) = answer.split_once('\n').unwrap();
    // Nobody else was answered, and nothing but those seven bytes asks.
    assert_eq!(counts, "0 0");
    let told: Value = serde_json::from_str(text).unwrap();
    assert_eq!((&told["schema"], &told["pid"], &told["state"]), (&1.into(), &1.into(), &"running".into()));
    assert_eq!(told["daemons"][0]["name"], "alpha");
    // Ages, not points of the clock.
    assert!(told["daemons"][0]["uptime_ms"].as_u64().unwrap() < 60_000, "{told}");
    let (_, shown, _) = bundle.status(&["--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let keys = |document: &Value| document["daemons"][0].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&told), keys(&shown));
}

/// alpha asks with many sockets and reads no answer, then asks with one more and writes down whose answer it gets.
const MANY_ASK: &str = r#"
[[daemon]]
name = "alpha"
command = ["python3", "-c", '''
import os, signal, socket, struct
name = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
def asker():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind("")
    return s
stuck = [asker() for _ in range(300)]
for s in stuck * 3: s.sendto(b"STATUS?", name)
mine = asker()
mine.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
mine.settimeout(0.2)
while True:
    mine.sendto(b"STATUS?", name)
    try: text, [(_, _, who)], _, _ = mine.recvmsg(1 << 20, 64)
    except TimeoutError: continue
    break
open("DIR/answer.new", "w").write("%d\n%s" % (struct.unpack("iII", who)[0], text.decode()))
os.rename("DIR/answer.new", "DIR/answer")
signal.pause()
''']
"#;

#[test]
fn a_client_that_reads_no_answer_takes_none_from_the_others() {
    let bundle = Setup::new(MANY_ASK).start();
    bundle.wait_for("answer", "\n{");
    let answer = bundle.read("answer");
    let (sender, text) = answer.split_once('\n').unwrap();
    let told: Value = serde_json::from_str(text).unwrap();
    assert_eq!((sender, &told["daemons"][0]["name"]), ("1", &"alpha".into()));
}

#[test]
fn a_flood_of_status_requests_delays_no_signal() {
    let asks = r#"socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die; bind($s, pack("S", AF_UNIX)) or die;
        for (1 .. 100_000_000) { send($s, "STATUS?", 0, pack_sockaddr_un($name)) }"#;
    let from = ASKS.find("    my @names").unwrap();
    let to = ASKS.find("'''").map(|at| ASKS[at + 3..].find("'''").unwrap() + at + 3).unwrap();
    let mut bundle = Setup::new(&[&ASKS[..from], asks, &ASKS[to..]].concat()).start();
    bundle.wait_for_generation(1, 1);
    for generation in 2..7 {
        bundle.signal("USR1");
        bundle.wait_for_generation(1, generation);
    }
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
}
