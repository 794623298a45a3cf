//! An engine that cannot be set up is passed over, with its reason kept; a choice that cannot be had is an error.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{
    ffi::c_long,
    sync::{Mutex, PoisonError},
    thread,
};

use common::{at, directory, new_file, open};
use storage_io::{EngineChoice, EngineKind, Executor, StorageExt};

/// Runs `story` on a thread of its own, for which the kernel refuses these system calls with these numbers.
fn with_refused<T: Send>(refused: &[Refused], story: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            refuse(refused);
            story()
        });
        thread.join().unwrap()
    })
}

/// A system call that the kernel refuses.
#[derive(Clone, Copy)]
struct Refused {
    call: c_long,
    /// Only with this second argument.
    argument: Option<u32>,
    errno: i32,
}

/// A filter on the calling thread: compares each system call with those refused.
fn refuse(refused: &[Refused]) {
    const NUMBER: u32 = 0;
    /// Its lower half, where the machine puts that first.
    const SECOND_ARGUMENT: u32 = 24;
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let instruction = |code, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let mut program = Vec::new();
    for Refused { call, argument, errno } in refused {
        let answer = libc::SECCOMP_RET_ERRNO | u32::try_from(*errno).unwrap();
        program.push(instruction(LOAD, 0, 0, NUMBER));
        let behind = if argument.is_some() { 3 } else { 1 };
        program.push(instruction(JUMP_IF_EQUAL, 0, behind, u32::try_from(*call).unwrap()));
        if let Some(argument) = argument {
            program.push(instruction(LOAD, 0, 0, SECOND_ARGUMENT));
            program.push(instruction(JUMP_IF_EQUAL, 0, 1, *argument));
        }
        program.push(instruction(RETURN, 0, 0, answer));
    }
    program.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: no pointers are passed.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the filter and its program are there until the kernel has copied them.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    assert_eq!((promised, set), (0, 0), "{}", std::io::Error::last_os_error());
}

/// The engine that probing finds, which works; and what it says of those that it passed over.
fn probed() -> (EngineKind, Vec<String>) {
    let executor = Executor::new(EngineChoice::Probe).unwrap();
    let directory = directory();
    let file = open(&executor, &directory.path().join("image"), new_file(true));
    executor.block_on(async {
        file.write_bytes(&executor, at(0), &[5; 4096]).await.unwrap();
        file.sync(&executor).await.unwrap();
        assert_eq!(file.read_bytes(&executor, at(0), 4096).await.unwrap(), [5; 4096]);
    });
    let refused = executor.refused_engines().iter().map(|(kind, error)| format!("{kind}: {error}"));
    (executor.engine(), refused.collect())
}

const NO_URING: Refused = Refused { call: libc::SYS_io_uring_setup, argument: None, errno: libc::EPERM };
const NO_AIO: Refused = Refused { call: libc::SYS_io_setup, argument: None, errno: libc::EAGAIN };
const NO_EPOLL: Refused = Refused { call: libc::SYS_epoll_create1, argument: None, errno: libc::EMFILE };
/// A ring cannot be told what it may be asked for (`IORING_REGISTER_RESTRICTIONS`).
const NO_RESTRICTIONS: Refused = Refused { call: libc::SYS_io_uring_register, argument: Some(11), errno: libc::EINVAL };

const URING_REASON: &str =
    "io_uring: forbidden by kernel.io_uring_disabled or a system call filter: Operation not permitted (os error 1)";
const AIO_REASON: &str = "libaio: fs.aio-max-nr is used up: Resource temporarily unavailable (os error 11)";

/// Held by who needs contexts of the machine's, or takes them all.
static CONTEXTS: Mutex<()> = Mutex::new(());

#[test]
fn probing_takes_io_uring_where_it_is_allowed() {
    assert_eq!(probed(), (EngineKind::IoUring, vec![]));
}

#[test]
fn without_io_uring_probing_takes_libaio() {
    let _contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = with_refused(&[NO_URING], probed);
    assert_eq!(found, (EngineKind::Libaio, vec![URING_REASON.to_string()]));
}

#[test]
fn a_kernel_that_cannot_restrict_rings_gets_one_without_restrictions() {
    let _contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(with_refused(&[NO_RESTRICTIONS], probed), (EngineKind::IoUring, vec![]));
    let forbidden = Refused { errno: libc::EPERM, ..NO_RESTRICTIONS };
    let (engine, reasons) = with_refused(&[forbidden], probed);
    assert_eq!((engine, reasons), (EngineKind::Libaio, vec![URING_REASON.to_string()]), "somebody does not want it");
}

#[test]
fn without_both_probing_takes_threads() {
    let found = with_refused(&[NO_URING, NO_AIO], probed);
    assert_eq!(found, (EngineKind::Threads, vec![URING_REASON.to_string(), AIO_REASON.to_string()]));
}

#[test]
fn without_any_the_error_says_why_for_each() {
    let error = with_refused(&[NO_URING, NO_AIO, NO_EPOLL], || Executor::new(EngineChoice::Probe).unwrap_err());
    let reason = "Too many open files (os error 24)";
    let words = format!("no I/O engine ({URING_REASON}; {AIO_REASON}; threads: cannot be set up: {reason}): {reason}");
    assert_eq!((error.to_string(), error.os_error()), (words, Some(libc::EMFILE)));
}

#[test]
fn an_engine_that_was_chosen_is_not_replaced() {
    let error = with_refused(&[NO_URING], || Executor::new(EngineChoice::IoUring).unwrap_err());
    assert_eq!(error.os_error(), Some(libc::EPERM));
    assert_eq!(error.to_string(), format!("no I/O engine ({URING_REASON}): Operation not permitted (os error 1)"));
}

/// Contexts that take all that `fs.aio-max-nr` allows, given back at the end.
struct AllContexts(Vec<libc::c_ulong>);

impl AllContexts {
    fn take() -> Self {
        let mut contexts = Vec::new();
        let mut size = 1 << 20;
        while size >= 16 {
            let mut context: libc::c_ulong = 0;
            // SAFETY: the kernel writes one word.
            if unsafe { libc::syscall(libc::SYS_io_setup, size, &raw mut context) } == 0 {
                contexts.push(context);
            } else {
                size /= 2;
            }
        }
        AllContexts(contexts)
    }
}

impl Drop for AllContexts {
    fn drop(&mut self) {
        for context in &self.0 {
            // SAFETY: the context is ours, and empty.
            unsafe { libc::syscall(libc::SYS_io_destroy, *context) };
        }
    }
}

/// The limit is one for the whole machine, so this is quick.
#[test]
fn when_the_machine_has_no_contexts_left_probing_takes_threads() {
    let _contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = with_refused(&[NO_URING], || {
        let _all = AllContexts::take();
        let executor = Executor::new(EngineChoice::Probe).unwrap();
        (executor.engine(), executor.refused_engines()[1].1.os_error())
    });
    assert_eq!(found, (EngineKind::Threads, Some(libc::EAGAIN)));
}
