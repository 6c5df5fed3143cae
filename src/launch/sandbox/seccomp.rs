//! The filter of system calls: a classic BPF program (seccomp(2)), made by a pure function.
//!
//! It looks only at numbers, since a filter can't follow pointers. The kernel takes `int` arguments from the lower 32 bits of a
//! register, so the filter compares those.

use std::collections::BTreeMap;

use nix::libc;

use crate::table::sandbox::Sandbox;

/// One instruction: `struct sock_filter` of the kernel.
pub use libc::sock_filter as Instruction;

/// An architecture: its value in `seccomp_data.arch`, and its numbers of the calls that have a rule.
pub struct Arch {
    audit: u32,
    /// Numbers with this bit belong to the x32 ABI, which shares `audit` with x86-64: seccomp(2).
    x32_bit: Option<u32>,
    socket: u32,
    socketpair: u32,
    sendto: u32,
    sendmsg: u32,
    sendmmsg: u32,
    kill: u32,
    tkill: u32,
    tgkill: u32,
    rt_sigqueueinfo: u32,
    rt_tgsigqueueinfo: u32,
    fcntl: u32,
    ioctl: u32,
    ptrace: u32,
    process_vm_readv: u32,
    process_vm_writev: u32,
    kcmp: u32,
    prlimit64: u32,
    setpriority: u32,
    ioprio_set: u32,
    sched_setparam: u32,
    sched_setscheduler: u32,
    sched_setattr: u32,
    add_key: u32,
    request_key: u32,
    keyctl: u32,
    setsid: u32,
    setpgid: u32,
}

// These have the same number everywhere.
const PIDFD_SEND_SIGNAL: u32 = 424;
const IO_URING: [u32; 3] = [425, 426, 427];
const PIDFD_GETFD: u32 = 438;

/// `arch/x86/entry/syscalls/syscall_64.tbl`
#[cfg(any(test, target_arch = "x86_64"))]
pub const X86_64: Arch = Arch {
    audit: 0xc000_003e,
    x32_bit: Some(0x4000_0000),
    socket: 41,
    socketpair: 53,
    sendto: 44,
    sendmsg: 46,
    sendmmsg: 307,
    kill: 62,
    tkill: 200,
    tgkill: 234,
    rt_sigqueueinfo: 129,
    rt_tgsigqueueinfo: 297,
    fcntl: 72,
    ioctl: 16,
    ptrace: 101,
    process_vm_readv: 310,
    process_vm_writev: 311,
    kcmp: 312,
    prlimit64: 302,
    setpriority: 141,
    ioprio_set: 251,
    sched_setparam: 142,
    sched_setscheduler: 144,
    sched_setattr: 314,
    add_key: 248,
    request_key: 249,
    keyctl: 250,
    setsid: 112,
    setpgid: 109,
};

/// `include/uapi/asm-generic/unistd.h`
#[cfg(any(test, target_arch = "aarch64"))]
pub const AARCH64: Arch = Arch {
    audit: 0xc000_00b7,
    x32_bit: None,
    socket: 198,
    socketpair: 199,
    sendto: 206,
    sendmsg: 211,
    sendmmsg: 269,
    kill: 129,
    tkill: 130,
    tgkill: 131,
    rt_sigqueueinfo: 138,
    rt_tgsigqueueinfo: 240,
    fcntl: 25,
    ioctl: 29,
    ptrace: 117,
    process_vm_readv: 270,
    process_vm_writev: 271,
    kcmp: 272,
    prlimit64: 261,
    setpriority: 140,
    ioprio_set: 30,
    sched_setparam: 118,
    sched_setscheduler: 119,
    sched_setattr: 274,
    add_key: 217,
    request_key: 218,
    keyctl: 219,
    setsid: 157,
    setpgid: 154,
};

/// The architecture of this build.
#[cfg(target_arch = "x86_64")]
pub const HERE: &Arch = &X86_64;
/// The architecture of this build.
#[cfg(target_arch = "aarch64")]
pub const HERE: &Arch = &AARCH64;

