//! System calls: three filters (seccomp), of which the strictest answer counts.
//!
//! | filter | answer | to |
//! | --- | --- | --- |
//! | never ours | the process is killed | what no code of ours and no C library calls by itself: programs, namespaces, mounts, other processes' memory, kernel modules ... Whoever calls them is somebody else, and should not get a second try |
//! | not known yet | `ENOSYS` | calls that are younger than this list, and `clone3`, whose flags a filter cannot see: C libraries then use the older call |
//! | the list | `EPERM` | whatever is not on it: if that was a mistake of ours, one call fails, and no data path ends |
//!
//! The list holds what the Rust library, glibc or musl, and our own code call on x86-64 and aarch64, with arguments where
//! they make the difference: no memory becomes code, no process is started, no signal is sent to others, sockets are
//! those of this host. What io_uring carries is not seen here. Our own rings are restricted where they
//! are made; an intruder can make one that is not (every disk needs a new ring, and a filter cannot see what a ring is to
//! be). With it he can make sockets of other families and connect them, and make, rename and link files, where landlock
//! and the capabilities that are left do not forbid it; start programs, map code or signal others he cannot.

use std::collections::BTreeMap;

use block_core::{Error, ErrorKind, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// Calls by number, with what their arguments must be; no rule: any.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Allowed with any arguments.
#[rustfmt::skip]
const ALLOWED: &[i64] = &[
    // Files.
    libc::SYS_openat, libc::SYS_close, libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev,
    libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2,
    libc::SYS_lseek, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_flock,
    libc::SYS_fadvise64, libc::SYS_statx, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statfs,
    libc::SYS_fstatfs, libc::SYS_faccessat, libc::SYS_readlinkat, libc::SYS_getdents64, libc::SYS_getcwd,
    libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_umask,
    libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2, libc::SYS_memfd_create,
    // Asynchronous I/O.
    libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register,
    libc::SYS_io_setup, libc::SYS_io_submit, libc::SYS_io_getevents, libc::SYS_io_cancel,
    libc::SYS_io_destroy,
    // Waiting.
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_eventfd2, libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    libc::SYS_signalfd4, libc::SYS_futex, libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_clock_gettime,
    libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_sched_yield, libc::SYS_restart_syscall,
    // Sockets that are there.
    libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect, libc::SYS_shutdown,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto,
    libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg,
    // Memory.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_mlock, libc::SYS_mlock2,
    libc::SYS_munlock, libc::SYS_membarrier,
    // The process, its threads and signals.
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_gettid, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getuid,
    libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_set_tid_address, libc::SYS_set_robust_list,
    libc::SYS_rseq, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    libc::SYS_sched_getaffinity, libc::SYS_getcpu, libc::SYS_getrusage, libc::SYS_getrandom, libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// The older forms that libraries still use where the kernel has them.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_getdents,
    libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename, libc::SYS_chmod, libc::SYS_dup2,
    libc::SYS_pipe, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_eventfd,
    libc::SYS_signalfd, libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

/// Never ours.
#[rustfmt::skip]
const FATAL: &[i64] = &[
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_setns, libc::SYS_unshare, libc::SYS_chroot, libc::SYS_pivot_root, libc::SYS_mount, libc::SYS_umount2,
    libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount,
    libc::SYS_fspick, libc::SYS_mount_setattr, libc::SYS_open_by_handle_at, libc::SYS_pidfd_getfd,
    libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_kexec_load,
    libc::SYS_kexec_file_load, libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_add_key,
    libc::SYS_request_key, libc::SYS_keyctl, libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff,
];

/// Of one number on every machine: 424 was the first such call. From 435 on, a library may know more of them than we do.
const YOUNG: std::ops::Range<i64> = 435..512;

/// Requests to devices, files and sockets: sizes, discard and zero-out of block devices; non-blocking sockets; whether
/// something is a terminal. (What is asked of the devices of Xen, they say themselves.) They are the same on both machines, but not of the same type in all C libraries.
#[rustfmt::skip]
const REQUESTS: [u64; 8] = [
    0x1268, // BLKSSZGET
    0x127b, // BLKPBSZGET
    0x8008_1272, // BLKGETSIZE64
    0x1277, // BLKDISCARD
    0x127f, // BLKZEROOUT
    0x5421, // FIONBIO
    0x5451, // FIOCLEX
    0x5401, // TCGETS
];

/// Commands of `fcntl` that our code and the libraries use, besides `F_SETFL`. Not those that name whom a descriptor
/// signals, and with what: they reach processes that `kill` here does not.
#[rustfmt::skip]
const FCNTL_COMMANDS: [libc::c_int; 7] = [
    libc::F_GETFL, libc::F_GETFD, libc::F_SETFD, libc::F_DUPFD_CLOEXEC, libc::F_ADD_SEALS, libc::F_GET_SEALS,
    // Who takes part in the grant budget, and whether others still do.
    libc::F_OFD_SETLK,
];

/// Names of threads and of memory, and what the kernel tells every program at its start.
#[rustfmt::skip]
const PROCESS_OPTIONS: [u64; 3] = [
    15, // PR_SET_NAME
    0x5356_4d41, // PR_SET_VMA
    0x4155_5856, // PR_GET_AUXV
];

/// Lets this thread, and those that it will start, call what is allowed only. `pid` is this process.
pub(super) fn enter(pid: u32) -> Result<()> {
    // The last one forbids further ones.
    for program in [fatal()?, unknown()?, listed(pid)?] {
        apply_filter(&program).map_err(|error| match error {
            seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => Error::from_os("seccomp", error),
            other => Error::new(ErrorKind::Unsupported, format!("seccomp: {other}")),
        })?;
    }
    Ok(())
}

fn fatal() -> Result<BpfProgram> {
    let rules = FATAL.iter().map(|call| (*call, Vec::new())).collect();
    compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

fn unknown() -> Result<BpfProgram> {
    let rules = young().map(|call| (call, Vec::new())).collect();
    let not_there = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    compile(rules, not_there, SeccompAction::Allow)
}

/// What the C library may try first and do without.
fn young() -> impl Iterator<Item = i64> {
    YOUNG.filter(|call| !ALLOWED.contains(call) && !FATAL.contains(call))
}

fn listed(pid: u32) -> Result<BpfProgram> {
    let any = ALLOWED.iter().chain(ALLOWED_HERE).copied().chain(young());
    let mut rules: Rules = any.map(|call| (call, Vec::new())).collect();
    rules.extend(with_arguments(pid)?);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    compile(rules, SeccompAction::Allow, refused)
}

fn with_arguments(pid: u32) -> Result<Rules> {
    let is = |argument, value| when(argument, SeccompCmpOp::Eq, value);
    let without = |argument, bits: libc::c_int| {
        let bits = u64::from(bits.unsigned_abs());
        when(argument, SeccompCmpOp::MaskedEq(bits), 0)
    };
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let unix = u64::from(libc::AF_UNIX.unsigned_abs());
    let requests = REQUESTS.into_iter().chain(xen::linux::REQUESTS.map(u64::from));
    let requests = requests.map(|request| is(1, request)).collect::<Result<Vec<_>>>()?;
    let options = PROCESS_OPTIONS.iter().map(|option| is(0, *option)).collect::<Result<Vec<_>>>()?;
    Ok(Rules::from([
        (libc::SYS_fcntl, fcntl()?),
        (libc::SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(thread), thread)?]),
        (libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]),
        (libc::SYS_mprotect, vec![without(2, libc::PROT_EXEC)?]),
        (libc::SYS_socket, vec![is(0, unix)?]),
        (libc::SYS_socketpair, vec![is(0, unix)?]),
        // Whether somebody is there; and what ends this process when it panics or aborts.
        (libc::SYS_kill, vec![is(1, 0)?]),
        (libc::SYS_tgkill, vec![is(0, u64::from(pid))?]),
        (libc::SYS_prlimit64, vec![when_whole(2, 0)?]),
        (libc::SYS_ioctl, requests),
        (libc::SYS_prctl, options),
    ]))
}

