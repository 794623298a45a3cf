//! Linux native AIO: `io_submit` for files that bypass the page cache, worker threads for the rest; completions by an
//! eventfd in the poller. For kernels and containers without io_uring.
//!
//! ```text
//!   start --> queue --io_submit per collect--> kernel --eventfd--> poller --> io_getevents --> done
//!               ^-- what the kernel has no room for waits here, in order
//! ```
//!
//! Raw system calls: the C library has no wrappers for them. The kernel waits in `io_destroy` for what is on its way, so
//! a context with I/O in flight is left to the end of the process.

use std::{
    collections::VecDeque,
    ffi::{c_int, c_long, c_ulong},
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    ptr,
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, memfd_create},
};

use super::{
    Command, CommandKind, Engine, EngineKind, Interest, Key, Memory, Started, command::signed, poller::Poller,
};
use crate::{executor::Wait, shared::Shared};

/// Operations that a context has room for; more of them wait in the queue.
const OPERATIONS: usize = 256;
/// When the kernel has no room although nothing of ours is on its way, it is asked again after this long.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Libaio {
    context: Context,
    poller: Poller,
    /// Raised by the kernel with each completion; its value means nothing.
    completions: OwnedFd,
    /// Started, not yet handed over.
    queue: VecDeque<ControlBlock>,
    in_flight: usize,
    /// Whether the kernel knows durable writes and syncs (Linux 4.18).
    syncs: bool,
}

impl Libaio {
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        let context = Context::new()?;
        let poller = Poller::new(shared)?;
        let completions = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        poller.add_extra(completions.as_fd())?;
        let syncs = context.can_sync();
        let queue = VecDeque::new();
        Ok(Libaio { context, poller, completions, queue, in_flight: 0, syncs })
    }

    /// The control block of a command; none if worker threads have to do it.
    fn control_block(&self, key: Key, command: &Command) -> Option<ControlBlock> {
        let newer = matches!(command.kind, CommandKind::Sync | CommandKind::Write { durable: true, .. });
        if !command.direct || newer && !self.syncs {
            return None;
        }
        let (opcode, offset, flags) = match (command.kind, command.memory) {
            (CommandKind::Read { offset, .. }, Memory::One { .. }) => (opcode::PREAD, offset, 0),
            (CommandKind::Read { offset, .. }, Memory::Many { .. }) => (opcode::PREADV, offset, 0),
            (CommandKind::Write { offset, durable }, Memory::One { .. }) => {
                (opcode::PWRITE, offset, Command::write_flags(durable))
            }
            (CommandKind::Write { offset, durable }, Memory::Many { .. }) => {
                (opcode::PWRITEV, offset, Command::write_flags(durable))
            }
            (CommandKind::Sync, _) => (opcode::FDSYNC, 0, 0),
            _ => return None,
        };
        let (buffer, bytes) = match command.memory {
            Memory::None => (0, 0),
            Memory::One { start, length } => (start.expose_provenance() as u64, length as u64),
            Memory::Many { vectors, count } => (vectors.expose_provenance() as u64, count.into()),
        };
        let offset = signed(offset + command.done as u64);
        Some(ControlBlock {
            data: key as u64,
            flags: OrderedFlags { read_write: flags, key: 0 },
            opcode,
            descriptor: descriptor(command.descriptor),
            buffer,
            bytes: if opcode == opcode::FDSYNC { 0 } else { bytes },
            offset: if opcode == opcode::FDSYNC { 0 } else { offset },
            options: OPTION_EVENTFD,
            eventfd: descriptor(self.completions.as_raw_fd()),
            ..ControlBlock::default()
        })
    }

    /// Hands over as much of the queue as the kernel takes; what it refuses for good is done.
    fn submit(&mut self, done: &mut Vec<(Key, i32)>) {
        while !self.queue.is_empty() {
            match self.context.submit(&mut self.queue) {
                Ok(count) => {
                    self.queue.drain(..count);
                    self.in_flight += count;
                }
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return,
                Err(error) => {
                    // The error is that of the first: a list that is refused further on is taken up to there.
                    let refused = self.queue.pop_front().expect("something was submitted");
                    done.push((refused.key(), -error.raw_os_error().unwrap_or(libc::EIO)));
                }
            }
        }
    }

    fn reap(&mut self, done: &mut Vec<(Key, i32)>) -> io::Result<()> {
        let mut events = [Event::default(); 64];
        while self.in_flight > 0 {
            let count = self.context.events(&mut events, 0)?;
            for event in &events[..count] {
                done.push((event.key(), event.result()));
            }
            self.in_flight -= count;
            if count < events.len() {
                break;
            }
        }
        Ok(())
    }
}

impl Engine for Libaio {
    fn kind(&self) -> EngineKind {
        EngineKind::Libaio
    }

    fn start(&mut self, key: Key, command: Command) -> Started {
        match self.control_block(key, &command) {
            Some(block) => {
                self.queue.push_back(block);
                Started::Yes
            }
            None => Started::Refused,
        }
    }

    fn watch(&mut self, key: Key, descriptor: RawFd, interest: Interest) -> io::Result<()> {
        self.poller.watch(key, descriptor, interest)
    }

    fn unwatch(&mut self, key: Key) -> bool {
        self.poller.unwatch(key)
    }

