//! Every order in which a few parties may do what they do to words that they share.
//!
//! ```text
//!   code under test --each access--> Party --history known? the value : stop here--> Orders: all that may come next
//! ```
//!
//! A party is a function that reaches shared words through its [`Party`] only. It is run again from its beginning for each
//! of its steps, with what it has seen before, so that the code under test is the real one and a state is a value: states
//! that were seen before are not gone through twice. Memory is as weak as Rust's (see `memory`): a missing fence is found
//! here on a machine that would have done no harm.

mod memory;

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::Ordering,
};

use memory::{Memory, Views};

/// One access of a party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Load(u32, Order),
    Store(u32, u32, Order),
    Add(u32, u32, Order),
    Fence(Order),
    Notify(u32),
    Wait(u32),
}

/// An [`Ordering`] that can be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Order {
    Relaxed,
    Acquire,
    Release,
    Both,
    Sequential,
}

impl Order {
    fn acquires(self) -> bool {
        !matches!(self, Order::Relaxed | Order::Release)
    }

    fn releases(self) -> bool {
        !matches!(self, Order::Relaxed | Order::Acquire)
    }
}

impl From<Ordering> for Order {
    fn from(order: Ordering) -> Order {
        match order {
            Ordering::Acquire => Order::Acquire,
            Ordering::Release => Order::Release,
            Ordering::AcqRel => Order::Both,
            Ordering::SeqCst => Order::Sequential,
            _ => Order::Relaxed,
        }
    }
}

/// How a party reaches what it shares with others. Words and bells are named by numbers; words are zero at first.
#[derive(Debug)]
pub struct Party<'a> {
    history: &'a [u32],
    position: Cell<usize>,
    next: RefCell<Option<Step>>,
}

/// How a run is stopped where its history ends.
struct HistoryEnds;

impl Party<'_> {
    fn step(&self, step: Step) -> u32 {
        let position = self.position.get();
        if let Some(seen) = self.history.get(position) {
            self.position.set(position + 1);
            return *seen;
        }
        self.next.replace(Some(step));
        resume_unwind(Box::new(HistoryEnds));
    }

    /// The value of a word.
    pub fn load(&self, word: u32, order: Ordering) -> u32 {
        self.step(Step::Load(word, order.into()))
    }

    /// Changes a word.
    pub fn store(&self, word: u32, value: u32, order: Ordering) {
        self.step(Step::Store(word, value, order.into()));
    }

    /// Adds to a word, around the end of numbers; what it was before.
    pub fn fetch_add(&self, word: u32, value: u32, order: Ordering) -> u32 {
        self.step(Step::Add(word, value, order.into()))
    }

    /// Keeps accesses on both sides in order.
    pub fn fence(&self, order: Ordering) {
        self.step(Step::Fence(order.into()));
    }

    /// Rings a bell: whoever waits for it, or will, goes on.
    pub fn notify(&self, bell: u32) {
        self.step(Step::Notify(bell));
    }

    /// Waits until a bell was rung; several rings are one.
    pub fn wait(&self, bell: u32) {
        self.step(Step::Wait(bell));
    }
}

/// Why an order is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Parties wait for bells that nobody rings any more; what was done before.
    Stuck(Vec<String>),
    /// A party has panicked; what was done before.
    Panicked(Vec<String>),
}

/// A party as a function, and its name.
type Code<'a> = (&'static str, Box<dyn Fn(&Party<'_>) + 'a>);

/// The parties.
#[derive(Default)]
pub struct Orders<'a> {
    parties: Vec<Code<'a>>,
}

/// What a party does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Next {
    Step(Step),
    Ended,
    Panicked,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct PartyState {
    history: Vec<u32>,
    next: Next,
    views: Views,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    parties: Vec<PartyState>,
    memory: Memory,
}

/// A state on the way, with what is still to be tried from it.
struct Frame {
    state: State,
    choices: Vec<(usize, usize)>,
}

impl<'a> Orders<'a> {
    /// Adds a party. It must do the same each time it is run and sees the same.
    pub fn party(mut self, name: &'static str, code: impl Fn(&Party<'_>) + 'a) -> Orders<'a> {
        self.parties.push((name, Box::new(code)));
        self
    }

    /// Goes through all orders; says how many states there are.
    ///
    /// # Errors
    /// An order in which something goes wrong, the first that is found.
    ///
    /// # Panics
    /// When there are more than `states_max` states: then it would not be all of them.
    pub fn explore(&self, states_max: usize) -> Result<usize, Wrong> {
        let parties = self.parties.iter().enumerate();
        let parties = parties.map(|(index, _)| PartyState {
            history: Vec::new(),
            next: self.next(index, &[]),
            views: Views::default(),
        });
        let first = State { parties: parties.collect(), memory: Memory::default() };
        let mut seen = HashSet::from([fingerprint(&first)]);
        let mut words: Vec<String> = Vec::new();
        let mut path = vec![Frame::new(first, &words)?];
        while let Some(frame) = path.last_mut() {
            let Some((party, choice)) = frame.choices.pop() else {
                path.pop();
                words.pop();
                continue;
            };
            let (state, told) = self.step(&frame.state, party, choice);
            if !seen.insert(fingerprint(&state)) {
                continue;
            }
            assert!(seen.len() <= states_max, "there are more than {states_max} states");
            words.push(told);
            path.push(Frame::new(state, &words)?);
        }
        Ok(seen.len())
    }