/// `F_SETFL` sets any flag but the one that makes a descriptor send signals.
fn fcntl() -> Result<Vec<SeccompRule>> {
    let is = |command: libc::c_int| {
        let command = u64::from(command.unsigned_abs());
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, command)
    };
    let quiet = SeccompCmpOp::MaskedEq(u64::from(libc::O_ASYNC.unsigned_abs()));
    let quiet = SeccompCondition::new(2, SeccompCmpArgLen::Dword, quiet, 0).map_err(ours)?;
    let set_flags = SeccompRule::new(vec![is(libc::F_SETFL).map_err(ours)?, quiet]).map_err(ours)?;
    FCNTL_COMMANDS.into_iter().map(|command| rule(is(command))).chain([Ok(set_flags)]).collect()
}

/// A rule about the lower half of an argument, which is all of an `int`.
fn when(argument: u8, comparison: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    rule(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison, value))
}

/// A rule about a pointer.
fn when_whole(argument: u8, value: u64) -> Result<SeccompRule> {
    rule(SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value))
}

fn rule(condition: std::result::Result<SeccompCondition, seccompiler::BackendError>) -> Result<SeccompRule> {
    condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(ours)
}

fn compile(rules: Rules, found: SeccompAction, otherwise: SeccompAction) -> Result<BpfProgram> {
    let machine = std::env::consts::ARCH.try_into().map_err(ours)?;
    SeccompFilter::new(rules, otherwise, found, machine).and_then(TryInto::try_into).map_err(ours)
}

