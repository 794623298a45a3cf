//! Taking and giving back, with a line for those who find no room: first come, first served.
//!
//! ```text
//!   take:  does anybody wait? --no--> is there room? --yes--> taken
//!                 | yes                     | no
//!                 v                         v
//!          forget calls --> join the line --> am I the first? is there room? --yes--> leave the line, call the next
//!                 ^                                  | no
//!                 +------------- called <--------- sleep
//!   give:  give back --> call the first
//! ```
//!
//! Whoever waits joins first and looks for room second; whoever gives back does so first and looks who waits second. So
//! one of both sees the other. The same between one who leaves and the next. A disk that holds pages never waits for
//! anything while it does, so the first in line gets room; nobody behind it is let past, so it gets enough of it.

use super::{
    change::{Amount, Change},
    words::{Slot, Use, Word, Words, waiting_bit},
};

/// Looks for the first in line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct First {
    word: usize,
    bits: u64,
    first: Option<(u64, Slot)>,
}

impl First {
    /// Goes on. At its end: who it is.
    pub(super) fn step(&mut self, words: &impl Words) -> Option<Option<Slot>> {
        if self.bits != 0 {
            let bit = u16::try_from(self.bits.trailing_zeros()).expect("64 bits");
            let slot = Slot(u16::try_from(self.word - 1).expect("few words") * 64 + bit);
            self.bits &= self.bits - 1;
            let ticket = (words.load(Word::Ticket(slot)), slot);
            self.first = Some(self.first.map_or(ticket, |first| first.min(ticket)));
            return None;
        }
        // Usually nobody waits: the words of the line are independent of each other, and looked at in one go.
        while self.bits == 0 {
            if self.word == words.waiting_words() {
                return Some(self.first.map(|(_, slot)| slot));
            }
            self.bits = words.load(Word::Waiting(self.word));
            self.word += 1;
        }
        None
    }
}

/// Calls the first in line, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CallFirst {
    /// Looking for it.
    Look(First),
    /// Calling it.
    Call(Slot),
}

impl CallFirst {
    pub(super) fn new() -> CallFirst {
        CallFirst::Look(First::default())
    }

    pub(super) fn step(&mut self, words: &impl Words) -> Option<()> {
        match self {
            CallFirst::Look(first) => match first.step(words)? {
                Some(slot) => *self = CallFirst::Call(slot),
                None => return Some(()),
            },
            CallFirst::Call(slot) => {
                words.call(*slot);
                return Some(());
            }
        }
        None
    }
}

/// Where taking has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// On its way.
    GoOn,
    /// In line: go on when called.
    Sleep,
    /// The pages are there, and the line has been left.
    Taken,
}

/// Takes pages for copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Take {
    slot: Slot,
    pages: u32,
    limit: u32,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Does anybody wait?
    Look,
    Try(Change),
    Draw,
    Hold(u64),
    Forget,
    Join,
    AmIFirst(First),
    TryAsFirst(Change),
    Leave,
    CallNext(CallFirst),
}

impl Take {
    /// Of somebody who does not wait in line.
    pub(super) fn new(slot: Slot, pages: u32, limit: u32) -> Take {
        Take { slot, pages, limit, at: At::Look }
    }

    /// Of somebody who does, and was called.
    pub(super) fn in_line(slot: Slot, pages: u32, limit: u32) -> Take {
        Take { slot, pages, limit, at: At::Forget }
    }

    fn change(&self) -> Change {
        Change::new(Use::Copies, self.slot, Amount::Take(self.pages), self.limit)
    }

    /// Goes on, with one access to the table at most, but for looking whether anybody waits.
    pub(super) fn step(&mut self, words: &impl Words) -> Step {
        let (bits, bit) = waiting_bit(self.slot);
        self.at = match self.at {
            At::Look => match (0..words.waiting_words()).all(|word| words.load(Word::Waiting(word)) == 0) {
                true => At::Try(self.change()),
                false => At::Draw,
            },
            At::Try(mut change) => match change.step(words) {
                Some(true) => return Step::Taken,
                Some(false) => At::Draw,
                None => At::Try(change),
            },
            At::Draw => At::Hold(words.count(Word::Tickets)),
            At::Hold(ticket) => {
                words.store(Word::Ticket(self.slot), ticket);
                At::Forget
            }
            At::Forget => {
                // Whoever takes us out of the line calls us afterwards: so first this, then that.
                words.store(Word::Called(self.slot), 0);
                At::Join
            }
            At::Join => {
                // Also if we are in line: perhaps somebody has taken us out.
                words.set(bits, bit);
                At::AmIFirst(First::default())
            }
            At::AmIFirst(mut first) => match first.step(words) {
                Some(Some(slot)) if slot != self.slot => return self.sleep(),
                Some(_) => At::TryAsFirst(self.change()),
                None => At::AmIFirst(first),
            },
            At::TryAsFirst(mut change) => match change.step(words) {
                Some(true) => At::Leave,
                Some(false) => return self.sleep(),
                None => At::TryAsFirst(change),
            },
            At::Leave => {
                words.clear(bits, bit);
                // There may be room for the next one, too.
                At::CallNext(CallFirst::new())
            }
            At::CallNext(mut call) => match call.step(words) {
                Some(()) => return Step::Taken,
                None => At::CallNext(call),
            },
        };
        Step::GoOn
    }