/// `ioctl` requests of asm-generic/ioctls.h and asm-generic/sockios.h, which both architectures use.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
/// `fcntl` commands of asm-generic/fcntl.h.
const F_SETOWN: u32 = 8;
const F_SETSIG: u32 = 10;
const F_SETOWN_EX: u32 = 15;
/// Sends data with the SYN and without connect(2), the call that Landlock checks.
const MSG_FASTOPEN: u32 = 0x2000_0000;
/// `IOPRIO_WHO_USER` of linux/ioprio.h.
const IOPRIO_WHO_USER: u32 = 3;
/// From sys/resource.h.
const PRIO_USER: u32 = 2;

/// `offsetof(struct seccomp_data, …)`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The lower half of an argument, on machines with the low byte first.
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
/// Up to this many numbers are compared one by one.
const AT_ONCE: usize = 3;

#[derive(Clone, Copy)]
struct Errno(i32);

const EPERM: Errno = Errno(libc::EPERM);
const ENOSYS: Errno = Errno(libc::ENOSYS);
const EACCES: Errno = Errno(libc::EACCES);

const fn op(code: u32, jt: u8, jf: u8, k: u32) -> Instruction {
    // The codes are below 2^16: linux/bpf_common.h.
    Instruction { code: (code & 0xffff) as u16, jt, jf, k }
}

/// `A = word at offset of seccomp_data`
const fn load(offset: u32) -> Instruction {
    op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

const fn and(mask: u32) -> Instruction {
    op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask)
}

/// Skips `then` instructions if A equals `value`, otherwise `otherwise` instructions.
const fn jump_if_equal(value: u32, then: u8, otherwise: u8) -> Instruction {
    op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, then, otherwise, value)
}

const fn jump_if_less(value: u32, then: u8, otherwise: u8) -> Instruction {
    op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, otherwise, then, value)
}

const fn jump_if_any_bit(mask: u32, then: u8, otherwise: u8) -> Instruction {
    op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, then, otherwise, mask)
}

const fn answer(value: u32) -> Instruction {
    op(libc::BPF_RET | libc::BPF_K, 0, 0, value)
}

const fn refuse(errno: Errno) -> Instruction {
    // SECCOMP_RET_ERRNO; errno is a small positive number.
    answer(0x0005_0000 | errno.0.unsigned_abs())
}

/// Fails with `errno` if A is one of `values`, else goes on.
fn refuse_any(values: &[u32], errno: Errno) -> Vec<Instruction> {
    values.iter().flat_map(|value| [jump_if_equal(*value, 0, 1), refuse(errno)]).collect()
}

/// Fails with `errno` unless A is `value`, else goes on.
fn refuse_unless(value: u32, errno: Errno) -> Vec<Instruction> {
    vec![jump_if_equal(value, 1, 0), refuse(errno)]
}

/// Collects the rules. Each call has at most one, and each path through a rule ends in an answer.
#[derive(Default)]
struct Rules(BTreeMap<u32, Vec<Instruction>>);

impl Rules {
    /// Adds a rule. When it runs, A has the call's number. If `body` gives no answer, the call is allowed.
    fn rule(&mut self, call: u32, body: &[&[Instruction]]) {
        self.0.insert(call, body.concat().into_iter().chain([answer(ALLOW)]).collect());
    }

    fn refuse(&mut self, calls: &[u32], errno: Errno) {
        self.0.extend(calls.iter().map(|call| (*call, vec![refuse(errno)])));
    }

