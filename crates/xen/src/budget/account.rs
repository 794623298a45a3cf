//! What is used of the budget of a host: as those see it who share it, and as those who only look.

use std::{
    fs::OpenOptions,
    io::{ErrorKind::NotFound, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};

use super::{
    Limits,
    layout::{self, BYTES, LIMITS_AT, MAGIC, MAGIC_AT, WAITED_NS_AT, WAITING_WORDS, WAITS_AT},
    words::{Total, Use, Word},
};

/// What is used of the budget of a host, by all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetAccount {
    /// What may be used.
    pub limits: Limits,
    /// Pages that are being copied.
    pub copied: u32,
    /// Pages that are mapped.
    pub mapped: u32,
    /// Disks that have a share.
    pub shares: usize,
    /// Those of them that stand in line.
    pub waiting: u32,
    /// How often somebody has waited and does so no more, since there is a budget.
    pub waits: u64,
    /// How long, all together.
    pub waited: Duration,
}

impl BudgetAccount {
    /// Looks into the budget in this file without taking part in it; none if there is no budget. What dead processes had
    /// is in it until somebody waits for it.
    ///
    /// # Errors
    /// `Invalid` if the file is something else, or what the operating system says.
    pub fn read(path: &Path) -> Result<Option<BudgetAccount>> {
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
            Err(error) if error.kind() == NotFound => return Ok(None),
            file => file.context(path.display())?,
        };
        let mut bytes = Vec::with_capacity(BYTES);
        file.take(BYTES as u64).read_to_end(&mut bytes).context(path.display())?;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes.len() < BYTES || word(MAGIC_AT) != MAGIC {
            return Err(Error::new(ErrorKind::Invalid, format!("{} is no grant budget", path.display())));
        }
        Ok(Some(BudgetAccount::of(word)))
    }

    /// The account of a table, by the words at its places.
    pub(super) fn of(word: impl Fn(usize) -> u64) -> BudgetAccount {
        let load = |name| word(layout::place(name));
        let used = |what| Total::decode(load(Word::Total(what))).pages;
        BudgetAccount {
            limits: Limits::decode(word(LIMITS_AT)),
            copied: used(Use::Copies),
            mapped: used(Use::Mapped),
            shares: layout::slots().filter(|slot| load(Word::Owner(*slot)) != 0).count(),
            waiting: (0..WAITING_WORDS).map(|number| load(Word::Waiting(number)).count_ones()).sum(),
            waits: word(WAITS_AT),
            waited: Duration::from_nanos(word(WAITED_NS_AT)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Budget, *};
    use std::{
        fs,
        task::{Poll, Waker},
    };

    #[test]
    fn who_only_looks_sees_what_those_see_who_take_part() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("budget");
        assert_eq!(BudgetAccount::read(&path).unwrap(), None);
        let budget = Budget::open(&path, Some(Limits { copies: 300, mapped: 400 })).unwrap();
        let (share, other) = (budget.share().unwrap(), budget.share().unwrap());
        let Poll::Ready(_permit) = share.waiter().poll(264, Waker::noop()) else { panic!("there is room") };
        let _mapped = share.map(16, super::super::MapPurpose::Ring).unwrap();
        let mut waiter = other.waiter();
        assert!(waiter.poll(264, Waker::noop()).is_pending());
        share.count_wait(Duration::from_millis(3));
        share.count_wait(Duration::from_millis(4));
        let account = BudgetAccount {
            limits: Limits { copies: 300, mapped: 400 },
            copied: 264,
            mapped: 16,
            shares: 2,
            waiting: 1,
            waits: 2,
            waited: Duration::from_millis(7),
        };
        assert_eq!((BudgetAccount::read(&path).unwrap(), budget.account()), (Some(account), account));
    }

    #[test]
    fn what_is_no_budget_has_no_account() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("budget");
        for bytes in [vec![], vec![0; BYTES], b"oxgrants".to_vec(), vec![b'x'; BYTES]] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(BudgetAccount::read(&path).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