    fn sleep(&mut self) -> Step {
        self.at = At::Forget;
        Step::Sleep
    }
}

/// Gives pages back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Give {
    /// To all.
    Change(Change),
    /// And to who waits for them.
    Call(CallFirst),
}

impl Give {
    pub(super) fn new(what: Use, slot: Slot, pages: u32) -> Give {
        Give::Change(Change::new(what, slot, Amount::Give(pages), 0))
    }

    pub(super) fn step(&mut self, words: &impl Words) -> Option<()> {
        match self {
            Give::Change(change) => {
                change.step(words)?;
                *self = Give::Call(CallFirst::new());
                None
            }
            Give::Call(call) => call.step(words),
        }
    }
}

/// Takes somebody out of the line who was called and does not come: its process is stopped, or busy. It keeps its ticket,
/// and joins again when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Skip {
    /// Out of the line.
    Leave(Slot),
    /// It may have come meanwhile and have gone to sleep again: it must not do so out of the line.
    Call(Slot),
    /// The next one is first now.
    CallNext(CallFirst),
}

impl Skip {
    pub(super) fn step(&mut self, words: &impl Words) -> Option<()> {
        *self = match *self {
            Skip::Leave(slot) => {
                let (bits, bit) = waiting_bit(slot);
                words.clear(bits, bit);
                Skip::Call(slot)
            }
            Skip::Call(slot) => {
                words.call(slot);
                Skip::CallNext(CallFirst::new())
            }
            Skip::CallNext(mut call) => match call.step(words) {
                Some(()) => return Some(()),
                None => Skip::CallNext(call),
            },
        };
        None
    }
}

/// Leaves the line without having got anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum GiveUp {
    /// Out of the line.
    Leave(Slot),
    /// The next one may be first now.
    Call(CallFirst),
}

impl GiveUp {
    pub(super) fn step(&mut self, words: &impl Words) -> Option<()> {
        match self {
            GiveUp::Leave(slot) => {
                let (bits, bit) = waiting_bit(*slot);
                words.clear(bits, bit);
                *self = GiveUp::Call(CallFirst::new());
                None
            }
            GiveUp::Call(call) => call.step(words),
        }
    }
}

/// Takes everything from a disk whose process has gone; also if somebody has done half of it and has gone, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Clear {
    slot: Slot,
    at: ClearAt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ClearAt {
    Leave,
    Give(Change),
    GiveMapped(Change),
    Call(CallFirst),
    Disown,
}

impl Clear {
    pub(super) fn new(slot: Slot) -> Clear {
        Clear { slot, at: ClearAt::Leave }
    }

    pub(super) fn step(&mut self, words: &impl Words) -> Option<()> {
        let slot = self.slot;
        let all = |what| Change::new(what, slot, Amount::GiveAll, 0);
        self.at = match self.at {
            ClearAt::Leave => {
                let (bits, bit) = waiting_bit(slot);
                words.clear(bits, bit);
                ClearAt::Give(all(Use::Copies))
            }
            ClearAt::Give(mut change) => match change.step(words) {
                Some(_) => ClearAt::GiveMapped(all(Use::Mapped)),
                None => ClearAt::Give(change),
            },
            ClearAt::GiveMapped(mut change) => match change.step(words) {
                Some(_) => ClearAt::Call(CallFirst::new()),
                None => ClearAt::GiveMapped(change),
            },
            ClearAt::Call(mut call) => match call.step(words) {
                Some(()) => ClearAt::Disown,
                None => ClearAt::Call(call),
            },
            ClearAt::Disown => {
                // Last: as long as the disk is owned, somebody comes and does all of this.
                words.store(Word::Owner(slot), 0);
                return Some(());
            }
        };
        None
    }
}