    /// The instructions that find the rule for the number in A. They halve the range until few numbers are left: when a filter
    /// is installed, the kernel runs it once for every possible call, so a list would slow down each start.
    fn search(rules: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
        // A jump skips at most 255 instructions. No filter is near that; a unit test builds the longest one.
        let skip = |part: &[Instruction]| u8::try_from(part.len()).unwrap_or(u8::MAX);
        if let (lower, [(middle, _), ..]) = rules.split_at(rules.len() / 2)
            && rules.len() > AT_ONCE
        {
            let (lower, upper) = (Self::search(lower), Self::search(rules.get(lower.len()..).unwrap_or_default()));
            return [jump_if_less(*middle, 0, skip(&lower))].into_iter().chain(lower).chain(upper).collect();
        }
        let each =
            rules.iter().flat_map(|(call, body)| [jump_if_equal(*call, 0, skip(body))].into_iter().chain(body.clone()));
        each.chain([answer(ALLOW)]).collect()
    }
}

/// The filter of a sandbox on a kernel with this version of Landlock (0: none).
#[must_use]
pub fn program(sandbox: &Sandbox, abi: u32, arch: &Arch) -> Vec<Instruction> {
    // A call by another architecture's convention has other numbers: i386's prlimit would go past the rules.
    let mut program = vec![load(ARCH), jump_if_equal(arch.audit, 1, 0), answer(KILL_PROCESS), load(NUMBER)];
    if let Some(bit) = arch.x32_bit {
        // A tracer skips a call by setting its number to -1, which isn't an x32 call.
        program.extend([jump_if_equal(u32::MAX, 2, 0), jump_if_any_bit(bit, 0, 1), answer(KILL_PROCESS)]);
    }
    let rules: Vec<_> = rules(sandbox, abi, arch).0.into_iter().collect();
    program.extend(Rules::search(&rules));
    program
}

/// The rules of this sandbox.
fn rules(sandbox: &Sandbox, abi: u32, arch: &Arch) -> Rules {
    let mut rules = Rules::default();
    if sandbox.bind.is_some() || sandbox.connect.is_some() {
        network(&mut rules, sandbox.udp, arch);
    }
    others_limits(&mut rules, arch);
    let mut requests = vec![TIOCSTI, TIOCLINUX];
    if abi < super::ABI_SIGNALS {
        // Calls that make the kernel send a signal to a process of the caller's choice.
        requests.extend([FIOSETOWN, SIOCSPGRP]);
        signals(&mut rules, arch);
    }
    rules.rule(arch.ioctl, &[&[load(argument(1))], &refuse_any(&requests, EPERM)]);
    if abi < super::ABI_FILES {
        // Without a Landlock domain, nothing else keeps other processes out of reach.
        let calls = [arch.ptrace, arch.process_vm_readv, arch.process_vm_writev, arch.kcmp, PIDFD_GETFD];
        rules.refuse(&calls, EPERM);
    }
    // Keyrings belong to the user, so all daemons of that user share them.
    rules.refuse(&[arch.add_key, arch.request_key, arch.keyctl], EPERM);
    if !sandbox.sessions {
        rules.refuse(&[arch.setsid, arch.setpgid], EPERM);
    }
    rules
}

