//! What must hold of whatever comes from outside. The fuzzers of fuzz/ call these, and so does the runner beside them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Component;

use sidecar::change::proof::{Proof, Trigger, target};
use sidecar::change::reason::Shortfall;
use sidecar::change::record::Record;
use sidecar::host::engine::BundleRef;
use sidecar::host::identify::identify;
use sidecar::init::relay::{LINE_MAX, Sink, Source, Stream};
use sidecar::page;
use sidecar::protocol::{self, Answer, HelperMessage, HostMessage, Reply, Request};
use sidecar::status::Page;
use sidecar::supervisor::select;
use sidecar::table::{
    BUILT_IN, BUILT_IN_NAME, Daemon, MAX_DAEMONS, MAX_DURATION, MAX_LISTEN, MAX_NAME, Output, Process, Ready,
    RestartPolicy, Signal, Table, ULIMITS, Ulimit, User, start_order, stop_order,
};
use sidecar::text::Printable;

/// A table is one that init can run, or an error in a line that is there.
pub fn table(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Table::parse(text, "fuzz") {
        Ok(table) => {
            assert!(!table.daemons.is_empty() && table.daemons.len() <= MAX_DAEMONS);
            for (index, daemon) in table.daemons.iter().enumerate() {
                assert_eq!(table.find(&daemon.name), Some(index), "a second one of that name");
                assert!(daemon.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
                assert!(!daemon.name.starts_with('-') && (1..=MAX_NAME).contains(&daemon.name.len()));
                assert!(daemon.grace <= MAX_DURATION && daemon.settle <= MAX_DURATION);
                let exec = match &daemon.ready {
                    Some(Ready::Exec(command)) => command.as_slice(),
                    _ => &[],
                };
                let check = daemon.config.as_ref().and_then(|config| config.check.as_deref()).unwrap_or_default();
                for command in [&daemon.command, exec, check] {
                    assert!(command.iter().all(|argument| !argument.contains('\0')), "{command:?}");
                    assert!(command.first().is_none_or(|program| !program.is_empty()), "{command:?}");
                }
                assert!(!daemon.command.is_empty());
                assert!(daemon.stop_signal.can_stop() && daemon.ignore.iter().all(|signal| signal.is_ignorable()));
                if daemon.is_oneshot {
                    assert!(daemon.ready.is_none() && daemon.config.is_none() && daemon.listen.is_empty());
                    assert_ne!(daemon.restart, RestartPolicy::Always);
                }
                assert!(check.is_empty() || check.iter().any(|argument| argument.contains("{}")));
                let file = daemon.config.as_ref().map(|config| config.path.as_path());
                assert!(file.is_none_or(|path| path.is_absolute() && path.file_name().is_some()), "{file:?}");
                of_a_process(&daemon.process);
                nothing_is_read_where_it_is_written(daemon, &table);
            }
            no_two_sockets_take_one_connection(&table.daemons);
            in_order(&table, &start_order(&table.daemons), |before, after| after.depends_on.contains(&before));
            in_order(&table, &stop_order(&table.daemons), |before, after| {
                table.daemons[before].depends_on.iter().any(|on| table.daemons[*on].name == after.name)
            });
            for rule in &table.wiring {
                assert!(rule.daemon < table.daemons.len() && rule.signal.is_wireable());
                assert!(!table.daemons[rule.daemon].is_oneshot);
                assert_eq!(Signal::from_number(rule.signal.number()), Some(rule.signal));
                assert_eq!(Signal::from_name(&rule.signal.to_string()), Some(rule.signal));
            }
            assert!(table.wiring.is_sorted_by(|a, b| a.signal < b.signal), "a signal is wired twice");
        }
        Err(error) => {
            let lines = text.bytes().filter(|b| *b == b'\n').count() + 1;
            let is_empty = error.message.starts_with("no daemons");
            assert!(error.line.map_or(is_empty, |line| (1..=lines).contains(&line)), "{error}");
            assert!((1..=420).contains(&error.message.chars().count()), "{error}");
            let is_shown = |c: char| matches!(c, '"' | '\'' | '\\') || c.escape_debug().count() == 1;
            assert!(error.message.chars().all(is_shown), "{error:?}");
        }
    }
}

/// A process that can be made of it, as far as names go.
fn of_a_process(process: &Process) {
    let Process { user, environment, env_file, pass_environment, working_dir, ulimits } = process;
    for name in user.iter().flat_map(|User { user, group }| group.iter().chain([user])) {
        assert!(!name.is_empty() && !name.contains([':', ' ', '\n', '\0']), "{name:?}");
        let is_number = name.chars().all(|c| c.is_ascii_digit());
        assert!(!is_number || name.parse::<u32>().unwrap() < u32::MAX, "{name}");
    }
    assert!(environment.is_sorted_by(|a, b| a.0 < b.0), "{environment:?}");
    for (name, value) in environment {
        assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'), "{name:?}");
        assert!(!name.starts_with("LISTEN_FD") && name != "LISTEN_PID" && name != "NOTIFY_SOCKET");
        assert!(name != "SIDECAR_DAEMON" && name != "SIDECAR_GENERATION");
    }
    for name in pass_environment.iter().flatten() {
        assert!(!name.is_empty() && !name.contains(['=', '\0']), "{name:?}");
        assert!(name.find('*').is_none_or(|at| at + 1 == name.len()), "{name:?}");
    }
    for path in env_file.iter().chain(working_dir) {
        assert!(path.is_absolute() && path.components().all(|part| part != Component::ParentDir), "{}", path.display());
    }
    assert!(env_file.as_ref().is_none_or(|path| path.file_name().is_some()));
    assert!(ulimits.is_sorted_by(|a, b| a.name < b.name), "{ulimits:?}");
    for Ulimit { name, value } in ulimits {
        assert!(ULIMITS.contains(&name.as_str()) && (value.is_some() || name != "nofile"), "{name} {value:?}");
    }
}

/// No sandboxed daemon may put something else in the place of what is read on the way to another, or to itself.
fn nothing_is_read_where_it_is_written(daemon: &Daemon, table: &Table) {
    for write in table.daemons.iter().flat_map(|daemon| &daemon.sandbox).flat_map(|sandbox| &sandbox.write) {
        let config = daemon.config.as_ref().map(|config| config.path.as_path());
        for path in [config, daemon.process.env_file.as_deref()].into_iter().flatten() {
            assert!(!path.starts_with(write), "{} below {}", path.display(), write.display());
        }
        let parent = daemon.process.working_dir.as_ref().and_then(|path| path.parent());
        assert!(parent.is_none_or(|parent| !parent.starts_with(write)), "{parent:?} below {}", write.display());
    }
}

/// Looks for an address that two of them take connections for; a probe counts as well.
fn no_two_sockets_take_one_connection(daemons: &[Daemon]) {
    let ip = |ip: IpAddr| ip.to_canonical();
    let takes = |socket: &SocketAddr, dialled: IpAddr| match socket.ip() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        own if ip(own) == IpAddr::V4(Ipv4Addr::UNSPECIFIED) => dialled.is_ipv4(),
        own => ip(own) == dialled,
    };
    let mut ports: HashMap<u16, Vec<SocketAddr>> = HashMap::new();
    for daemon in daemons {
        assert!(daemon.listen.len() <= MAX_LISTEN && daemon.listen.iter().all(|addr| addr.port() != 0));
        for addr in &daemon.listen {
            ports.entry(addr.port()).or_default().push(*addr);
        }
    }
    let both = |one: &SocketAddr, other: &SocketAddr| {
        let dialled = [ip(one.ip()), ip(other.ip()), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        dialled.into_iter().any(|dialled| takes(one, dialled) && takes(other, dialled))
    };
    // Link-local addresses of two interfaces differ, and look the same here.
    let has_scope = |addr: &SocketAddr| matches!(addr, SocketAddr::V6(v6) if v6.scope_id() != 0);
    for sockets in ports.values() {
        for (index, one) in sockets.iter().enumerate() {
            let others = || sockets.iter().skip(index + 1).filter(|other| !has_scope(one) && !has_scope(other));
            assert!(!others().any(|other| both(one, other)), "{sockets:?}");
        }
    }
    for daemon in daemons {
        if let Some(Ready::Tcp(probed)) = &daemon.ready {
            let own = |addr: &&SocketAddr| addr.port() == probed.port() && !has_scope(addr) && !has_scope(probed);
            assert!(!daemon.listen.iter().filter(own).any(|addr| both(addr, probed)), "{daemon:?}");
        }
    }
}

/// Each daemon is there once, and none before one that must come before it.
fn in_order(table: &Table, groups: &[Vec<usize>], comes_before: impl Fn(usize, &Daemon) -> bool) {
    let mut left: HashSet<usize> = (0..table.daemons.len()).collect();
    for group in groups {
        let is_early = |daemon: &usize| left.iter().any(|other| comes_before(*other, &table.daemons[*daemon]));
        assert!(!group.is_empty() && !group.iter().any(is_early), "{groups:?}");
        assert!(group.iter().all(|daemon| left.remove(daemon)), "{groups:?}");
    }
    assert!(left.is_empty(), "{left:?} are missing");
}

/// What a bundle says is understood or not: no crash, and nothing of it gets to a terminal as it came.
pub fn status(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    match kind % 6 {
        0 => {
            if let Ok(page) = page::parse(text) {
                of_page(page);
            }
        }
        1 => match protocol::first::<Answer>(text).map(|answer| answer.map(|answer| answer.reply)) {
            Some(Ok(Reply::Refused { target: Some(target), .. } | Reply::Hello { target })) => {
                is_plain(&target.daemon);
            }
            Some(Ok(Reply::NotInit { error })) => is_plain(&error),
            Some(Err((_, version))) => is_plain(&version),
            _ => {}
        },
        2 => {
            if let Some(Ok(request)) = protocol::first::<Request>(text) {
                [&request.version, &request.id, &request.by].into_iter().for_each(is_plain);
                let again = protocol::line(&request);
                assert_eq!(serde_json::from_str::<Request>(&again).ok(), Some(request));
            }
            let _ = serde_json::from_slice::<HostMessage>(text);
        }
        3 => {
            if let Ok(tell) = serde_json::from_slice::<HelperMessage>(text) {
                let again = protocol::line(&tell);
                assert!(again.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n')), "{again:?}");
                assert_eq!(serde_json::from_str::<HelperMessage>(&again).ok(), Some(tell));
            }
        }
        4 => {
            let names = ["b1", "0123456789ab"].map(str::to_owned);
            let (stdout, stderr) = text.split_at(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
            let found = identify(&names, stdout, stderr);
            assert!(found.len() <= names.len() && !found.is_empty());
            for found in found {
                let is_id =
                    |place| matches!(place, BundleRef::Container(id) if id.bytes().all(|b| b.is_ascii_hexdigit()));
                assert!(found.bundle.is_err() || found.bundle.is_ok_and(is_id));
            }
        }
        _ => {
            if let Ok(record) = serde_json::from_slice::<Record>(text) {
                let again = serde_json::to_vec(&record).unwrap();
                assert_eq!(serde_json::from_slice::<Record>(&again).unwrap(), record);
                is_plain(&record.by);
            }
        }
    }
}

fn of_page(page: Page) {
    let again = serde_json::to_vec(&page).unwrap();
    assert_eq!(page::parse(&again).unwrap(), page);
    for signal in ["HUP", "USR1"].map(Signal::from_name).into_iter().flatten() {
        if let Ok(target) = target(&page, &Trigger::Signal(signal)) {
            is_plain(&target.daemon);
            let mut proof = Proof::new(&page, &Trigger::Signal(signal), "", target);
            for (now, probe) in [(0, None), (5, Some(true)), (u64::MAX, Some(true)), (0, Some(false))] {
                let _ = proof.observe(
                    now,
                    &page,
                    true,
                    probe.map(|ready| if ready { Ok(()) } else { Err(Shortfall::NotReady { why: None }) }),
                );
            }
            let verdict = proof.give_up();
            let _ = verdict.siblings_moved.iter().map(is_plain).count();
        }
    }
    let _ = page.aged(5);
}

fn is_plain(text: &Printable) {
    // Escapes are longer than what they stand for, so it may end a little behind its bound.
    assert!(text.as_str().len() <= 320 && text.as_str().bytes().all(|b| matches!(b, b' '..=b'~')), "{text:?}");
}

/// A daemon's output comes out as whole lines behind its name, or as objects, whatever it wrote in whichever portions.
pub fn lines(data: &[u8]) {
    let Some((portion, text)) = data.split_first() else { return };
    // What a pipe takes at once.
    let text = text.get(..32_768).unwrap_or(text);
    let portion = usize::from(*portion) * 40 + 1;
    let mut pieces = Vec::new();
    for line in text.strip_suffix(b"\n").unwrap_or(text).split(|b| *b == b'\n').filter(|_| !text.is_empty()) {
        pieces.extend(pieces_of(line));
    }

    let said = relayed(text, portion, Output::Prefix);
    let mut wanted = Vec::new();
    for (piece, _) in &pieces {
        wanted.extend(b"[d] ");
        let (last, begin) =
            piece.split_last().map_or((&[][..], &[][..]), |(last, begin)| (std::slice::from_ref(last), begin));
        wanted.extend(begin.iter().flat_map(|b| if *b == b'\r' { b"\\r".to_vec() } else { vec![*b] }));
        wanted.extend([last, b"\n"].concat());
    }
    assert_eq!(String::from_utf8_lossy(&said), String::from_utf8_lossy(&wanted));

    let said = String::from_utf8(relayed(text, portion, Output::Json)).unwrap();
    let mut objects = said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    for (piece, is_last) in pieces {
        let object = objects.next().unwrap();
        assert_eq!((&object["daemon"], object["partial"].is_null()), (&"d".into(), is_last));
        match object["record"].as_object() {
            Some(_) => assert_eq!(serde_json::from_slice::<serde_json::Value>(piece).unwrap(), object["record"]),
            None => assert_eq!(object["line"], *String::from_utf8_lossy(piece)),
        }
    }
    assert!(objects.next().is_none());
}

/// What a line is split into, and whether each piece is the last.
fn pieces_of(mut line: &[u8]) -> Vec<(&[u8], bool)> {
    let mut pieces = Vec::new();
    while line.len() > LINE_MAX {
        let mut at = LINE_MAX;
        let mut begin = 0;
        for chunk in line.utf8_chunks() {
            for c in chunk.valid().chars() {
                if begin < LINE_MAX && begin + c.len_utf8() > LINE_MAX {
                    at = begin;
                }
                begin += c.len_utf8();
            }
            begin += chunk.invalid().len();
        }
        let (piece, rest) = line.split_at(at);
        pieces.push((piece, false));
        line = rest;
    }
    pieces.push((line, true));
    pieces
}

fn relayed(text: &[u8], portion: usize, output: Output) -> Vec<u8> {
    let (read, write) = nix::unistd::pipe().unwrap();
    let mut write = File::from(write);
    write.write_all(text).unwrap();
    drop(write);
    let mut file = File::from(nix::sys::memfd::memfd_create("lines", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap());
    let mut sink = Sink::open(file.as_fd(), output).unwrap();
    let source = Source { daemon: 0, name: "d", generation: 1, stream: "stdout" };
    let mut stream = Stream::new(read, &source, 0, 0, output);
    let mut buffer = vec![0; portion];
    while !stream.ended {
        stream.pump(&mut buffer, &mut sink, false);
        sink.flush();
    }
    assert!(!sink.is_waiting());
    let mut said = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut said).unwrap();
    said
}

/// What is selected is of the table, in its order, each once; all where nothing is named.
pub fn selection(data: &[u8]) {
    let Ok(value) = std::str::from_utf8(data) else { return };
    let table = Table::parse(BUILT_IN, BUILT_IN_NAME).unwrap();
    let selection = select(&table, Some(value));
    assert!(
        selection.selected.is_sorted_by(|a, b| a < b) && selection.selected.iter().all(|i| *i < table.daemons.len())
    );
    let named: Vec<&str> = value.split(',').map(str::trim).collect();
    for (index, daemon) in table.daemons.iter().enumerate() {
        let wanted = value.trim().is_empty() || named.contains(&daemon.name.as_str());
        assert_eq!(selection.selected.contains(&index), wanted, "{}", daemon.name);
    }
    for name in &selection.unknown {
        assert!(table.find(name).is_none() && !name.is_empty() && named.contains(&name.as_str()));
    }
}
