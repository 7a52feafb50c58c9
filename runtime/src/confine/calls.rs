//! The system calls that a function may make: what a Rust program needs that has all its descriptors already.
//!
//! All others are answered with EPERM, those that do not exist yet as well. `clone3` is answered with ENOSYS: its flags lie in
//! memory, where no filter sees them, and libraries then use `clone`. Left out on purpose, beside everything that needs a
//! capability: sockets of one's own, other processes (`fork`, `ptrace`, `process_vm_*`, `pidfd_*`, signals to others), namespaces
//! and mounts, BPF but for the elements of maps that were passed, `io_uring` and `userfaultfd`, keys, System V IPC, and holes in memory that others have mapped.

use libc as c;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;

use super::ConfineError;

/// With any arguments.
const FREE: &[c::c_long] = &[
    // Files and descriptors; which files, landlock says.
    c::SYS_read,
    c::SYS_write,
    c::SYS_readv,
    c::SYS_writev,
    c::SYS_pread64,
    c::SYS_pwrite64,
    c::SYS_preadv,
    c::SYS_pwritev,
    c::SYS_preadv2,
    c::SYS_pwritev2,
    c::SYS_lseek,
    c::SYS_close,
    c::SYS_close_range,
    c::SYS_fstat,
    c::SYS_newfstatat,
    c::SYS_statx,
    c::SYS_statfs,
    c::SYS_fstatfs,
    c::SYS_fcntl,
    c::SYS_flock,
    c::SYS_fsync,
    c::SYS_fdatasync,
    c::SYS_ftruncate,
    c::SYS_fadvise64,
    c::SYS_dup,
    c::SYS_dup3,
    c::SYS_pipe2,
    c::SYS_openat,
    c::SYS_openat2,
    c::SYS_faccessat,
    c::SYS_faccessat2,
    c::SYS_readlinkat,
    c::SYS_getdents64,
    c::SYS_mkdirat,
    c::SYS_unlinkat,
    c::SYS_renameat,
    c::SYS_renameat2,
    c::SYS_fchmod,
    c::SYS_umask,
    c::SYS_getcwd,
    c::SYS_chdir,
    // Waiting.
    c::SYS_ppoll,
    c::SYS_pselect6,
    c::SYS_epoll_create1,
    c::SYS_epoll_ctl,
    c::SYS_epoll_pwait,
    c::SYS_epoll_pwait2,
    c::SYS_eventfd2,
    c::SYS_signalfd4,
    c::SYS_timerfd_create,
    c::SYS_timerfd_settime,
    c::SYS_timerfd_gettime,
    c::SYS_nanosleep,
    c::SYS_clock_nanosleep,
    c::SYS_clock_gettime,
    c::SYS_clock_getres,
    c::SYS_gettimeofday,
    c::SYS_timer_create,
    c::SYS_timer_settime,
    c::SYS_timer_gettime,
    c::SYS_timer_getoverrun,
    c::SYS_timer_delete,
    c::SYS_setitimer,
    c::SYS_getitimer,
    c::SYS_restart_syscall,
    // Memory.
    c::SYS_mmap,
    c::SYS_munmap,
    c::SYS_mprotect,
    c::SYS_mremap,
    c::SYS_brk,
    c::SYS_mincore,
    c::SYS_msync,
    c::SYS_mlock,
    c::SYS_mlock2,
    c::SYS_munlock,
    c::SYS_membarrier,
    c::SYS_memfd_create,
    c::SYS_get_mempolicy,
    // Sockets that were passed.
    c::SYS_recvfrom,
    c::SYS_recvmsg,
    c::SYS_recvmmsg,
    c::SYS_shutdown,
    c::SYS_getsockopt,
    c::SYS_setsockopt,
    c::SYS_getsockname,
    c::SYS_getpeername,
    // Threads and signals within the process.
    c::SYS_clone3,
    c::SYS_futex,
    c::SYS_futex_waitv,
    c::SYS_set_robust_list,
    c::SYS_get_robust_list,
    c::SYS_rseq,
    c::SYS_set_tid_address,
    c::SYS_gettid,
    c::SYS_exit,
    c::SYS_exit_group,
    c::SYS_sched_yield,
    c::SYS_sched_getaffinity,
    c::SYS_getcpu,
    c::SYS_rt_sigaction,
    c::SYS_rt_sigprocmask,
    c::SYS_rt_sigreturn,
    c::SYS_rt_sigsuspend,
    c::SYS_rt_sigpending,
    c::SYS_rt_sigtimedwait,
    c::SYS_sigaltstack,
    // What the process and the system are.
    c::SYS_getpid,
    c::SYS_getppid,
    c::SYS_getuid,
    c::SYS_geteuid,
    c::SYS_getgid,
    c::SYS_getegid,
    c::SYS_getgroups,
    c::SYS_getresuid,
    c::SYS_getresgid,
    c::SYS_getrusage,
    c::SYS_times,
    c::SYS_sysinfo,
    c::SYS_uname,
    c::SYS_capget,
    c::SYS_getrandom,
];