/// Allows only sockets whose ports Landlock checks (plain TCP), UDP if the sandbox allows it, and sockets that reach no network: unix
/// sockets, and the netlink family with which libc looks up addresses.
fn network(rules: &mut Rules, udp: bool, arch: &Arch) {
    let c = i32::unsigned_abs;
    let no_family = Errno(libc::EAFNOSUPPORT);
    let no_protocol = Errno(libc::EPROTONOSUPPORT);
    let protocol = |allowed: [u32; 2]| {
        let [first, second] = allowed;
        vec![
            load(argument(2)),
            jump_if_equal(first, 2, 0),
            jump_if_equal(second, 1, 0),
            refuse(no_protocol),
            answer(ALLOW),
        ]
    };
    // MPTCP is a protocol of its own, and Landlock doesn't check its ports (landlock(7), "TCP sockets").
    let tcp = protocol([0, c(libc::IPPROTO_TCP)]);
    let udp = if udp { protocol([0, c(libc::IPPROTO_UDP)]) } else { vec![refuse(EACCES)] };
    let netlink = protocol([c(libc::NETLINK_ROUTE), c(libc::NETLINK_ROUTE)]);
    // SOCK_NONBLOCK and SOCK_CLOEXEC are in higher bits: SOCK_TYPE_MASK of linux/net.h.
    let mut inet = vec![load(argument(1)), and(0xf)];
    for (kind, rest) in [(libc::SOCK_STREAM, tcp), (libc::SOCK_DGRAM, udp)] {
        inet.push(jump_if_equal(c(kind), 0, u8::try_from(rest.len()).unwrap_or(u8::MAX)));
        inet.extend(rest);
    }
    inet.push(refuse(EACCES));
    let skip = |body: &[Instruction]| u8::try_from(body.len()).unwrap_or(u8::MAX);
    let after_netlink = skip(&netlink);
    let mut families = vec![
        load(argument(0)),
        jump_if_equal(c(libc::AF_UNIX), 0, 1),
        answer(ALLOW),
        jump_if_equal(c(libc::AF_NETLINK), 0, after_netlink),
    ];
    families.extend(netlink);
    families.extend([jump_if_equal(c(libc::AF_INET), 2, 0), jump_if_equal(c(libc::AF_INET6), 1, 0), refuse(no_family)]);
    families.extend(inet);
    rules.rule(arch.socket, &[&families]);
    // TIPC has pairs too.
    rules.rule(arch.socketpair, &[&[load(argument(0))], &refuse_unless(c(libc::AF_UNIX), no_family)]);
    for (call, flags) in [(arch.sendto, 3), (arch.sendmsg, 2), (arch.sendmmsg, 3)] {
        rules.rule(call, &[&[load(argument(flags)), jump_if_any_bit(MSG_FASTOPEN, 0, 1), refuse(EPERM)]]);
    }
    // Its operations make sockets and send without passing this filter. ENOSYS is what programs fall back on.
    rules.refuse(&IO_URING, ENOSYS);
}

/// Refuses changes to another process's limits and priorities. The kernel only asks for the same user, and Landlock doesn't check
/// them. A low `RLIMIT_CPU` would end PID 1.
fn others_limits(rules: &mut Rules, arch: &Arch) {
    let own = |index| [vec![load(argument(index))], refuse_unless(0, EPERM)].concat();
    for call in [arch.prlimit64, arch.sched_setparam, arch.sched_setscheduler, arch.sched_setattr] {
        rules.rule(call, &[&own(0)]);
    }
    // 0 stands for the caller's own process or group, or for all processes of the caller's user.
    for (call, user) in [(arch.setpriority, PRIO_USER), (arch.ioprio_set, IOPRIO_WHO_USER)] {
        rules.rule(call, &[&[load(argument(0))], &refuse_any(&[user], EPERM), &own(1)]);
    }
}

