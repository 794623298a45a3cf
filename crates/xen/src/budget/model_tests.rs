//! All that can happen to a small table: every order of the single accesses of some processes, each of which may be
//! killed between any two of them, and may lose patience while it waits.

use std::{
    collections::HashSet,
    hash::{Hash, Hasher},
    sync::atomic::AtomicU64,
};

use super::{
    line::{Clear, Give, GiveUp, Skip, Step, Take},
    words::{Share, Slot, Total, Use, Word, Words, waiting_bit},
};

/// A table for a few disks.
struct Table(Vec<AtomicU64>);

impl Table {
    fn new(words: &[u64]) -> Table {
        Table(words.iter().copied().map(AtomicU64::new).collect())
    }

    fn into_words(self) -> Vec<u64> {
        self.0.into_iter().map(AtomicU64::into_inner).collect()
    }
}

/// Words of a disk.
const OF_SLOT: usize = 7;
const FIRST_SLOT: usize = 4;

fn place(word: Word) -> usize {
    let of = |slot: Slot, word: usize| FIRST_SLOT + slot.index() * OF_SLOT + word;
    let number = |what| usize::from(what == Use::Mapped);
    match word {
        Word::Tickets => 0,
        Word::Total(what) => 1 + number(what),
        Word::Waiting(_) => 3,
        Word::Owner(slot) => of(slot, 0),
        Word::Ticket(slot) => of(slot, 1),
        Word::Called(slot) => of(slot, 2),
        Word::Share(what, slot) => of(slot, 3 + number(what)),
        Word::Wanted(what, slot) => of(slot, 5 + number(what)),
    }
}

impl Words for Table {
    fn word(&self, word: Word) -> &AtomicU64 {
        &self.0[place(word)]
    }

    fn waiting_words(&self) -> usize {
        1
    }

    fn call(&self, slot: Slot) {
        self.store(Word::Called(slot), 1);
    }
}

/// What a process is at, for its one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Taking(Take),
    Asleep,
    Copying,
    Giving(Give),
    GivingUp(GiveUp),
    Ended,
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    words: Vec<u64>,
    /// Each with the rounds that it has left.
    processes: Vec<(At, u32)>,
    /// Somebody who clears what the dead have left.
    clearing: Option<(Slot, Clear)>,
    /// Somebody who takes one out of the line.
    skipping: Option<Skip>,
    deaths_left: u32,
    patience_left: u32,
    skips_left: u32,
}

/// What is played.
struct Story {
    limit: u32,
    /// Of each process: the pages that it takes, and how often.
    processes: &'static [(u32, u32)],
    /// Processes that die, and clearers that do.
    deaths: u32,
    /// Processes that leave the line without having got anything.
    losing_patience: u32,
    /// Processes that are taken out of the line, whether they come or not.
    skipped: u32,
}

/// Room for one page, and nothing happens to anybody.
const CALM: Story = Story { limit: 1, processes: &[], deaths: 0, losing_patience: 0, skipped: 0 };

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    states: usize,
    /// How often somebody slept.
    slept: usize,
    /// Ends at which all was as it should be.
    ends: usize,
}

fn slot(index: usize) -> Slot {
    Slot(u16::try_from(index).unwrap())
}

impl Story {
    fn start(&self) -> State {
        let table = Table::new(&vec![0; FIRST_SLOT + self.processes.len() * OF_SLOT]);
        (0..self.processes.len()).for_each(|index| table.store(Word::Owner(slot(index)), 1));
        let take = |(index, (pages, rounds)): (usize, &(u32, u32))| {
            (At::Taking(Take::new(slot(index), *pages, self.limit)), *rounds)
        };
        State {
            words: table.into_words(),
            processes: self.processes.iter().enumerate().map(take).collect(),
            clearing: None,
            skipping: None,
            deaths_left: self.deaths,
            patience_left: self.losing_patience,
            skips_left: self.skipped,
        }
    }

    /// Plays it in every order.
    fn play(&self) -> Outcome {
        let (mut seen, mut left, mut outcome) = (HashSet::new(), vec![self.start()], Outcome::default());
        while let Some(state) = left.pop() {
            if !seen.insert(fingerprint(&state)) {
                continue;
            }
            self.check(&state);
            let next = self.next(&state);
            outcome.slept += state.processes.iter().filter(|(at, _)| *at == At::Asleep).count();
            if next.iter().all(|(_, is_of_its_own)| !is_of_its_own) {
                check_end(&state);
                outcome.ends += 1;
            }
            left.extend(next.into_iter().map(|(state, _)| state));
        }
        outcome.states = seen.len();
        outcome
    }

    /// All that may come next, and whether it comes of its own: nobody need die or lose patience.
    fn next(&self, state: &State) -> Vec<(State, bool)> {
        let mut all = Vec::new();
        for index in 0..state.processes.len() {
            all.extend(self.step(state, index).map(|next| (next, true)));
            let (at, _) = state.processes[index];
            if state.deaths_left > 0 && !matches!(at, At::Dead | At::Ended) {
                let mut next = state.clone();
                next.deaths_left -= 1;
                next.processes[index].0 = At::Dead;
                all.push((next, false));
            }
            if state.patience_left > 0 && at == At::Asleep {
                let mut next = state.clone();
                next.patience_left -= 1;
                next.processes[index].0 = At::GivingUp(GiveUp::Leave(slot(index)));
                all.push((next, false));
            }
        }
        all.extend(skip(state));
        match state.clearing {
            Some(_) => {
                all.push((clear(state), true));
                if state.deaths_left > 0 {
                    all.push((State { clearing: None, deaths_left: state.deaths_left - 1, ..state.clone() }, false));
                }
            }
            None => all.extend(begin_to_clear(state).map(|next| (next, true))),
        }
        all
    }