/// The older forms of the same, on machines that have them.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c::c_long] = &[
    c::SYS_open,
    c::SYS_stat,
    c::SYS_lstat,
    c::SYS_access,
    c::SYS_readlink,
    c::SYS_mkdir,
    c::SYS_rmdir,
    c::SYS_unlink,
    c::SYS_rename,
    c::SYS_getdents,
    c::SYS_dup2,
    c::SYS_pipe,
    c::SYS_poll,
    c::SYS_select,
    c::SYS_epoll_create,
    c::SYS_epoll_wait,
    c::SYS_eventfd,
    c::SYS_pause,
    c::SYS_alarm,
    c::SYS_time,
    c::SYS_getrlimit,
    c::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c::c_long] = &[];

/// Settings of descriptors that touch nobody else. A terminal takes no input from a function (TIOCSTI).
const IOCTLS: [c::Ioctl; 6] = [c::FIONREAD, c::FIONBIO, c::FIOCLEX, c::FIONCLEX, c::TCGETS, c::TIOCGWINSZ];
/// Settings of the process that widen nothing.
const PRCTLS: [c::c_int; 6] =
    [c::PR_SET_NAME, c::PR_GET_NAME, c::PR_SET_NO_NEW_PRIVS, c::PR_GET_NO_NEW_PRIVS, c::PR_CAPBSET_READ, c::PR_SET_VMA];
/// The kind of a socket without its flags.
const SOCKET_KIND: u64 = 0xf;
/// Namespaces that `clone` could make lie outside of what a thread shares.
const THREAD: u64 = c::CLONE_THREAD as u64;

/// Whether the kernel filters system calls.
pub fn is_there() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").is_ok_and(|actions| actions.contains("errno"))
}

/// What a function process needs more than others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    /// It has yet to become its program.
    pub(super) executes: bool,
    /// It has maps of a fast path.
    pub(super) maps: bool,
}

/// Filters the calls of this process from now on. A kernel that was found to have no filters may refuse them.
pub(super) fn restrict(needs: Needs, is_there: bool) -> Result<(), ConfineError> {
    for program in programs(std::process::id(), needs).map_err(|e| ConfineError::Filter(e.to_string()))? {
        match seccompiler::apply_filter(&program) {
            Err(e) if is_there => return Err(ConfineError::Filter(e.to_string())),
            _ => {}
        }
    }
    Ok(())
}

/// The filters for the process `pid`, in the order in which they are applied.
fn programs(pid: u32, needs: Needs) -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let refuse = |errno: c::c_int| SeccompAction::Errno(errno.unsigned_abs());
    let unknown = BTreeMap::from([(c::SYS_clone3, Vec::new())]);
    let unknown = SeccompFilter::new(unknown, SeccompAction::Allow, refuse(c::ENOSYS), arch)?;
    let allowed = SeccompFilter::new(allowed(pid, needs)?, refuse(c::EPERM), SeccompAction::Allow, arch)?;
    Ok([unknown.try_into()?, allowed.try_into()?])
}

type Rules = BTreeMap<c::c_long, Vec<SeccompRule>>;