/// If Landlock can't restrict signals yet: refuses at least those to PID 1. The siblings' pids aren't known here.
fn signals(rules: &mut Rules, arch: &Arch) {
    const ALL: u32 = u32::MAX;
    let none_of = |index, pids: &[u32]| [vec![load(argument(index))], refuse_any(pids, EPERM)].concat();
    for call in [arch.kill, arch.tkill, arch.rt_sigqueueinfo] {
        rules.rule(call, &[&none_of(0, &[1, ALL])]);
    }
    for call in [arch.tgkill, arch.rt_tgsigqueueinfo] {
        rules.rule(call, &[&none_of(0, &[1, ALL]), &none_of(1, &[1, ALL])]);
    }
    rules.refuse(&[PIDFD_SEND_SIGNAL], EPERM);
    rules.rule(arch.fcntl, &[&none_of(1, &[F_SETOWN, F_SETSIG, F_SETOWN_EX])]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "a test fails by panicking")]

    use super::*;

    /// What the kernel would answer, by a second reading of the program: `Err(errno)`, `Ok`, or none if the process is killed.
    fn run(program: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> Option<Result<(), i32>> {
        let mut data = [0u32; 16];
        (data[0], data[1]) = (number, arch);
        for (index, argument) in arguments.iter().enumerate() {
            let bytes = argument.to_le_bytes();
            for half in 0..2 {
                let word: [u8; 4] = bytes[4 * half..4 * half + 4].try_into().unwrap_or_default();
                data[4 + 2 * index + half] = u32::from_le_bytes(word);
            }
        }
        let (mut a, mut at) = (0u32, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |condition: bool| usize::from(if condition { jt } else { jf });
            match code {
                0x20 => a = data[k as usize / 4],
                0x54 => a &= k,
                0x15 => at += jump(a == k),
                0x35 => at += jump(a >= k),
                0x45 => at += jump(a & k != 0),
                0x06 => {
                    return match k & 0xffff_0000 {
                        ALLOW => Some(Ok(())),
                        0x0005_0000 => Some(Err((k & 0xffff).cast_signed())),
                        KILL_PROCESS => None,
                        _ => panic!("{k:x}"),
                    };
                }
                _ => panic!("{code:x}"),
            }
        }
    }

    fn closed() -> Sandbox {
        Sandbox { connect: Some(Vec::new()), sessions: true, ..Sandbox::default() }
    }

    /// On both architectures.
    fn each(check: impl Fn(&Arch)) {
        check(&X86_64);
        check(&AARCH64);
    }

    fn answer_of(sandbox: &Sandbox, abi: u32, arch: &Arch, number: u32, arguments: &[u64]) -> Result<(), i32> {
        // What is above an int means nothing to the kernel, so it must mean nothing here.
        let mut all = [0; 6];
        for (to, from) in all.iter_mut().zip(arguments) {
            *to = *from;
        }
        let program = program(sandbox, abi, arch);
        let answer = run(&program, arch.audit, number, all);
        let with_rubbish = run(&program, arch.audit, number, all.map(|argument| argument | 0xdead_beef << 32));
        assert_eq!(answer, with_rubbish);
        answer.unwrap_or(Err(-1))
    }

    const UNIX: u64 = 1;
    const INET: u64 = 2;
    const INET6: u64 = 10;
    const NETLINK: u64 = 16;

    #[test]
    fn each_jump_of_a_program_stays_in_it_and_its_last_instruction_answers() {
        each(|arch| {
            for abi in 0..8 {
                for (udp, sessions) in [(false, false), (true, true)] {
                    let program = program(&Sandbox { udp, sessions, ..closed() }, abi, arch);
                    for (at, one) in program.iter().enumerate().filter(|(_, one)| one.code & 7 == 5) {
                        assert!(at + 1 + usize::from(one.jt.max(one.jf)) < program.len(), "{at}");
                    }
                    assert_eq!(program.last().map(|last| last.code), Some(6));
                    assert!(program.len() < 255, "so no body is longer than a jump: {}", program.len());
                }
            }
        });
    }

    #[test]
    fn each_call_finds_its_own_rule_and_a_call_without_one_is_allowed() {
        each(|arch| {
            for abi in 0..8 {
                let (program, rules) = (program(&closed(), abi, arch), rules(&closed(), abi, arch));
                for number in (0..700).chain([0x3fff_ffff, u32::MAX]) {
                    for arguments in [[0; 6], [1; 6], [2; 6], [u64::from(MSG_FASTOPEN | TIOCSTI); 6], [u64::MAX; 6]] {
                        let alone =
                            rules.0.get(&number).map_or(Some(Ok(())), |body| run(body, arch.audit, number, arguments));
                        assert_eq!(
                            run(&program, arch.audit, number, arguments),
                            alone,
                            "{abi}: {number} {arguments:?}"
                        );
                    }
                }
            }
        });
    }

    #[test]
    fn a_call_of_another_architecture_kills() {
        each(|arch| {
            let program = program(&Sandbox::default(), 7, arch);
            assert_eq!(run(&program, 0x4000_0003, 20, [0; 6]), None, "i386");
            assert_eq!(run(&program, 0x4000_0028, 20, [0; 6]), None, "arm");
            assert_eq!(run(&program, arch.audit, 0, [0; 6]), Some(Ok(())));
            assert_eq!(run(&program, arch.audit, u32::MAX, [0; 6]), Some(Ok(())), "a call that a tracer skips");
            let x32 = run(&program, arch.audit, 0x4000_012e, [1; 6]);
            assert_eq!(x32, if arch.x32_bit.is_some() { None } else { Some(Ok(())) });
        });
    }

    #[test]
    fn a_network_of_tcp_alone_allows_tcp_unix_sockets_and_netlink_route() {
        each(|arch| {
            let socket = |arguments: &[u64]| answer_of(&closed(), 7, arch, arch.socket, arguments);
            let cloexec = u64::from(libc::SOCK_CLOEXEC.cast_unsigned());
            for family in [INET, INET6] {
                for (kind, protocol, expected) in [
                    (1, 0, Ok(())),
                    (1, 6, Ok(())),
                    (1 | cloexec, 6, Ok(())),
                    (1, 262, Err(libc::EPROTONOSUPPORT)), // MPTCP
                    (1, 132, Err(libc::EPROTONOSUPPORT)), // SCTP
                    (1, 256, Err(libc::EPROTONOSUPPORT)), // SMC
                    (2, 0, Err(libc::EACCES)),
                    (2 | cloexec, 17, Err(libc::EACCES)),
                    (3, 1, Err(libc::EACCES)),   // raw
                    (5, 132, Err(libc::EACCES)), // seqpacket
                    (10, 0, Err(libc::EACCES)),
                ] {
                    assert_eq!(socket(&[family, kind, protocol]), expected, "{family} {kind} {protocol}");
                }
            }
            assert_eq!(socket(&[UNIX, 2, 0]), Ok(()));
            assert_eq!(socket(&[NETLINK, 3, 0]), Ok(()));
            assert_eq!(socket(&[NETLINK, 3, 16]), Err(libc::EPROTONOSUPPORT));
            for family in (0..64).filter(|family| ![UNIX, INET, INET6, NETLINK].contains(family)) {
                assert_eq!(socket(&[family, 1, 0]), Err(libc::EAFNOSUPPORT), "{family}");
            }
            let pair = |family| answer_of(&closed(), 7, arch, arch.socketpair, &[family, 1, 0]);
            assert_eq!((pair(UNIX), pair(30)), (Ok(()), Err(libc::EAFNOSUPPORT)));
        });
    }

    #[test]
    fn udp_on_request_allows_no_other_datagram_protocol() {
        each(|arch| {
            let sandbox = Sandbox { udp: true, ..closed() };
            let socket = |protocol| answer_of(&sandbox, 7, arch, arch.socket, &[INET, 2, protocol]);
            assert_eq!([socket(0), socket(17)], [Ok(()), Ok(())]);
            assert_eq!([socket(1), socket(136)], [Err(libc::EPROTONOSUPPORT); 2]);
            assert_eq!(answer_of(&sandbox, 7, arch, arch.socket, &[INET, 1, 262]), Err(libc::EPROTONOSUPPORT));
        });
    }

    #[test]
    fn ways_around_port_limits_are_refused_only_if_ports_are_limited() {
        each(|arch| {
            let open = Sandbox { sessions: true, ..Sandbox::default() };
            let fast = u64::from(MSG_FASTOPEN);
            let calls = [
                (arch.sendto, vec![3, 0, 1, fast | 0x4000], libc::EPERM),
                (arch.sendmsg, vec![3, 0, fast], libc::EPERM),
                (arch.sendmmsg, vec![3, 0, 1, fast], libc::EPERM),
                (425, vec![], libc::ENOSYS),
                (426, vec![], libc::ENOSYS),
                (427, vec![], libc::ENOSYS),
                (arch.socket, vec![17, 3, 0], libc::EAFNOSUPPORT),
            ];
            for (call, arguments, errno) in calls {
                assert_eq!(answer_of(&closed(), 7, arch, call, &arguments), Err(errno), "{call}");
                let bound = Sandbox { bind: Some(vec![1]), connect: None, ..closed() };
                assert_eq!(answer_of(&bound, 7, arch, call, &arguments), Err(errno), "{call}");
                assert_eq!(answer_of(&open, 7, arch, call, &arguments), Ok(()), "{call}");
            }
            for (call, flags) in [(arch.sendto, 3), (arch.sendmsg, 2), (arch.sendmmsg, 3)] {
                let mut arguments = [fast; 4];
                arguments[flags] = 0x4000;
                assert_eq!(
                    answer_of(&closed(), 7, arch, call, &arguments),
                    Ok(()),
                    "{call}: only its flags are looked at"
                );
            }
        });
    }

    #[test]
    fn limits_and_priorities_are_its_own_to_set_and_nobody_elses() {
        each(|arch| {
            let answer = |call, arguments: &[u64]| answer_of(&Sandbox::default(), 7, arch, call, arguments);
            for call in [arch.prlimit64, arch.sched_setparam, arch.sched_setscheduler, arch.sched_setattr] {
                assert_eq!([answer(call, &[0]), answer(call, &[1])], [Ok(()), Err(libc::EPERM)], "{call}");
                assert_eq!(answer(call, &[u64::MAX]), Err(libc::EPERM));
            }
            // Process and group, then user: 0 means the caller's own, which for a user is everybody.
            assert_eq!(
                [0, 1, 2].map(|which| answer(arch.setpriority, &[which, 0])),
                [Ok(()), Ok(()), Err(libc::EPERM)]
            );
            assert_eq!([1, 2, 3].map(|which| answer(arch.ioprio_set, &[which, 0])), [Ok(()), Ok(()), Err(libc::EPERM)]);
            assert_eq!([answer(arch.setpriority, &[0, 1]), answer(arch.ioprio_set, &[1, 1])], [Err(libc::EPERM); 2]);
        });
    }

    #[test]
    fn before_landlock_confines_signals_pid_1_gets_none() {
        each(|arch| {
            let old = |call, arguments: &[u64]| answer_of(&Sandbox::default(), 5, arch, call, arguments);
            let new = |call, arguments: &[u64]| answer_of(&Sandbox::default(), 6, arch, call, arguments);
            let all = u64::from(u32::MAX);
            for call in [arch.kill, arch.tkill, arch.tgkill, arch.rt_sigqueueinfo, arch.rt_tgsigqueueinfo] {
                for pid in [1, all] {
                    assert_eq!(
                        (old(call, &[pid, 7, 9]), new(call, &[pid, 7, 9])),
                        (Err(libc::EPERM), Ok(())),
                        "{call}"
                    );
                }
                assert_eq!(old(call, &[7, 7, 9]), Ok(()), "{call}");
                assert_eq!(old(call, &[0, 0, 0]), Ok(()), "{call}");
            }
            assert_eq!(old(arch.tgkill, &[7, 1, 9]), Err(libc::EPERM));
            for (call, second) in
                [(arch.fcntl, 8), (arch.fcntl, 10), (arch.fcntl, 15), (arch.ioctl, 0x8901), (arch.ioctl, 0x8902)]
            {
                assert_eq!((old(call, &[3, second]), new(call, &[3, second])), (Err(libc::EPERM), Ok(())), "{call}");
            }
            assert_eq!((old(424, &[3, 0]), new(424, &[3, 0])), (Err(libc::EPERM), Ok(())));
            assert_eq!(old(arch.fcntl, &[3, 4]), Ok(()), "F_SETFL");
        });
    }

    #[test]
    fn without_a_landlock_domain_no_other_process_is_traced_or_read() {
        each(|arch| {
            for call in [arch.ptrace, arch.process_vm_readv, arch.process_vm_writev, arch.kcmp, 438] {
                let answer = |abi| answer_of(&Sandbox::default(), abi, arch, call, &[]);
                assert_eq!([answer(0), answer(1), answer(2)], [Err(libc::EPERM), Err(libc::EPERM), Ok(())], "{call}");
            }
        });
    }

    #[test]
    fn terminals_and_keyrings_are_refused_always_and_sessions_if_it_is_said() {
        each(|arch| {
            let open = Sandbox { sessions: true, ..Sandbox::default() };
            for sandbox in [&open, &Sandbox::default()] {
                let answer = |call, arguments: &[u64]| answer_of(sandbox, 7, arch, call, arguments);
                for request in [TIOCSTI, TIOCLINUX] {
                    assert_eq!(answer(arch.ioctl, &[0, u64::from(request)]), Err(libc::EPERM));
                }
                assert_eq!(answer(arch.ioctl, &[0, 0x5401]), Ok(()), "TCGETS");
                for call in [arch.add_key, arch.request_key, arch.keyctl] {
                    assert_eq!(answer(call, &[]), Err(libc::EPERM));
                }
                for call in [arch.setsid, arch.setpgid] {
                    assert_eq!(answer(call, &[]).is_ok(), sandbox.sessions);
                }
            }
        });
    }

    #[test]
    fn the_numbers_of_this_builds_calls_are_those_of_its_libc() {
        let number = |number: libc::c_long| u32::try_from(number).unwrap_or(0);
        let Arch { audit: _, x32_bit: _, socket, socketpair, sendto, sendmsg, sendmmsg, kill, tkill, tgkill, .. } =
            *HERE;
        let Arch {
            rt_sigqueueinfo, rt_tgsigqueueinfo, fcntl, ioctl, ptrace, process_vm_readv, process_vm_writev, ..
        } = *HERE;
        let Arch { kcmp, prlimit64, setpriority, ioprio_set, sched_setparam, sched_setscheduler, .. } = *HERE;
        let Arch { sched_setattr, add_key, request_key, keyctl, setsid, setpgid, .. } = *HERE;
        for (ours, libcs) in [
            (socket, libc::SYS_socket),
            (socketpair, libc::SYS_socketpair),
            (sendto, libc::SYS_sendto),
            (sendmsg, libc::SYS_sendmsg),
            (sendmmsg, libc::SYS_sendmmsg),
            (kill, libc::SYS_kill),
            (tkill, libc::SYS_tkill),
            (tgkill, libc::SYS_tgkill),
            (rt_sigqueueinfo, libc::SYS_rt_sigqueueinfo),
            (rt_tgsigqueueinfo, libc::SYS_rt_tgsigqueueinfo),
            (fcntl, libc::SYS_fcntl),
            (ioctl, libc::SYS_ioctl),
            (ptrace, libc::SYS_ptrace),
            (process_vm_readv, libc::SYS_process_vm_readv),
            (process_vm_writev, libc::SYS_process_vm_writev),
            (kcmp, libc::SYS_kcmp),
            (prlimit64, libc::SYS_prlimit64),
            (setpriority, libc::SYS_setpriority),
            (ioprio_set, libc::SYS_ioprio_set),
            (sched_setparam, libc::SYS_sched_setparam),
            (sched_setscheduler, libc::SYS_sched_setscheduler),
            (sched_setattr, libc::SYS_sched_setattr),
            (add_key, libc::SYS_add_key),
            (request_key, libc::SYS_request_key),
            (keyctl, libc::SYS_keyctl),
            (setsid, libc::SYS_setsid),
            (setpgid, libc::SYS_setpgid),
            (PIDFD_SEND_SIGNAL, libc::SYS_pidfd_send_signal),
            (PIDFD_GETFD, libc::SYS_pidfd_getfd),
            (IO_URING[0], libc::SYS_io_uring_setup),
        ] {
            assert_eq!(ours, number(libcs));
        }
    }
}