    /// What comes when a party, which has seen this, goes on by one step.
    fn step(&self, state: &State, index: usize, choice: usize) -> (State, String) {
        let mut state = state.clone();
        let party = &mut state.parties[index];
        let Next::Step(step) = party.next else { unreachable!("who has ended has no choice") };
        let value = state.memory.step(&mut party.views, step, choice);
        party.history.push(value);
        party.next = self.next(index, &party.history);
        (state, format!("{}: {step:?} -> {value}", self.parties[index].0))
    }

    fn next(&self, index: usize, history: &[u32]) -> Next {
        let party = Party { history, position: Cell::new(0), next: RefCell::new(None) };
        match catch_unwind(AssertUnwindSafe(|| self.parties[index].1(&party))) {
            Ok(()) => Next::Ended,
            Err(payload) if payload.is::<HistoryEnds>() => {
                Next::Step(party.next.take().expect("a party stops at a step"))
            }
            Err(_) => Next::Panicked,
        }
    }
}

impl Frame {
    /// Looks at a state, and at how it has come to be.
    fn new(state: State, words: &[String]) -> Result<Frame, Wrong> {
        if state.parties.iter().any(|party| party.next == Next::Panicked) {
            return Err(Wrong::Panicked(words.to_vec()));
        }
        let choices = state.choices();
        if choices.is_empty() && state.parties.iter().any(|party| party.next != Next::Ended) {
            return Err(Wrong::Stuck(words.to_vec()));
        }
        Ok(Frame { state, choices })
    }
}

impl State {
    /// Which party may go on, and in how many ways.
    fn choices(&self) -> Vec<(usize, usize)> {
        let parties = self.parties.iter().enumerate();
        let ways = parties.flat_map(|(index, party)| {
            let count = match party.next {
                Next::Step(step) => self.memory.ways(&party.views, step),
                Next::Ended | Next::Panicked => 0,
            };
            (0..count).map(move |choice| (index, choice))
        });
        ways.collect()
    }
}

fn fingerprint(state: &State) -> [u64; 2] {
    [0_u64, 1].map(|salt| {
        let mut hasher = DefaultHasher::new();
        (salt, state).hash(&mut hasher);
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

    use super::*;

    const STATES_MAX: usize = 100_000;

    /// Each stores to a word of its own and looks at the other's: whether both may see nothing.
    fn both_see_nothing(store: Ordering, load: Ordering, fence: Option<Ordering>) -> bool {
        let orders = [0_u32, 1].into_iter().fold(Orders::default(), |orders, own| {
            orders.party("one of two", move |party| {
                party.store(own, 1, store);
                if let Some(fence) = fence {
                    party.fence(fence);
                }
                let seen = party.load(1 - own, load);
                // Whoever is the second to come here knows both.
                let before = party.fetch_add(2, 1 + seen, SeqCst);
                assert!(before != 1 || seen == 1, "neither has seen the other");
            })
        });
        matches!(orders.explore(STATES_MAX), Err(Wrong::Panicked(_)))
    }

    #[test]
    fn a_store_and_a_look_pass_each_other_unless_a_fence_is_between() {
        assert!(both_see_nothing(Relaxed, Relaxed, None));
        assert!(both_see_nothing(Release, Acquire, None));
        assert!(both_see_nothing(Release, Acquire, Some(Ordering::AcqRel)));
        assert!(!both_see_nothing(Relaxed, Relaxed, Some(SeqCst)));
        assert!(!both_see_nothing(SeqCst, SeqCst, None));
        assert!(both_see_nothing(SeqCst, Acquire, None));
    }

    fn what_is_told_is_there(store: Ordering, load: Ordering) -> bool {
        let orders = Orders::default()
            .party("who tells", move |party| {
                party.store(0, 7, Relaxed);
                party.store(1, 1, store);
            })
            .party("who hears", move |party| {
                if party.load(1, load) == 1 {
                    assert_eq!(party.load(0, Relaxed), 7);
                }
            });
        orders.explore(STATES_MAX).is_ok()
    }

    #[test]
    fn what_was_written_before_a_release_is_seen_behind_an_acquire_and_not_otherwise() {
        assert!(what_is_told_is_there(Release, Acquire));
        assert!(!what_is_told_is_there(Relaxed, Acquire));
        assert!(!what_is_told_is_there(Release, Relaxed));
    }

    #[test]
    fn two_that_add_lose_nothing_and_two_that_load_and_store_do() {
        let count = |atomically: bool| {
            let adding = move |party: &Party<'_>| {
                if atomically {
                    party.fetch_add(0, 1, Relaxed);
                } else {
                    let before = party.load(0, SeqCst);
                    party.store(0, before + 1, SeqCst);
                }
                party.notify(0);
            };
            let orders = Orders::default().party("one", adding).party("other", move |party| {
                adding(party);
                let mine = party.load(0, SeqCst);
                assert!(mine > 0);
                while party.load(0, SeqCst) < 2 {
                    party.wait(0);
                }
            });
            orders.explore(STATES_MAX)
        };
        assert!(count(true).is_ok());
        assert!(matches!(count(false), Err(Wrong::Stuck(_))));
    }

    #[test]
    fn a_bell_that_was_rung_before_is_heard() {
        let orders = Orders::default().party("rings", |party| party.notify(3)).party("waits", |party| party.wait(3));
        assert!(orders.explore(STATES_MAX).is_ok());
        let alone = Orders::default().party("waits", |party| party.wait(3));
        assert_eq!(alone.explore(STATES_MAX), Err(Wrong::Stuck(Vec::new())));
    }
}
