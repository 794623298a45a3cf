//! The change of a share and of the total with it, which are two words: exactly once or not at all, wherever whoever
//! makes it is stopped or killed, and without a lock.
//!
//! ```text
//!   look at the total --> is the last change whole? --no--> finish it, whoever began it
//!                                |
//!   write down what the own share shall become --> exchange the total: it now names us, with the number of this change
//!                                |                                 (somebody was faster: begin again)
//!   exchange the own share (or somebody has done it for us meanwhile)
//! ```
//!
//! With the exchange of the total the change has been made. Nobody makes another one before the share has followed, and
//! all that is needed for that stands in the table.

use super::words::{Share, Slot, Total, Use, Word, Words};

/// How a share is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Amount {
    /// More pages, if all together then use no more than the limit.
    Take(u32),
    /// Fewer.
    Give(u32),
    /// None are left.
    GiveAll,
}

/// A change under way: one access to the table in each step. Only the owner of a share changes it, one at a time, or
/// who has found the owner dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Change {
    what: Use,
    slot: Slot,
    amount: Amount,
    limit: u32,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Look,
    /// Whether the share that the total names has followed.
    IsWhole(Total),
    /// It has not: what was it to become?
    Finish(Total, Share),
    FinishWith(Total, Share, Share),
    /// What do we use?
    Own(Total),
    Announce(Total, Share, u32),
    Exchange(Total, Share, u32),
    Follow(Share, Share),
}

impl Change {
    /// A change of what `slot` uses; `limit` is for all together.
    pub(super) fn new(what: Use, slot: Slot, amount: Amount, limit: u32) -> Change {
        Change { what, slot, amount, limit, at: At::Look }
    }

    /// Goes on. At its end: whether the change was made, or there was no room.
    pub(super) fn step(&mut self, words: &impl Words) -> Option<bool> {
        let (what, slot) = (self.what, self.slot);
        let own = Word::Share(what, slot);
        self.at = match self.at {
            At::Look => At::IsWhole(Total::decode(words.load(Word::Total(what)))),
            At::IsWhole(total) => {
                let share = Share::decode(words.load(Word::Share(what, total.slot)));
                if share.turn == total.turn { At::Own(total) } else { At::Finish(total, share) }
            }
            At::Finish(total, share) => {
                let wanted = Share::decode(words.load(Word::Wanted(what, total.slot)));
                // If it wants something else by now, the change that we saw is whole.
                if wanted.turn == total.turn { At::FinishWith(total, share, wanted) } else { At::Own(total) }
            }
            At::FinishWith(total, share, wanted) => {
                words.exchange(Word::Share(what, total.slot), share.encode(), wanted.encode());
                At::Own(total)
            }
            At::Own(total) => {
                let share = Share::decode(words.load(own));
                match self.after(total, share) {
                    Some(after) if after == share.pages => return Some(true),
                    Some(after) => At::Announce(total, share, after),
                    None => return Some(false),
                }
            }
            At::Announce(total, share, after) => {
                words.store(Word::Wanted(what, slot), total.changed(slot, share, after).1.encode());
                At::Exchange(total, share, after)
            }
            At::Exchange(total, share, after) => {
                let (changed, wanted) = total.changed(slot, share, after);
                match words.exchange(Word::Total(what), total.encode(), changed.encode()) {
                    true => At::Follow(share, wanted),
                    false => At::Look,
                }
            }
            At::Follow(share, wanted) => {
                // If it is not as it was, somebody has helped.
                words.exchange(own, share.encode(), wanted.encode());
                return Some(true);
            }
        };
        None
    }

    /// Pages of the share after the change; none if there is no room.
    fn after(&self, total: Total, share: Share) -> Option<u32> {
        match self.amount {
            Amount::Take(pages) => {
                let has_room = total.pages.checked_add(pages).is_some_and(|all| all <= self.limit);
                has_room.then_some(share.pages + pages)
            }
            Amount::Give(pages) => Some(share.pages.saturating_sub(pages)),
            Amount::GiveAll => Some(0),
        }
    }
}