    fn collect(&mut self, wait: Wait, timer: Option<Duration>, done: &mut Vec<(Key, i32)>) -> io::Result<()> {
        self.submit(done);
        let wait = if !done.is_empty() {
            Wait::No
        } else if !self.queue.is_empty() && self.in_flight == 0 {
            // Nothing of ours will make room: other users of the kernel's memory will.
            match wait {
                Wait::No => Wait::No,
                Wait::For(limit) => Wait::For(limit.min(PAUSE)),
                Wait::Forever => Wait::For(PAUSE),
            }
        } else {
            wait
        };
        self.poller.collect(wait, timer, done)?;
        self.reap(done)?;
        self.submit(done);
        Ok(())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.poller.descriptor()
    }

    fn leave(&mut self, timer: Option<Duration>) -> io::Result<()> {
        let mut refused = Vec::new();
        self.submit(&mut refused);
        let stuck = !self.queue.is_empty() && self.in_flight == 0;
        self.poller.leave(if stuck { Some(timer.map_or(PAUSE, |timer| timer.min(PAUSE))) } else { timer })
    }
}

impl Drop for Libaio {
    /// What was started is carried out, as far as the kernel takes it.
    fn drop(&mut self) {
        self.submit(&mut Vec::new());
        if self.in_flight == 0 {
            self.context.destroy();
        }
    }
}

/// A context of the kernel's.
struct Context(c_ulong);

impl Context {
    fn new() -> io::Result<Self> {
        let mut context: c_ulong = 0;
        let operations = c_int::try_from(OPERATIONS).expect("a few hundred");
        // SAFETY: the kernel writes one word.
        check(unsafe { libc::syscall(libc::SYS_io_setup, operations, &raw mut context) })?;
        Ok(Context(context))
    }

    /// Submits the front of the queue; how many were taken.
    fn submit(&self, queue: &mut VecDeque<ControlBlock>) -> io::Result<usize> {
        let mut blocks = [ptr::null_mut::<ControlBlock>(); OPERATIONS];
        let count = queue.len().min(OPERATIONS);
        for (place, block) in blocks.iter_mut().zip(queue.iter_mut()) {
            *place = block;
        }
        let number = c_long::try_from(count).expect("a few hundred");
        // SAFETY: the kernel copies the control blocks, whose memory the reactor keeps until the completion.
        let taken = check(unsafe { libc::syscall(libc::SYS_io_submit, self.0, number, blocks.as_mut_ptr()) })?;
        Ok(usize::try_from(taken).expect("a count"))
    }

    /// Waits for at least `wanted` completions and takes as many as fit.
    fn events(&self, events: &mut [Event], wanted: c_long) -> io::Result<usize> {
        let timeout = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = if wanted == 0 { &raw const timeout } else { ptr::null() };
        let room = c_long::try_from(events.len()).expect("a few dozen");
        // SAFETY: the kernel writes at most as many events as there is room for.
        let result =
            check(unsafe { libc::syscall(libc::SYS_io_getevents, self.0, wanted, room, events.as_mut_ptr(), timeout) });
        match result {
            Ok(count) => Ok(usize::try_from(count).expect("a count")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Tries a sync on a file in memory, which ends at once where the kernel knows it.
    fn can_sync(&self) -> bool {
        let Ok(file) = memfd_create("probe", MemfdFlags::CLOEXEC) else {
            return false;
        };
        let block = ControlBlock {
            opcode: opcode::FDSYNC,
            descriptor: descriptor(file.as_raw_fd()),
            ..ControlBlock::default()
        };
        let mut events = [Event::default()];
        if !matches!(self.submit(&mut VecDeque::from([block])), Ok(1)) {
            return false;
        }
        while let Ok(0) = self.events(&mut events, 1) {}
        events[0].result() == 0
    }

    fn destroy(&self) {
        // SAFETY: nobody uses the context after this, and nothing of ours is in it.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(descriptor: RawFd) -> u32 {
    u32::try_from(descriptor).expect("descriptors are not negative")
}

/// Values of [`ControlBlock::opcode`].
mod opcode {
    pub(super) const PREAD: u16 = 0;
    pub(super) const PWRITE: u16 = 1;
    pub(super) const FDSYNC: u16 = 3;
    pub(super) const PREADV: u16 = 7;
    pub(super) const PWRITEV: u16 = 8;
}

/// The completion is told to `eventfd`.
const OPTION_EVENTFD: u32 = 1;

/// One operation, as the kernel's binary interface has it (`struct iocb`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct ControlBlock {
    /// Comes back with the completion.
    data: u64,
    flags: OrderedFlags,
    opcode: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    options: u32,
    eventfd: u32,
}

const _: () = assert!(mem::size_of::<ControlBlock>() == 64);

impl ControlBlock {
    fn key(&self) -> Key {
        usize::try_from(self.data).expect("keys are indices of a table")
    }
}

/// Two words of which the first is the kernel's; their order follows the machine's.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[cfg(target_endian = "little")]
struct OrderedFlags {
    key: u32,
    read_write: i32,
}

/// Two words of which the second is the kernel's; their order follows the machine's.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[cfg(target_endian = "big")]
struct OrderedFlags {
    read_write: i32,
    key: u32,
}

/// One completion (`struct io_event`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Event {
    data: u64,
    block: u64,
    result: i64,
    result2: i64,
}

impl Event {
    fn key(&self) -> Key {
        usize::try_from(self.data).expect("keys are indices of a table")
    }

    fn result(&self) -> i32 {
        i32::try_from(self.result).expect("bytes of one call, or an error number")
    }
}
