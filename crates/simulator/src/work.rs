//! Requests and what is expected of them: each begins and ends in the model as it does on the disk.

use std::cell::{Cell, RefCell};

use block_core::{Error, Extent, ExtentKind, GuestRange, Operation, Outcome};
use storage_io::Buffer;

use crate::{
    disk::zeroed,
    oracle::{Begun, Change, Instant, Oracle},
    workload::Workload,
};

/// What the requests in flight share.
pub(crate) struct Work {
    pub(crate) oracle: RefCell<Oracle>,
    workload: RefCell<Workload>,
    left: Cell<u64>,
    may_fail: Cell<bool>,
    /// A flush has failed since the disk was opened.
    flush_failed: Cell<bool>,
    /// A durable change has, so that flushes may fail.
    durable_failed: Cell<bool>,
    failed: Cell<u64>,
}

/// A request that has begun.
pub(crate) enum Expected {
    Nothing,
    Change(Begun, IsDurable),
    Bytes(Instant, GuestRange),
    Extents(Instant, GuestRange, FirstOnly),
    Flush(Instant, HadFailed),
}

type IsDurable = bool;
type FirstOnly = bool;
/// Whether a flush had failed before this one began.
type HadFailed = bool;

impl Work {
    pub(crate) fn new(workload: Workload) -> Self {
        Work {
            oracle: RefCell::default(),
            workload: RefCell::new(workload),
            left: Cell::new(0),
            may_fail: Cell::new(false),
            flush_failed: Cell::new(false),
            durable_failed: Cell::new(false),
            failed: Cell::new(0),
        }
    }

    /// So many operations are to be done.
    pub(crate) fn set_left(&self, operations: u64) {
        self.left.set(operations);
    }

    pub(crate) fn set_may_fail(&self, may_fail: bool) {
        self.may_fail.set(may_fail);
    }

    pub(crate) fn may_fail(&self) -> bool {
        self.may_fail.get()
    }

    /// How many requests have failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Flushes may succeed again.
    pub(crate) fn reopened(&self) {
        self.flush_failed.set(false);
        self.durable_failed.set(false);
    }

    /// What to do next, if anything is left.
    pub(crate) fn next_operation(&self) -> Option<Operation<()>> {
        let left = self.left.get().checked_sub(1)?;
        self.left.set(left);
        Some(self.workload.borrow_mut().next_operation())
    }

    /// Tells the model, and gives the operation its bytes.
    pub(crate) fn begin(&self, operation: Operation<()>) -> (Operation<Buffer>, Expected) {
        let mut oracle = self.oracle.borrow_mut();
        match operation {
            Operation::Read { range, .. } => {
                let expected = Expected::Bytes(oracle.begin_read(), range);
                (Operation::Read { range, buffer: zeroed(range) }, expected)
            }
            Operation::Extents { range, first_only } => {
                let expected = Expected::Extents(oracle.begin_read(), range, first_only);
                (Operation::Extents { range, first_only }, expected)
            }
            Operation::Flush => (Operation::Flush, Expected::Flush(oracle.begin_flush(), self.flush_failed.get())),
            Operation::Write { range, durable, .. } => {
                let begun = oracle.begin(Change::Write { durable }, range);
                (Operation::Write { range, buffer: begun.buffer(), durable }, Expected::Change(begun, durable))
            }
            Operation::WriteZeroes { range, may_free, fast_only, durable } => {
                let begun = oracle.begin(Change::Zero { durable }, range);
                let operation = Operation::WriteZeroes { range, may_free, fast_only, durable };
                (operation, Expected::Change(begun, durable))
            }
            Operation::Discard { range, .. } => {
                let begun = oracle.begin(Change::Discard, range);
                (Operation::Discard { range, durable: false }, Expected::Change(begun, false))
            }
            Operation::Cache { range } => (Operation::Cache { range }, Expected::Nothing),
        }
    }

    /// Holds the outcome against the model.
    pub(crate) fn end(&self, expected: Expected, outcome: Outcome<Buffer>) {
        match (expected, outcome) {
            (expected, Outcome::Failed(error)) => self.end_failed(expected, &error),
            (Expected::Nothing, Outcome::Done) => {}
            (Expected::Change(begun, _), Outcome::Done) => self.oracle.borrow_mut().end(begun, true),
            (Expected::Bytes(begun, range), Outcome::Read(buffer)) => {
                let checked = self.oracle.borrow_mut().end_read(begun, range, &buffer.to_vec());
                checked.unwrap_or_else(|complaint| panic!("reading {range}: {complaint}"));
            }
            (Expected::Extents(begun, range, first_only), Outcome::Extents(extents)) => {
                self.end_extents(begun, range, first_only, &extents);
            }
            (Expected::Flush(begun, had_failed), Outcome::Done) => {
                assert!(!had_failed, "a flush succeeded although one had failed before it began");
                self.oracle.borrow_mut().end_flush(begun);
            }
            (_, outcome) => panic!("an outcome of another kind than was asked for: {outcome:?}"),
        }
    }

    fn end_failed(&self, expected: Expected, error: &Error) {
        let makes_durable = matches!(expected, Expected::Change(_, true) | Expected::Flush(..));
        let may_fail = self.may_fail.get() || makes_durable && self.durable_failed.get();
        assert!(may_fail, "a request failed: {error}");
        self.failed.set(self.failed.get() + 1);
        self.durable_failed.set(self.durable_failed.get() || makes_durable);
        match expected {
            Expected::Nothing => {}
            Expected::Change(begun, _) => self.oracle.borrow_mut().end(begun, false),
            Expected::Bytes(begun, _) | Expected::Extents(begun, ..) => self.oracle.borrow_mut().abandon_read(begun),
            Expected::Flush(..) => self.flush_failed.set(true),
        }
    }

    /// What is said to read as zeroes must be permitted to.
    fn end_extents(&self, begun: Instant, range: GuestRange, first_only: bool, extents: &[Extent]) {
        check_shape(range, extents, first_only);
        self.oracle.borrow_mut().abandon_read(begun);
        let parts = extents.iter().filter(|extent| extent.kind != ExtentKind::Data);
        for part in parts.filter_map(|extent| extent.range.intersection(range)) {
            let zeroes = vec![0; usize::try_from(part.length()).expect("ranges of tests fit memory")];
            let checked = self.oracle.borrow_mut().end_read(begun, part, &zeroes);
            checked.unwrap_or_else(|complaint| panic!("an extent says zeroes: {complaint}"));
        }
    }
}

/// Extents are ascending, without gaps, from the start of the range.
fn check_shape(range: GuestRange, extents: &[Extent], first_only: bool) {
    let mut at = range.start();
    for extent in extents {
        assert_eq!(extent.range.start(), at, "extents follow each other: {extents:?} of {range}");
        assert!(!extent.range.is_empty(), "an extent has bytes: {extents:?} of {range}");
        at = extent.range.end();
    }
    assert!(!extents.is_empty() && (!first_only || extents.len() == 1), "{extents:?} of {range}");
}
