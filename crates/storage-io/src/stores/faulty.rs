//! A storage that fails on purpose.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use block_core::{Error, FileOffset, FileRange, Origin, Result, SECTOR};

use crate::{Buffer, Completion, Executor, Hold, Limits, Pending, Storage, StorageExt, StorageOperation};

/// What an operation is, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of StorageOperation")]
pub enum OperationKind {
    Read,
    Write,
    Sync,
    Allocate,
    Discard,
    WriteZeroes,
    SetLength,
    Unlock,
    Lock,
}

impl OperationKind {
    /// The kind of `operation`.
    pub fn of(operation: &StorageOperation) -> Self {
        match operation {
            StorageOperation::Read { .. } => OperationKind::Read,
            StorageOperation::Write { .. } => OperationKind::Write,
            StorageOperation::Sync => OperationKind::Sync,
            StorageOperation::Allocate(_) => OperationKind::Allocate,
            StorageOperation::Discard(_) => OperationKind::Discard,
            StorageOperation::WriteZeroes { .. } => OperationKind::WriteZeroes,
            StorageOperation::SetLength(_) => OperationKind::SetLength,
            StorageOperation::Unlock => OperationKind::Unlock,
            StorageOperation::Lock => OperationKind::Lock,
        }
    }
}

/// What happens to an operation that a rule strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends with this error number of the operating system.
    Fail {
        /// Such as `EIO`.
        errno: i32,
        /// What of it takes effect nevertheless.
        effect: Effect,
    },
    /// It begins later.
    Delay(Duration),
    /// It begins when [`FaultScript::release`] is called.
    Hang,
}

impl Fault {
    /// Fails with `errno` and changes nothing.
    pub fn error(errno: i32) -> Self {
        let effect = Effect::None;
        Fault::Fail { errno, effect }
    }
}

/// What a failing operation leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it fails before it begins.
    None,
    /// Some of the sectors of a write, drawn by the executor's random numbers; nothing of other operations.
    Torn,
    /// All: only the answer is wrong.
    All,
}

/// Which operations a fault strikes: those of `kind` that touch `range`, without the first `skip` of them, `times` times.
#[derive(Clone, Debug)]
pub struct FaultRule {
    /// Of this kind only.
    pub kind: Option<OperationKind>,
    /// Touching these bytes only. An operation without a range (sync, set-length) touches none.
    pub range: Option<FileRange>,
    /// How many of them are spared first.
    pub skip: u64,
    /// How many of those that follow are struck.
    pub times: u64,
    /// What happens to them.
    pub fault: Fault,
}

impl FaultRule {
    /// Strikes every operation.
    pub fn every(fault: Fault) -> Self {
        FaultRule { kind: None, range: None, skip: 0, times: u64::MAX, fault }
    }

    /// Strikes one operation, the first that comes when `skip` have passed.
    pub fn once_after(skip: u64, fault: Fault) -> Self {
        FaultRule { skip, times: 1, ..Self::every(fault) }
    }

    /// The same rule for operations of one kind.
    #[must_use]
    pub fn of(self, kind: OperationKind) -> Self {
        let kind = Some(kind);
        FaultRule { kind, ..self }
    }

    /// The same rule for operations that touch a range.
    #[must_use]
    pub fn touching(self, range: FileRange) -> Self {
        let range = Some(range);
        FaultRule { range, ..self }
    }