/// A machine that the compiler of filters does not know.
fn ours(error: seccompiler::BackendError) -> Error {
    Error::new(ErrorKind::Unsupported, format!("seccomp: {error}"))
}

#[cfg(test)]
mod tests {
    use std::{
        env, io,
        net::TcpListener,
        os::unix::{
            fs::{chown, chroot},
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
        process::{self, Command},
        thread,
    };

    use super::*;

    /// Runs `story` on a thread that the filters hold.
    fn locked_in<T: Send>(story: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(process::id()).unwrap();
                story()
            });
            thread.join().unwrap()
        })
    }

    fn number<T>(result: io::Result<T>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn what_is_not_on_the_list_fails_and_ends_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let numbers = locked_in(|| {
            [
                number(TcpListener::bind("127.0.0.1:0")),
                number(chown(path, None, None)),
                number(std::os::unix::fs::symlink("a", path.with_extension("link"))),
                number(Command::new("true").spawn()),
                number(Err::<(), _>(rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT).unwrap_err().into())),
                number(enter(process::id()).map_err(|error| io::Error::from_raw_os_error(error.os_error().unwrap()))),
            ]
        });
        assert_eq!(numbers, [Some(libc::EPERM); 6]);
    }

    #[test]
    fn what_a_disk_needs_works() {
        let file = tempfile::NamedTempFile::new().unwrap();
        locked_in(|| {
            std::fs::write(file.path(), "bytes").unwrap();
            UnixStream::pair().unwrap().0.set_nonblocking(true).unwrap();
            thread::Builder::new().name("named".into()).spawn(|| ()).unwrap().join().unwrap();
        });
    }

    #[test]
    fn descriptors_send_no_signals_to_others() {
        use rustix::{
            fs::{FlockOperation, OFlags, fcntl_getfl, fcntl_lock, fcntl_setfl},
            io::{Errno, FdFlags, fcntl_setfd},
            pipe::fcntl_setpipe_size,
        };
        let (pipe, _other_end) = rustix::pipe::pipe().unwrap();
        locked_in(|| {
            assert_eq!(fcntl_setfl(&pipe, OFlags::ASYNC | OFlags::NONBLOCK), Err(Errno::PERM));
            fcntl_setfl(&pipe, fcntl_getfl(&pipe).unwrap() | OFlags::NONBLOCK).unwrap();
            fcntl_setfd(&pipe, FdFlags::CLOEXEC).unwrap();
            // Commands that are not on the list, as those that say whom to signal are not.
            assert_eq!(fcntl_setpipe_size(&pipe, 4096), Err(Errno::PERM));
            assert_eq!(fcntl_lock(&pipe, FlockOperation::Unlock), Err(Errno::PERM));
        });
    }

    #[test]
    fn a_thread_inherits_the_filters() {
        let inner = || number(TcpListener::bind("127.0.0.1:0"));
        assert_eq!(locked_in(|| thread::spawn(inner).join().unwrap()), Some(libc::EPERM));
    }

    /// Says, in a process of its own, what shall be called in there.
    const CALL: &str = "OXTAP_TEST_CALL";

    #[test]
    fn what_is_never_ours_kills_the_process() {
        let name = "jail::filter::tests::what_is_never_ours_kills_the_process";
        match env::var(CALL).as_deref() {
            Ok("execve") => locked_in(|| drop(Command::new("true").exec())),
            Ok("chroot") => locked_in(|| drop(chroot("/"))),
            _ => {
                for call in ["execve", "chroot"] {
                    let mut child = Command::new(env::current_exe().unwrap());
                    let ended = child.args(["--exact", name]).env(CALL, call).output().unwrap();
                    assert_eq!(ended.status.signal(), Some(libc::SIGSYS), "{call}: {ended:?}");
                }
            }
        }
    }

    #[test]
    fn the_lists_do_not_contradict_each_other() {
        let with_arguments = with_arguments(1).unwrap();
        for call in FATAL {
            assert!(!ALLOWED.contains(call) && !ALLOWED_HERE.contains(call), "{call}");
        }
        for call in ALLOWED.iter().chain(ALLOWED_HERE).chain(FATAL) {
            assert!(!with_arguments.contains_key(call), "{call}");
        }
        assert!(young().any(|call| call == libc::SYS_clone3));
    }
}
