//! Memory as weak as Rust's: each word is the list of what was stored to it, and each party has its own view of how far
//! it has got in each list.
//!
//! A load may see any store that is not older than the party's view. What a release stores carries the view of who has
//! stored it; an acquire that sees it takes the view over. Sequentially consistent fences and accesses meet in one view
//! that all of them share. Two things are stronger than Rust's: stores of different parties to one word are ordered as
//! they happen, and no load sees a store that is still to come.

use std::collections::BTreeMap;

use super::{Order, Step};

/// How far a party has got, word by word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct View(BTreeMap<u32, usize>);

impl View {
    fn at(&self, word: u32) -> usize {
        self.0.get(&word).copied().unwrap_or(0)
    }

    fn raise(&mut self, word: u32, index: usize) {
        // What is the same for everybody stays out, so that equal views are equal.
        if index > 0 {
            let at = self.0.entry(word).or_default();
            *at = index.max(*at);
        }
    }

    fn join(&mut self, other: &View) {
        other.0.iter().for_each(|(word, index)| self.raise(*word, *index));
    }
}

/// What a party knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Views {
    now: View,
    /// What an acquire fence will take over.
    seen: View,
    /// What a release fence lets later stores carry.
    released: View,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stored {
    value: u32,
    view: View,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Bell {
    is_rung: bool,
    view: View,
}

/// All words and bells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Memory {
    /// What was stored, the oldest first; a zero stands before all of it.
    words: BTreeMap<u32, Vec<Stored>>,
    bells: BTreeMap<u32, Bell>,
    sequential: View,
}

impl Memory {
    /// In how many ways a step may end now.
    pub(super) fn ways(&self, views: &Views, step: Step) -> usize {
        match step {
            Step::Load(word, order) => self.last(word) - self.oldest(views, word, order) + 1,
            Step::Wait(bell) => usize::from(self.bells.get(&bell).is_some_and(|bell| bell.is_rung)),
            _ => 1,
        }
    }

    /// How many stores there were.
    fn last(&self, word: u32) -> usize {
        self.words.get(&word).map_or(0, Vec::len)
    }

    /// The oldest store that a load may see.
    fn oldest(&self, views: &Views, word: u32, order: Order) -> usize {
        let own = views.now.at(word);
        if order == Order::Sequential { own.max(self.sequential.at(word)) } else { own }
    }

    /// Does it, in one of the ways; the value that the party sees.
    pub(super) fn step(&mut self, views: &mut Views, step: Step, choice: usize) -> u32 {
        match step {
            Step::Load(word, order) => {
                let index = self.oldest(views, word, order) + choice;
                self.see(views, word, index, order)
            }
            Step::Store(word, value, order) => {
                self.put(views, word, value, order, &View::default());
                0
            }
            Step::Add(word, value, order) => {
                let last = self.last(word);
                let before = self.see(views, word, last, order);
                // What was released before goes on with it.
                let carried = self.stored(word, last).map(|stored| stored.view.clone()).unwrap_or_default();
                self.put(views, word, before.wrapping_add(value), order, &carried);
                before
            }
            Step::Fence(order) => {
                self.fence(views, order);
                0
            }
            Step::Notify(bell) => {
                let bell = self.bells.entry(bell).or_default();
                bell.is_rung = true;
                bell.view.join(&views.now);
                0
            }
            Step::Wait(bell) => {
                let bell = self.bells.entry(bell).or_default();
                bell.is_rung = false;
                views.now.join(&bell.view);
                0
            }
        }
    }

    fn stored(&self, word: u32, index: usize) -> Option<&Stored> {
        self.words.get(&word)?.get(index.checked_sub(1)?)
    }

    fn see(&mut self, views: &mut Views, word: u32, index: usize, order: Order) -> u32 {
        let (value, view) = match self.stored(word, index) {
            Some(stored) => (stored.value, stored.view.clone()),
            None => (0, View::default()),
        };
        views.now.raise(word, index);
        views.seen.join(&view);
        if order.acquires() {
            views.now.join(&view);
        }
        if order == Order::Sequential {
            self.sequential.raise(word, index);
        }
        value
    }

    fn put(&mut self, views: &mut Views, word: u32, value: u32, order: Order, carried: &View) {
        let index = self.last(word) + 1;
        views.now.raise(word, index);
        let mut view = if order.releases() { views.now.clone() } else { views.released.clone() };
        view.raise(word, index);
        view.join(carried);
        self.words.entry(word).or_default().push(Stored { value, view });
        if order == Order::Sequential {
            self.sequential.raise(word, index);
        }
    }

    fn fence(&mut self, views: &mut Views, order: Order) {
        if order.acquires() {
            let seen = views.seen.clone();
            views.now.join(&seen);
        }
        if order == Order::Sequential {
            views.now.join(&self.sequential);
            self.sequential.join(&views.now);
        }
        if order.releases() {
            views.released = views.now.clone();
        }
    }
}