    fn step(&self, state: &State, index: usize) -> Option<State> {
        let mut next = state.clone();
        let table = Table::new(&next.words);
        let (slot, (pages, _)) = (slot(index), self.processes[index]);
        let (at, rounds) = &mut next.processes[index];
        *at = match *at {
            At::Taking(mut take) => match take.step(&table) {
                Step::GoOn => At::Taking(take),
                Step::Sleep => At::Asleep,
                Step::Taken => At::Copying,
            },
            At::Asleep if table.load(Word::Called(slot)) != 0 => At::Taking(Take::in_line(slot, pages, self.limit)),
            At::Copying => At::Giving(Give::new(Use::Copies, slot, pages)),
            At::Giving(mut give) => match give.step(&table) {
                None => At::Giving(give),
                Some(()) if *rounds == 1 => At::Ended,
                Some(()) => {
                    *rounds -= 1;
                    At::Taking(Take::new(slot, pages, self.limit))
                }
            },
            At::GivingUp(mut give_up) => give_up.step(&table).map_or(At::GivingUp(give_up), |()| At::Ended),
            At::Asleep | At::Ended | At::Dead => return None,
        };
        next.words = table.into_words();
        Some(next)
    }

    /// What holds at any time.
    fn check(&self, state: &State) {
        let copying = state.processes.iter().zip(self.processes).filter(|((at, _), _)| *at == At::Copying);
        let copied: u32 = copying.map(|(_, (pages, _))| pages).sum();
        assert!(copied <= self.limit, "{copied} pages are copied: {state:?}");
        let total = Total::decode(state.words[place(Word::Total(Use::Copies))]);
        assert!(total.pages <= self.limit, "{total:?}: {state:?}");
    }
}

/// Begins to clear what a dead process has left.
fn begin_to_clear(state: &State) -> Option<State> {
    let is_left =
        |index: &usize| state.processes[*index].0 == At::Dead && state.words[place(Word::Owner(slot(*index)))] != 0;
    let left = slot((0..state.processes.len()).find(is_left)?);
    Some(State { clearing: Some((left, Clear::new(left))), ..state.clone() })
}

fn clear(state: &State) -> State {
    let mut next = state.clone();
    let table = Table::new(&next.words);
    let (_, clear) = next.clearing.as_mut().unwrap();
    if clear.step(&table).is_some() {
        next.clearing = None;
    }
    next.words = table.into_words();
    next
}

/// Goes on with taking one out of the line, or begins to.
fn skip(state: &State) -> Vec<(State, bool)> {
    let table = Table::new(&state.words);
    if let Some(mut skip) = state.skipping {
        let skipping = skip.step(&table).map_or(Some(skip), |()| None);
        return vec![(State { skipping, words: table.into_words(), ..state.clone() }, true)];
    }
    let is_in_line = |slot: &Slot| {
        let (bits, bit) = waiting_bit(*slot);
        state.skips_left > 0 && table.load(bits) & bit != 0
    };
    let begin = |slot| {
        let (skipping, skips_left) = (Some(Skip::Leave(slot)), state.skips_left - 1);
        (State { skipping, skips_left, ..state.clone() }, false)
    };
    (0..state.processes.len()).map(slot).filter(is_in_line).map(begin).collect()
}

/// Nothing goes on: nobody waits, and nothing is used.
fn check_end(state: &State) {
    assert!(state.processes.iter().all(|(at, _)| matches!(at, At::Ended | At::Dead)), "somebody sleeps: {state:?}");
    let word = |word| state.words[place(word)];
    assert_eq!(Total::decode(word(Word::Total(Use::Copies))).pages, 0, "{state:?}");
    for index in 0..state.processes.len() {
        let share = Share::decode(word(Word::Share(Use::Copies, slot(index))));
        let (bits, bit) = waiting_bit(slot(index));
        assert_eq!((share.pages, word(bits) & bit), (0, 0), "{state:?}");
    }
}

/// Two states with the same one are taken for one: once in ten million runs.
fn fingerprint(state: &State) -> u64 {
    let mut mixer = Mixer(0);
    state.hash(&mut mixer);
    mixer.finish()
}

/// Each word mixed with all before it (splitmix64).
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let state = (self.0 ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = mixed ^ (mixed >> 31);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn play(story: &Story) {
    let outcome = story.play();
    println!("{outcome:?}");
    assert!(outcome.ends > 0 && outcome.slept > 0, "nothing to be learnt from {outcome:?}");
}

#[test]
fn two_who_take_turns_and_die_leave_nothing_behind() {
    play(&Story { processes: &[(1, 2), (1, 2)], deaths: 1, ..CALM });
}

#[test]
fn whoever_clears_up_behind_the_dead_may_die_too() {
    play(&Story { processes: &[(1, 1), (1, 1)], deaths: 2, losing_patience: 1, ..CALM });
}

#[test]
fn whoever_is_taken_out_of_the_line_comes_again() {
    play(&Story { processes: &[(1, 2), (1, 1)], skipped: 2, ..CALM });
}

#[test]
fn of_three_one_wants_all() {
    // Each besides the rest would take a minute.
    let (deaths, losing_patience) = if test_support::long() { (1, 1) } else { (0, 0) };
    play(&Story { limit: 2, processes: &[(1, 1), (2, 1), (1, 1)], deaths, losing_patience, ..CALM });
}
