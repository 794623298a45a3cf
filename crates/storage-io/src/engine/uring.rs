//! io_uring: file I/O, readiness, wake-ups and waiting in one ring.
//!
//! ```text
//!   start, watch --> submission queue --+
//!                    (backlog if full)  |  one system call per collect
//!   collect  <------ completion queue <-+
//! ```
//!
//! What is started is handed over when the executor collects next, all of it with the call that waits. The kernel
//! interrupts nobody for a completion (COOP_TASKRUN): our own wait, or the poll of the ring's descriptor, finds it.
//!
//! A filter of system calls does not see what a ring carries. So each ring is made disabled, told the few operations that
//! it will be asked for, and enabled: from then on the kernel refuses all others, whoever gets hold of the process.

use std::{
    collections::VecDeque,
    io,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use io_uring::{EnterFlags, IoUring, Probe, opcode, register::Restriction, squeue, types};

use super::{
    Command, CommandKind, Engine, EngineKind, Interest, Key, Memory, Started,
    poller::{new_timer, set_timer},
    wait_limit,
};
use crate::{executor::Wait, shared::Shared};

/// Submissions that go with one system call; more of them take another.
const SUBMISSIONS: u32 = 256;
/// Completions that fit the queue; the kernel keeps more of them aside.
const COMPLETIONS: u32 = 1024;
/// Kernel threads that one ring may occupy with file I/O that cannot be asynchronous.
const KERNEL_WORKERS_MAX: u32 = 32;
/// What one call moves at most, as in the kernel.
const TRANSFER_MAX: usize = 0x7fff_f000;

/// Completions that are not an operation's carry these numbers.
const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
const CANCEL: u64 = u64::MAX - 2;
/// Set in the number of a watch.
const WATCH: u64 = 1 << 62;

pub(super) struct Uring {
    ring: ManuallyDrop<IoUring>,
    shared: Arc<Shared>,
    /// Whether the ring looks at the executor's wake descriptor.
    wake_armed: bool,
    timer: Option<OwnedFd>,
    timer_armed: bool,
    /// What did not fit the submission queue, in order.
    backlog: VecDeque<squeue::Entry>,
    /// Operations that the kernel has, or will get: their memory and their ring must stay.
    in_flight: usize,
}

impl Uring {
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        Ok(Uring {
            ring: ManuallyDrop::new(new_ring()?),
            shared: shared.clone(),
            wake_armed: false,
            timer: None,
            timer_armed: false,
            backlog: VecDeque::new(),
            in_flight: 0,
        })
    }

    fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.push_now(&entry) {
            self.backlog.push_back(entry);
        }
    }

    /// Puts an entry into the submission queue, making room if it is full.
    fn push_now(&mut self, entry: &squeue::Entry) -> bool {
        if self.ring.submission().is_full() {
            // Refused when completions must be collected first: the backlog keeps the entry until then.
            let _ = self.ring.submit();
        }
        // SAFETY: the reactor keeps memory and descriptor of an operation until its completion; whoever watches keeps
        // the descriptor, and the kernel checks it.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.push_now(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Lets the ring become readable when `timer` runs out.
    fn leave_timer(&mut self, timer: Option<Duration>) -> io::Result<()> {
        let descriptor = match &self.timer {
            Some(descriptor) => descriptor,
            None if timer.is_none() => return Ok(()),
            None => self.timer.insert(new_timer()?),
        };
        set_timer(descriptor, timer)?;
        if !std::mem::replace(&mut self.timer_armed, true) {
            let poll = poll_add(descriptor.as_raw_fd(), libc::POLLIN);
            self.push(poll.user_data(TIMER));
        }
        Ok(())
    }

    fn arm_wake(&mut self) {
        if !self.wake_armed {
            self.wake_armed = true;
            let descriptor = self.shared.wake_descriptor().as_raw_fd();
            self.push(poll_add(descriptor, libc::POLLIN).user_data(WAKE));
        }
    }

    /// One call to the kernel: hands over what was started, waits for a completion as told.
    fn enter(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let count = u32::try_from(self.ring.submission().len()).expect("the queue has a few hundred entries");
        let submitter = self.ring.submitter();
        let result = match limit {
            Some(Duration::ZERO) => {
                let flags = EnterFlags::GETEVENTS.bits();
                // SAFETY: no argument is passed.
                unsafe { submitter.enter::<libc::sigset_t>(count, 0, flags, None) }
            }
            Some(limit) => {
                let limit = types::Timespec::from(limit);
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
            }
            None => submitter.submit_and_wait(1),
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Time is up; a signal; completions have to be collected, or memory found, before more can be submitted.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes what is in the completion queue.
    fn reap(&mut self, done: &mut Vec<(Key, i32)>) {
        let mut completions = self.ring.completion();
        completions.sync();
        for completion in completions {
            match completion.user_data() {
                WAKE => {
                    self.wake_armed = false;
                    self.shared.clear_wake();
                }
                TIMER => self.timer_armed = false,
                CANCEL => {}
                number => {
                    if number & WATCH == 0 {
                        self.in_flight -= 1;
                    }
                    let key = usize::try_from(number & !WATCH).expect("keys are indices of a table");
                    done.push((key, completion.result()));
                }
            }
        }
    }
}

impl Engine for Uring {
    fn kind(&self) -> EngineKind {
        EngineKind::IoUring
    }

    fn start(&mut self, key: Key, command: Command) -> Started {
        let Some(entry) = submission(&command) else {
            return Started::Refused;
        };
        self.in_flight += 1;
        self.push(entry.user_data(key as u64));
        Started::Yes
    }

    fn watch(&mut self, key: Key, descriptor: RawFd, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::POLLIN | libc::POLLRDHUP,
            Interest::Write => libc::POLLOUT,
        };
        self.push(poll_add(descriptor, events).user_data(key as u64 | WATCH));
        Ok(())
    }

    fn unwatch(&mut self, key: Key) -> bool {
        // Whether it is still in time or not, the watch itself completes, and that is what is waited for.
        let cancel = opcode::PollRemove::new(key as u64 | WATCH).build();
        self.push(cancel.user_data(CANCEL));
        false
    }

    fn collect(&mut self, wait: Wait, timer: Option<Duration>, done: &mut Vec<(Key, i32)>) -> io::Result<()> {
        self.arm_wake();
        self.push_backlog();
        let ready = !self.ring.completion().is_empty();
        let limit = if ready || !self.backlog.is_empty() { Some(Duration::ZERO) } else { wait_limit(wait, timer) };
        let entered = if ready && self.ring.submission().is_empty() { Ok(()) } else { self.enter(limit) };
        self.reap(done);
        while self.ring.submission().cq_overflow() {
            self.enter(Some(Duration::ZERO))?;
            self.reap(done);
        }
        entered
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring is open as long as the engine.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    fn leave(&mut self, timer: Option<Duration>) -> io::Result<()> {
        self.leave_timer(timer)?;
        self.arm_wake();
        self.push_backlog();
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        self.enter(Some(Duration::ZERO))
    }
}

impl Drop for Uring {
    /// What was started is carried out. A ring that is closed cancels what it can: with operations on their way it stays
    /// open until the process ends.
    fn drop(&mut self) {
        self.push_backlog();
        let _ = self.ring.submit();
        if self.in_flight == 0 {
            // SAFETY: nobody uses the ring after this.
            unsafe { ManuallyDrop::drop(&mut self.ring) };
        }
    }
}

/// All operations that a ring is ever asked for.
const OPERATIONS: [u8; 8] = [
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::PollAdd::CODE,
    opcode::PollRemove::CODE,
];

/// What a ring is made with.
#[derive(Clone, Copy, Debug)]
struct Setup {
    /// The flags of newer kernels, for a ring that one thread uses.
    for_one_thread: bool,
    /// The kernel refuses all but [`OPERATIONS`].
    is_restricted: bool,
}

/// What is tried, the best first.
const SETUPS: [Setup; 4] = [
    Setup { for_one_thread: true, is_restricted: true },
    Setup { for_one_thread: false, is_restricted: true },
    Setup { for_one_thread: true, is_restricted: false },
    Setup { for_one_thread: false, is_restricted: false },
];

/// A ring that is ready for use by the calling thread, the best that the kernel knows.
fn new_ring() -> io::Result<IoUring> {
    let [first, others @ ..] = SETUPS;
    others.iter().fold(ring_with(first), |ring, setup| match ring {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => ring_with(*setup),
        decided => decided,
    })
}

fn ring_with(setup: Setup) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETIONS);
    if setup.for_one_thread {
        // Of a ring that begins disabled, the thread is the one that enables it.
        builder.setup_single_issuer().setup_coop_taskrun();
    }
    if setup.is_restricted {
        builder.setup_r_disabled();
    }
    let ring = builder.build(SUBMISSIONS)?;
    check(&ring)?;
    // Kernels before 5.15 do not know this limit.
    let _ = ring.submitter().register_iowq_max_workers(&mut [KERNEL_WORKERS_MAX, 0]);
    if setup.is_restricted {
        let mut allowed = OPERATIONS.map(Restriction::sqe_op);
        ring.submitter().register_restrictions(&mut allowed)?;
        ring.submitter().register_enable_rings()?;
    }
    Ok(ring)
}