    /// Counts `operation`, if the rule is about it. Whether it is struck.
    fn strikes(&mut self, operation: &StorageOperation) -> bool {
        let is_kind = self.kind.is_none_or(|kind| kind == OperationKind::of(operation));
        let touches = |range: FileRange| operation.range().is_some_and(|other| other.overlaps(range));
        if !is_kind || !self.range.is_none_or(touches) || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// The rules of one or more [`FaultyStorage`]s, and how many operations they have seen. Clones are the same script; it
/// can be changed from any thread while the storages are in use.
#[derive(Clone, Default)]
pub struct FaultScript(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    rules: Vec<FaultRule>,
    seen: u64,
    struck: u64,
    last_struck: Option<OperationKind>,
    hanging: u64,
    /// How often `release` was called: what hangs waits for the next time.
    releases: u64,
    waiting: Vec<Waker>,
}

impl FaultScript {
    /// A script without rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule; it counts from now. The first rule that strikes an operation decides.
    pub fn add(&self, rule: FaultRule) {
        self.script().rules.push(rule);
    }

    /// Takes all rules away. What hangs goes on hanging.
    pub fn clear(&self) {
        self.script().rules.clear();
    }

    /// Lets all that hangs now begin.
    pub fn release(&self) {
        let mut script = self.script();
        script.releases += 1;
        let waiting = std::mem::take(&mut script.waiting);
        drop(script);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Operations that were asked of the storages.
    pub fn seen(&self) -> u64 {
        self.script().seen
    }

    /// Operations that a rule struck.
    pub fn struck(&self) -> u64 {
        self.script().struck
    }

    /// What the last operation was that a rule struck.
    pub fn last_struck(&self) -> Option<OperationKind> {
        self.script().last_struck
    }

    /// Operations that hang now.
    pub fn hanging(&self) -> u64 {
        self.script().hanging
    }

    /// The lock guards a few words; nothing waits while it is held.
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, operation: &StorageOperation) -> Option<Fault> {
        let mut script = self.script();
        script.seen += 1;
        let mut struck = script.rules.iter_mut().filter_map(|rule| rule.strikes(operation).then_some(rule.fault));
        let fault = struck.next()?;
        script.struck += 1;
        script.last_struck = Some(OperationKind::of(operation));
        script.hanging += u64::from(fault == Fault::Hang);
        Some(fault)
    }

    async fn released(&self) {
        let before = self.script().releases;
        std::future::poll_fn(|cx| {
            let mut script = self.script();
            if script.releases > before {
                script.hanging -= 1;
                return Poll::Ready(());
            }
            script.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl fmt::Debug for FaultScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let script = self.script();
        write!(f, "FaultScript({} rules, {} seen)", script.rules.len(), script.seen)
    }
}

/// Any storage, with faults as a [`FaultScript`] tells. For tests, and for products that want to be tested from outside:
/// without rules it costs one lock for each operation.
#[derive(Clone, Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    script: FaultScript,
}

impl FaultyStorage {
    /// `inner`, failing as `script` tells.
    pub fn new(inner: Arc<dyn Storage>, script: FaultScript) -> Self {
        FaultyStorage { inner, script }
    }

    /// Waits as `wait` does, then carries the operation out.
    fn after(
        &self,
        executor: &Executor,
        operation: StorageOperation,
        hold: Option<Hold>,
        wait: impl Future<Output = ()> + 'static,
    ) -> Pending {
        let (inner, on) = (self.inner.clone(), executor.clone());
        Pending::spawn(executor, hold, async move {
            wait.await;
            inner.submit(&on, operation, None).await
        })
    }

    fn fail(
        &self,
        executor: &Executor,
        operation: StorageOperation,
        hold: Option<Hold>,
        errno: i32,
        effect: Effect,
    ) -> Pending {
        let error = Error::from_os("injected fault", io::Error::from_raw_os_error(errno)).with_origin(self.origin());
        let (inner, on) = (self.inner.clone(), executor.clone());
        match (effect, operation) {
            (Effect::All, operation) => Pending::spawn(executor, hold, async move {
                let done = inner.submit(&on, operation, None).await;
                let result = Err(error);
                Completion { result, ..done }
            }),
            (Effect::Torn, StorageOperation::Write { offset, buffer, .. }) => {
                Pending::spawn(executor, hold, async move {
                    let (buffer, result) = write_some(&*inner, &on, offset, buffer).await;
                    Completion { buffer: Some(buffer), result: result.and(Err(error)) }
                })
            }
            (Effect::None | Effect::Torn, operation) => Pending::ready(operation, Err(error)),
        }
    }
}

/// Writes about half of the sectors.
async fn write_some(
    storage: &dyn Storage,
    executor: &Executor,
    mut offset: FileOffset,
    mut rest: Buffer,
) -> (Buffer, Result<()>) {
    let unit = u64::from(storage.limits().alignment).max(SECTOR);
    let unit = usize::try_from(unit).expect("a storage's unit is at most a page");
    let mut done = Buffer::empty();
    let mut result = Ok(());
    while !rest.is_empty() {
        let behind = rest.split_off(rest.len().min(unit));
        let mut sector = std::mem::replace(&mut rest, behind);
        let length = sector.len() as u64;
        if executor.random() & 1 == 0 && result.is_ok() {
            (sector, result) = storage.write(executor, offset, sector).await;
        }
        done.append(sector);
        offset = offset + length;
    }
    (done, result)
}

impl Storage for FaultyStorage {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        match self.script.judge(&operation) {
            None => self.inner.submit(executor, operation, hold),
            Some(Fault::Fail { errno, effect }) => self.fail(executor, operation, hold, errno, effect),
            Some(Fault::Delay(duration)) => {
                let sleep = executor.sleep(duration);
                self.after(executor, operation, hold, sleep)
            }
            Some(Fault::Hang) => {
                let script = self.script.clone();
                self.after(executor, operation, hold, async move { script.released().await })
            }
        }
    }

    fn length(&self) -> u64 {
        self.inner.length()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn origin(&self) -> Origin {
        self.inner.origin()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use block_core::ErrorKind;

    use super::*;
    use crate::{MemoryStorage, SimulatedClock, Wait};

    struct Bench {
        executor: Executor,
        memory: MemoryStorage,
        script: FaultScript,
        storage: FaultyStorage,
    }

    fn bench() -> Bench {
        let memory = MemoryStorage::new(8192);
        let script = FaultScript::new();
        Bench {
            executor: Executor::simulated(1, SimulatedClock::new()),
            storage: FaultyStorage::new(Arc::new(memory.clone()), script.clone()),
            memory,
            script,
        }
    }

    impl Bench {
        fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
            let write = self.storage.write_bytes(&self.executor, FileOffset::new(offset), bytes);
            self.executor.block_on(write)
        }

        fn read(&self, offset: u64) -> Result<Vec<u8>> {
            let read = self.storage.read_bytes(&self.executor, FileOffset::new(offset), 512);
            self.executor.block_on(read)
        }

        fn sync(&self) -> Result<()> {
            self.executor.block_on(self.storage.sync(&self.executor))
        }
    }

    #[test]
    fn exactly_the_operation_after_those_skipped_fails_with_the_chosen_number() {
        let bench = bench();
        bench.script.add(FaultRule::once_after(2, Fault::error(libc::ENOSPC)).of(OperationKind::Write));
        let results: Vec<_> = (0..4)
            .map(|_| {
                bench.sync().unwrap();
                bench.write(0, &[7; 512]).map_err(|error| (error.kind(), error.os_error()))
            })
            .collect();
        assert_eq!(results, [Ok(()), Ok(()), Err((ErrorKind::NoSpace, Some(libc::ENOSPC))), Ok(())]);
        assert_eq!((bench.script.seen(), bench.script.struck()), (8, 1));
        assert_eq!(bench.script.last_struck(), Some(OperationKind::Write));
    }

    #[test]
    fn every_operation_on_a_range_fails_and_no_other() {
        let bench = bench();
        let range = FileRange::new(FileOffset::new(1024), 512);
        bench.script.add(FaultRule::every(Fault::error(libc::EIO)).touching(range));
        assert!(bench.write(512, &[1; 512]).is_ok());
        assert!(bench.write(512, &[1; 513]).is_err());
        assert!(bench.read(1535).is_err());
        assert!(bench.read(1536).is_ok());
        assert!(bench.sync().is_ok());
        bench.script.clear();
        assert!(bench.read(1024).is_ok());
    }

    #[test]
    fn a_failed_write_leaves_nothing_all_or_some_of_its_sectors() {
        let bench = bench();
        let zeroes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == 0).count();
        for (effect, least, most) in [(Effect::None, 8192, 8192), (Effect::Torn, 512, 8192 - 512), (Effect::All, 0, 0)]
        {
            let errno = libc::EIO;
            bench.script.add(FaultRule::once_after(0, Fault::Fail { errno, effect }));
            let (buffer, result) = bench.executor.block_on(bench.storage.write(
                &bench.executor,
                FileOffset::new(0),
                Buffer::from_bytes(&[1; 8192]),
            ));
            assert_eq!((buffer.to_vec(), result.is_err()), (vec![1; 8192], true));
            let left = bench.memory.to_vec();
            assert!((least..=most).contains(&zeroes(&left)), "{effect:?}");
            assert!(left.chunks(512).all(|sector| matches!(zeroes(sector), 0 | 512)));
            bench.memory.apply(StorageOperation::SetLength(0));
            bench.memory.apply(StorageOperation::SetLength(8192));
        }
    }

    #[test]
    fn a_delayed_operation_begins_when_its_time_has_come() {
        let clock = SimulatedClock::new();
        let executor = Executor::simulated(1, clock.clone());
        let script = FaultScript::new();
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new(512)), script.clone());
        script.add(FaultRule::once_after(0, Fault::Delay(Duration::from_secs(60))));
        executor.block_on(storage.sync(&executor)).unwrap();
        assert_eq!(clock.now().since_start(), Duration::from_secs(60));
    }

    #[test]
    fn what_hangs_keeps_its_hold_and_begins_when_released() {
        let bench = bench();
        bench.script.add(FaultRule::once_after(0, Fault::Hang));
        let hold: Hold = Rc::new(());
        let buffer = Buffer::from_bytes(&[5; 512]);
        let write = StorageOperation::Write { offset: FileOffset::new(0), buffer, durable: false };
        // The answer is given up, the write is not.
        drop(bench.storage.submit(&bench.executor, write, Some(hold.clone())));
        while bench.executor.turn(Wait::No).unwrap() {}
        assert_eq!((bench.script.hanging(), Rc::strong_count(&hold)), (1, 2));
        assert_eq!(bench.memory.to_vec()[0], 0);
        bench.script.release();
        while bench.executor.turn(Wait::No).unwrap() {}
        assert_eq!((bench.script.hanging(), Rc::strong_count(&hold)), (0, 1));
        assert_eq!(bench.memory.to_vec()[0], 5);
    }
}
