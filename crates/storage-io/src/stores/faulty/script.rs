//! Rules: which operations fail, hang or take longer.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use block_core::{FileRange, Result};

use super::text;
use crate::StorageOperation;

/// What an operation is, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of StorageOperation, and opening")]
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
    Open,
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
    /// It begins later; or fails later, or hangs, if another rule strikes it too.
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

    /// Counts an operation, if the rule is about it. Whether it is struck.
    fn strikes(&mut self, kind: OperationKind, range: Option<FileRange>) -> bool {
        let is_kind = self.kind.is_none_or(|of| of == kind);
        let touches = |touched: FileRange| range.is_some_and(|range| range.overlaps(touched));
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

/// The rules of one or more [`crate::FaultyStorage`]s, and how many operations they have seen. Clones are the same script; it
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

    /// Adds a rule; it counts from now. The first rule that strikes an operation decides, except that delays add up.
    pub fn add(&self, rule: FaultRule) {
        self.script().rules.push(rule);
    }

    /// Adds rules that are written as in `docs/faults.md`: `RULE[,RULE...]`.
    ///
    /// # Errors
    /// One of them is not understood; then none was added.
    pub fn add_text(&self, rules: &str) -> Result<()> {
        let rules = text::parse(rules)?;
        self.script().rules.extend(rules);
        Ok(())
    }

    /// Puts these rules, written as for [`FaultScript::add_text`], in the place of all others, and lets all that hangs
    /// begin: what a rule held is held no longer than the rule.
    ///
    /// # Errors
    /// One of them is not understood; then nothing was changed.
    pub fn replace(&self, rules: &str) -> Result<()> {
        let rules = text::parse(rules)?;
        self.script().rules = rules;
        self.release();
        Ok(())
    }

    /// The rules as they are now, with what is left of their counts.
    pub fn rules(&self) -> Vec<FaultRule> {
        self.script().rules.clone()
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

    /// What happens to an operation.
    pub(super) fn judge(&self, operation: &StorageOperation) -> Verdict {
        self.judge_kind(OperationKind::of(operation), operation.range())
    }

    pub(super) fn judge_kind(&self, kind: OperationKind, range: Option<FileRange>) -> Verdict {
        let mut script = self.script();
        script.seen += 1;
        let mut verdict = Verdict { delay: Duration::ZERO, then: Then::Begin };
        let mut is_struck = false;
        for rule in &mut script.rules {
            if !rule.strikes(kind, range) {
                continue;
            }
            is_struck = true;
            verdict.then = match rule.fault {
                Fault::Delay(delay) => {
                    verdict.delay = verdict.delay.saturating_add(delay);
                    continue;
                }
                Fault::Hang => Then::Hang,
                Fault::Fail { errno, effect } => Then::Fail { errno, effect },
            };
            break;
        }
        if is_struck {
            script.struck += 1;
            script.last_struck = Some(kind);
        }
        verdict
    }

    /// Hangs until the next release. Counted as hanging from now on, until it is dropped.
    pub(super) fn hang(&self) -> Hanging {
        let mut script = self.script();
        script.hanging += 1;
        Hanging { script: self.clone(), releases: script.releases }
    }
}

/// What happens to one operation: first it is delayed, and then the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) delay: Duration,
    pub(super) then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Begin,
    Hang,
    Fail { errno: i32, effect: Effect },
}

/// An operation that hangs.
pub(super) struct Hanging {
    script: FaultScript,
    /// How often `release` had been called.
    releases: u64,
}

impl Hanging {
    pub(super) async fn released(self) {
        std::future::poll_fn(|cx| {
            let mut script = self.script.script();
            if script.releases > self.releases {
                return Poll::Ready(());
            }
            script.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.script.script().hanging -= 1;
    }
}

impl std::str::FromStr for FaultScript {
    type Err = block_core::Error;

    fn from_str(rules: &str) -> Result<Self> {
        let script = FaultScript::new();
        script.add_text(rules)?;
        Ok(script)
    }
}

impl fmt::Debug for FaultScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let script = self.script();
        write!(f, "FaultScript({} rules, {} seen)", script.rules.len(), script.seen)
    }
}