fn allowed(pid: u32, needs: Needs) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = FREE.iter().chain(OLDER).map(|&call| (call, Vec::new())).collect();
    if needs.executes {
        rules.extend([(c::SYS_execve, Vec::new()), (c::SYS_execveat, Vec::new())]);
    }
    let dword = |at, is, value: u64| SeccompCondition::new(at, Length::Dword, is, value);
    let qword = |at, is, value: u64| SeccompCondition::new(at, Length::Qword, is, value);
    let mut only = |call, conditions| -> Result<(), seccompiler::BackendError> {
        rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
        Ok(())
    };
    only(c::SYS_clone, vec![qword(0, Is::MaskedEq(THREAD), THREAD)?])?;
    // To itself alone: `abort` does that.
    only(c::SYS_kill, vec![dword(0, Is::Eq, pid.into())?])?;
    only(c::SYS_tgkill, vec![dword(0, Is::Eq, pid.into())?])?;
    // Of itself, by the number for that.
    only(c::SYS_prlimit64, vec![dword(0, Is::Eq, 0)?])?;
    only(c::SYS_sched_setaffinity, vec![dword(0, Is::Eq, 0)?])?;
    for number in IOCTLS {
        only(c::SYS_ioctl, vec![dword(1, Is::Eq, number)?])?;
    }
    for option in PRCTLS {
        only(c::SYS_prctl, vec![dword(0, Is::Eq, option.unsigned_abs().into())?])?;
    }
    // Room may be asked for; holes and moved ranges would reach into memory that the data plane has mapped.
    only(c::SYS_fallocate, vec![dword(1, Is::Eq, 0)?])?;
    only(c::SYS_madvise, vec![dword(2, Is::Ne, c::MADV_REMOVE.unsigned_abs().into())?])?;
    // On what is connected: with an address, or with data in a SYN, these would reach others.
    let fast_open = c::MSG_FASTOPEN.unsigned_abs().into();
    only(c::SYS_sendto, vec![dword(3, Is::MaskedEq(fast_open), 0)?, qword(4, Is::Eq, 0)?])?;
    only(c::SYS_sendmsg, vec![dword(2, Is::MaskedEq(fast_open), 0)?])?;
    // Of maps that were passed, which it cannot make more of: no programs, no maps of its own or of others, nothing about either.
    if needs.maps {
        for command in middlenet_shm::command::ALL {
            only(c::SYS_bpf, vec![dword(0, Is::Eq, command.into())?])?;
        }
    }
    // Between threads; a datagram socket could be pointed at somebody else.
    for kind in [c::SOCK_STREAM, c::SOCK_SEQPACKET] {
        let kind = dword(1, Is::MaskedEq(SOCKET_KIND), kind.unsigned_abs().into())?;
        only(c::SYS_socketpair, vec![dword(0, Is::Eq, c::AF_UNIX.unsigned_abs().into())?, kind])?;
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do.
    fn run(program: &BpfProgram, call: c::c_long, arguments: [u64; 6]) -> u32 {
        const LOAD: u16 = 0x20;
        let arch = if cfg!(target_arch = "x86_64") { 0xc000_003e_u32 } else { 0xc000_00b7 };
        let mut data = Vec::new();
        data.extend((call as u32).to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        arguments.iter().for_each(|a| data.extend(a.to_ne_bytes()));
        let (mut accumulator, mut at) = (0u32, 0usize);
        loop {
            let i = &program[at];
            at += 1;
            let take = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
            match i.code {
                LOAD => accumulator = u32::from_ne_bytes(data[i.k as usize..][..4].try_into().unwrap()),
                0x54 => accumulator &= i.k,
                0x05 => at += i.k as usize,
                0x15 => at += take(accumulator == i.k),
                0x25 => at += take(accumulator > i.k),
                0x35 => at += take(accumulator >= i.k),
                0x06 => return i.k,
                other => panic!("an instruction that this test does not know: {other:#x}"),
            }
        }
    }

    const ALLOW: u32 = 0x7fff_0000;

    fn errno(number: c::c_int) -> u32 {
        0x0005_0000 | number as u32
    }

    #[test]
    fn what_reaches_others_is_refused() {
        let [unknown, program] = programs(77, Needs { executes: true, maps: false }).unwrap();
        let denied = [
            c::SYS_ptrace,
            c::SYS_process_vm_readv,
            c::SYS_process_vm_writev,
            c::SYS_pidfd_open,
            c::SYS_pidfd_getfd,
            c::SYS_pidfd_send_signal,
            c::SYS_bpf,
            c::SYS_perf_event_open,
            c::SYS_mount,
            c::SYS_umount2,
            c::SYS_fsopen,
            c::SYS_open_tree,
            c::SYS_move_mount,
            c::SYS_pivot_root,
            c::SYS_chroot,
            c::SYS_unshare,
            c::SYS_setns,
            c::SYS_keyctl,
            c::SYS_add_key,
            c::SYS_request_key,
            c::SYS_kexec_load,
            c::SYS_kexec_file_load,
            c::SYS_init_module,
            c::SYS_finit_module,
            c::SYS_delete_module,
            c::SYS_userfaultfd,
            c::SYS_io_uring_setup,
            c::SYS_io_uring_enter,
            c::SYS_io_uring_register,
            c::SYS_socket,
            c::SYS_connect,
            c::SYS_bind,
            c::SYS_listen,
            c::SYS_accept4,
            c::SYS_setuid,
            c::SYS_setresuid,
            c::SYS_setgroups,
            c::SYS_capset,
            c::SYS_process_madvise,
            c::SYS_splice,
            c::SYS_vmsplice,
            c::SYS_open_by_handle_at,
            c::SYS_shmget,
            c::SYS_tkill,
            c::SYS_sched_setscheduler,
        ];
        for call in denied {
            assert_eq!(run(&program, call, [0; 6]), errno(c::EPERM), "call {call}");
        }
        assert_eq!(run(&unknown, c::SYS_clone3, [0; 6]), errno(c::ENOSYS));
        assert_eq!(run(&unknown, c::SYS_read, [0; 6]), ALLOW);
        // The 32-bit numbers of x86-64 (x32), and numbers of the future.
        for call in [c::SYS_read | 0x4000_0000, 4000] {
            assert_eq!(run(&program, call, [0; 6]), errno(c::EPERM), "call {call:#x}");
        }
    }

    #[test]
    fn arguments_decide_where_a_call_has_two_sides() {
        let [_, program] = programs(77, Needs::default()).unwrap();
        let page = 0x7f00_0000_0000_u64;
        let thread = (c::CLONE_VM | c::CLONE_FS | c::CLONE_FILES | c::CLONE_SIGHAND | c::CLONE_THREAD) as u64;
        let fork = c::SIGCHLD as u64;
        let cases: [(c::c_long, [u64; 6], bool); 26] = [
            (c::SYS_read, [3, page, 10, 0, 0, 0], true),
            (c::SYS_futex, [page, 1, 1, 0, 0, 0], true),
            (c::SYS_clone, [thread, page, 0, 0, 0, 0], true),
            (c::SYS_clone, [fork, 0, 0, 0, 0, 0], false),
            (c::SYS_clone, [c::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0], false),
            (c::SYS_kill, [77, 6, 0, 0, 0, 0], true),
            (c::SYS_kill, [78, 6, 0, 0, 0, 0], false),
            // To its process group, and to all.
            (c::SYS_kill, [0, 6, 0, 0, 0, 0], false),
            (c::SYS_kill, [u64::MAX, 6, 0, 0, 0, 0], false),
            (c::SYS_tgkill, [77, 78, 6, 0, 0, 0], true),
            (c::SYS_tgkill, [1, 1, 6, 0, 0, 0], false),
            (c::SYS_prlimit64, [0, 3, 0, page, 0, 0], true),
            (c::SYS_prlimit64, [78, 3, page, 0, 0, 0], false),
            (c::SYS_ioctl, [1, c::TCGETS, page, 0, 0, 0], true),
            (c::SYS_ioctl, [1, c::TIOCSTI, page, 0, 0, 0], false),
            (c::SYS_prctl, [c::PR_SET_NAME as u64, page, 0, 0, 0, 0], true),
            (c::SYS_prctl, [c::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0], false),
            (c::SYS_fallocate, [3, 0, 0, 4096, 0, 0], true),
            (c::SYS_fallocate, [3, 3, 0, 4096, 0, 0], false),
            (c::SYS_madvise, [page, 4096, c::MADV_DONTNEED as u64, 0, 0, 0], true),
            (c::SYS_madvise, [page, 4096, c::MADV_REMOVE as u64, 0, 0, 0], false),
            (c::SYS_sendto, [3, page, 8, c::MSG_NOSIGNAL as u64, 0, 0], true),
            (c::SYS_sendto, [3, page, 8, 0, page, 16], false),
            (c::SYS_sendmsg, [3, page, c::MSG_FASTOPEN as u64, 0, 0, 0], false),
            (c::SYS_socketpair, [c::AF_UNIX as u64, c::SOCK_STREAM as u64, 0, page, 0, 0], true),
            (c::SYS_socketpair, [c::AF_UNIX as u64, c::SOCK_DGRAM as u64, 0, page, 0, 0], false),
        ];
        for (call, arguments, allowed) in cases {
            let expected = if allowed { ALLOW } else { errno(c::EPERM) };
            assert_eq!(run(&program, call, arguments), expected, "call {call} with {arguments:x?}");
        }
        // What is built in becomes no other program.
        assert_eq!(run(&program, c::SYS_execve, [0; 6]), errno(c::EPERM));
    }

    #[test]
    fn hybrid_functions_reach_elements_of_maps_and_nothing_else_of_bpf() {
        let [_, hybrid] = programs(77, Needs { executes: false, maps: true }).unwrap();
        let [_, other] = programs(77, Needs::default()).unwrap();
        let page = 0x7f00_0000_0000_u64;
        // Of all commands there are, and some more: those on elements, alone and in batches.
        let elements = [1, 2, 3, 4, 21, 24, 26, 27];
        for command in 0..64_u64 {
            let expected = if elements.contains(&command) { ALLOW } else { errno(c::EPERM) };
            assert_eq!(run(&hybrid, c::SYS_bpf, [command, page, 32, 0, 0, 0]), expected, "command {command}");
            assert_eq!(run(&other, c::SYS_bpf, [command, page, 32, 0, 0, 0]), errno(c::EPERM), "command {command}");
        }
        for command in [u64::from(u32::MAX), 1 << 31 | 1] {
            assert_eq!(run(&hybrid, c::SYS_bpf, [command, page, 32, 0, 0, 0]), errno(c::EPERM), "command {command}");
        }
    }
}
