//! Who may have a page: its guest writes the entry of the grant table, and each backend counts what it has pinned.
//!
//! ```text
//!   guest     clear the entry --> look at the pins          one of both sees the other
//!   backend   count a pin     --> look at the entry
//! ```
//!
//! All of it is in order with all of it: a look must not pass what was written before it.

use std::sync::atomic::Ordering::SeqCst;

use super::layout;
use crate::{Access, CopyStatus, DomainId, GrantRef, Words};

/// Adding this takes one away.
const MINUS_ONE: u32 = u32::MAX;

/// Writes an entry: what it says of the page holds from when its flags say so.
pub(super) fn write_entry(table: &impl Words, grant: GrantRef, page: u32, flags: u32) {
    let at = layout::entry_offsets(grant).expect("a guest writes entries of its table only");
    table.store(at.page, page, SeqCst);
    table.store(at.flags, flags, SeqCst);
}

/// Clears an entry, so that nobody pins the page any more, and then looks how many pins there are.
pub(super) fn take_back<E>(
    table: &impl Words,
    grant: GrantRef,
    look: impl FnOnce() -> Result<u32, E>,
) -> Result<u32, E> {
    let at = layout::entry_offsets(grant).expect("a guest writes entries of its table only");
    table.store(at.flags, 0, SeqCst);
    look()
}

/// Whether an entry is in use by its guest.
pub(super) fn is_granted(table: &impl Words, grant: GrantRef) -> bool {
    layout::entry_offsets(grant).is_some_and(|at| layout::is_granted(table.load(at.flags, SeqCst)))
}

/// The page of an entry that its guest has written.
pub(super) fn page_of(table: &impl Words, grant: GrantRef) -> u32 {
    let at = layout::entry_offsets(grant).expect("a guest looks at entries of its table only");
    table.load(at.page, SeqCst)
}

/// How many pins a backend has on a page.
pub(super) fn pins_of(pins: &impl Words, grant: GrantRef) -> u32 {
    pins.load(layout::pins_offset(grant), SeqCst)
}

/// Pins a granted page, if it is granted for this; gives its number. As long as it is pinned, its guest cannot have it
/// back. The flags are looked at before the number, which may be that of an earlier grant otherwise.
pub(super) fn pin(
    table: &impl Words,
    pins: &impl Words,
    grant: GrantRef,
    user: DomainId,
    access: Access,
) -> Result<u32, CopyStatus> {
    let at = layout::entry_offsets(grant).ok_or(CopyStatus::BadGrant)?;
    pins.fetch_add(layout::pins_offset(grant), 1, SeqCst);
    if layout::permits(table.load(at.flags, SeqCst), user, access) {
        return Ok(table.load(at.page, SeqCst));
    }
    unpin(pins, grant);
    Err(CopyStatus::BadGrant)
}

/// Takes a pin back.
pub(super) fn unpin(pins: &impl Words, grant: GrantRef) {
    pins.fetch_add(layout::pins_offset(grant), MINUS_ONE, SeqCst);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use test_support::{Orders, Party};

    use super::*;

    const GRANT: GrantRef = GrantRef(3);
    const USER: DomainId = DomainId(0);
    const STATES_MAX: usize = 500_000;
    /// Bells.
    const BEGIN: u32 = 0;
    const UNPINNED: u32 = 1;
    /// Words of pages, and what is in them.
    const PAGES: u32 = 1 << 30;
    const MINE: u32 = 7;
    const THEIRS: u32 = 8;

    /// The grant table, or the pins, as one party reaches them.
    struct Model<'a> {
        party: &'a Party<'a>,
        base: u32,
    }

    impl Model<'_> {
        fn word(&self, offset: usize) -> u32 {
            self.base + u32::try_from(offset).unwrap()
        }
    }

    impl Words for Model<'_> {
        fn length(&self) -> usize {
            usize::MAX
        }

        fn load(&self, offset: usize, order: Ordering) -> u32 {
            self.party.load(self.word(offset), order)
        }

        fn store(&self, offset: usize, value: u32, order: Ordering) {
            self.party.store(self.word(offset), value, order);
        }

        fn fetch_add(&self, offset: usize, value: u32, order: Ordering) -> u32 {
            self.party.fetch_add(self.word(offset), value, order)
        }

        fn fence(&self, order: Ordering) {
            self.party.fence(order);
        }

        fn copy_out(&self, _: usize, _: &mut [u8]) {
            unreachable!("tables are words");
        }

        fn copy_in(&self, _: usize, _: &[u8]) {
            unreachable!("tables are words");
        }
    }

    fn table<'a>(party: &'a Party<'a>) -> Model<'a> {
        Model { party, base: 0 }
    }

    fn pins<'a>(party: &'a Party<'a>, backend: u32) -> Model<'a> {
        Model { party, base: (1 + backend) << 20 }
    }

    /// Uses one page after the other under the same grant; what it has back is its own.
    fn guest(party: &Party<'_>, backends: u32) {
        let flags = layout::flags(USER, Access::Write);
        write_entry(&table(party), GRANT, 0, flags);
        party.notify(BEGIN);
        for page in 0..2 {
            let look = || Ok::<_, ()>((0..backends).map(|backend| pins_of(&pins(party, backend), GRANT)).sum());
            while take_back(&table(party), GRANT, look) != Ok(0) {
                party.wait(UNPINNED);
            }
            party.store(PAGES + page, MINE, Ordering::Relaxed);
            if page == 0 {
                write_entry(&table(party), GRANT, 1, flags);
            }
            assert_eq!(
                party.load(PAGES + page, Ordering::Relaxed),
                MINE,
                "somebody writes to a page that was taken back"
            );
        }
    }

    /// Writes to the page, whichever is granted, so many times.
    fn backend(party: &Party<'_>, number: u32, times: u32) {
        for _ in 0..times {
            if let Ok(page) = pin(&table(party), &pins(party, number), GRANT, USER, Access::Write) {
                party.store(PAGES + page, THEIRS, Ordering::Relaxed);
                unpin(&pins(party, number), GRANT);
            }
            party.notify(UNPINNED);
        }
    }

    #[test]
    fn a_page_that_was_taken_back_is_written_by_nobody() {
        let orders = Orders::default().party("guest", |party| guest(party, 1)).party("backend", |party| {
            party.wait(BEGIN);
            backend(party, 0, 2);
        });
        let states = orders.explore(STATES_MAX).unwrap();
        println!("{states} states");
    }

    #[test]
    fn a_page_that_two_backends_use_comes_back_when_both_have_let_go() {
        let orders = Orders::default()
            .party("guest", |party| guest(party, 2))
            .party("first", |party| backend(party, 0, 1))
            .party("second", |party| backend(party, 1, 1));
        let states = orders.explore(STATES_MAX).unwrap();
        println!("{states} states");
    }
}