/// Whether the kernel's io_uring has all that this engine asks of it.
fn check(ring: &IoUring) -> io::Result<()> {
    let parameters = ring.params();
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let complete = parameters.is_feature_nodrop()
        && parameters.is_feature_ext_arg()
        && parameters.is_feature_submit_stable()
        && OPERATIONS.iter().all(|code| probe.is_supported(*code));
    if complete { Ok(()) } else { Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring is too old")) }
}

fn poll_add(descriptor: RawFd, events: libc::c_short) -> squeue::Entry {
    let events = u32::try_from(events).expect("poll flags are positive");
    opcode::PollAdd::new(types::Fd(descriptor), events).build()
}

/// The entry that carries out a command. None: io_uring has no such operation.
fn submission(command: &Command) -> Option<squeue::Entry> {
    let file = types::Fd(command.descriptor);
    let done = command.done as u64;
    Some(match (command.kind, command.memory) {
        (CommandKind::Read { offset, .. }, Memory::One { start, length }) => {
            opcode::Read::new(file, start.cast(), transfer_length(length)).offset(offset + done).build()
        }
        (CommandKind::Read { offset, .. }, Memory::Many { vectors, count }) => {
            opcode::Readv::new(file, vectors, count).offset(offset + done).build()
        }
        (CommandKind::Write { offset, durable }, Memory::One { start, length }) => {
            opcode::Write::new(file, start.cast_const().cast(), transfer_length(length))
                .offset(offset + done)
                .rw_flags(Command::write_flags(durable))
                .build()
        }
        (CommandKind::Write { offset, durable }, Memory::Many { vectors, count }) => {
            opcode::Writev::new(file, vectors, count)
                .offset(offset + done)
                .rw_flags(Command::write_flags(durable))
                .build()
        }
        (CommandKind::Sync, _) => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        (CommandKind::Fallocate { range, mode }, _) => {
            opcode::Fallocate::new(file, range.length()).offset(range.start().get()).mode(mode).build()
        }
        _ => return None,
    })
}

fn transfer_length(length: usize) -> u32 {
    u32::try_from(length.min(TRANSFER_MAX)).expect("the limit fits 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel answers to one operation.
    fn answer(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
        // SAFETY: the entries of these tests name no memory but constants.
        unsafe { ring.submission().push(entry) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        ring.completion().next().unwrap().result()
    }

    #[test]
    fn a_ring_carries_what_the_engine_asks_for_and_nothing_else() {
        let mut ring = new_ring().unwrap();
        let closed = types::Fd(-1);
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), c"/".as_ptr()).build();
        let shutdown = opcode::Shutdown::new(closed, 0).build();
        for refused in [open, shutdown, opcode::Nop::new().build(), opcode::Close::new(closed).build()] {
            assert_eq!(answer(&mut ring, &refused), -libc::EACCES);
        }
        assert_eq!(answer(&mut ring, &opcode::Fsync::new(closed).build()), -libc::EBADF);
        // Nor can anything be added to it.
        let error = ring.submitter().register_files(&[-1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }

    /// Each of them works on a kernel as new as the one that the tests need.
    #[test]
    fn rings_of_older_kernels_work_too() {
        for setup in SETUPS {
            let mut ring = ring_with(setup).unwrap();
            assert_eq!(answer(&mut ring, &opcode::Fsync::new(types::Fd(-1)).build()), -libc::EBADF, "{setup:?}");
            let refused = answer(&mut ring, &opcode::Nop::new().build()) == -libc::EACCES;
            assert_eq!(refused, setup.is_restricted, "{setup:?}");
        }
    }
}
