//! Credit that somebody outside gives: bytes that a disk may move when it has been granted them. Several disks may share
//! one giver, who then decides between them.
//!
//! ```text
//!   request --claim--> waiting --> granted --> request ends
//!                         |           ^             |
//!                    need |     grant |             | done
//!                         v           |             v
//!                    +--- whoever feeds the budget -----+
//! ```
//!
//! Without a giver everything passes: a disk must not stand still because a service is down.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use block_core::{Error, ErrorKind, Result};

use crate::limits::Direction;

/// What is asked for and not granted at any time, in bytes. Larger requests ask piece by piece.
const ASKED_BYTES_MAX: u64 = 4 << 20;

/// What a disk has to tell to the one who grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Bytes that are wanted beyond what was asked for before.
    pub need: u64,
    /// Bytes granted before whose requests have ended since the last account.
    pub done: u64,
}

/// A budget, as people see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetStatus {
    /// Whether somebody grants.
    pub is_connected: bool,
    /// Whether reads draw on it too.
    pub covers_reads: bool,
    /// Bytes that were granted and are not used yet.
    pub credit: u64,
    /// Bytes that were asked for and not granted yet.
    pub asked: u64,
    /// Bytes whose end is not told yet.
    pub done: u64,
    /// Requests that wait.
    pub waiting: u64,
    /// Requests that were let through, with grants or without a giver.
    pub passed: u64,
    /// Bytes that were ever granted.
    pub granted_bytes: u64,
}

/// A budget of bytes, shared between the disk's queues and the one who feeds it; any thread may do either.
#[derive(Debug, Default)]
pub struct Budget {
    covers_reads: bool,
    /// Guards words and a short list. Whoever draws on a budget waits for another process; a lock is not what it costs.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_connected: bool,
    /// Of the connection: what an earlier one granted is not accounted for with this one.
    epoch: u64,
    credit: u64,
    asked: u64,
    done: u64,
    passed: u64,
    granted_bytes: u64,
    /// First come, first served.
    waiting: VecDeque<Waiter>,
    /// What those who wait want together.
    waiting_bytes: u64,
    next_number: u64,
    feeder: Option<Waker>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    bytes: u64,
    waker: Waker,
}

impl Budget {
    /// A budget without a giver, for writes, and for reads if asked.
    pub fn new(covers_reads: bool) -> Arc<Budget> {
        Arc::new(Budget { covers_reads, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn covers(&self, direction: Direction) -> bool {
        self.covers_reads || direction == Direction::Write
    }

    /// How it stands.
    pub fn status(&self) -> BudgetStatus {
        let state = self.state();
        BudgetStatus {
            is_connected: state.is_connected,
            covers_reads: self.covers_reads,
            credit: state.credit,
            asked: state.asked,
            done: state.done,
            waiting: state.waiting.len() as u64,
            passed: state.passed,
            granted_bytes: state.granted_bytes,
        }
    }

    /// A giver is there: from now on its grants are waited for.
    pub fn connected(&self) {
        let mut state = self.state();
        assert!(!state.is_connected, "there is one giver at a time");
        state.is_connected = true;
        state.epoch += 1;
        (state.credit, state.asked, state.done) = (0, 0, 0);
    }

    /// The giver has gone: who waits goes on.
    pub fn disconnected(&self) {
        let mut state = self.state();
        state.is_connected = false;
        state.waiting_bytes = 0;
        state.passed += state.waiting.len() as u64;
        let released = std::mem::take(&mut state.waiting);
        drop(state);
        released.into_iter().for_each(|waiter| waiter.waker.wake());
    }

    /// What is to be told to the giver: ready as soon as there is something. It counts as told.
    pub fn poll_account(&self, cx: &mut Context<'_>) -> Poll<Account> {
        let mut state = self.state();
        let wanted = state.waiting_bytes.saturating_sub(state.credit + state.asked);
        let need = wanted.min(ASKED_BYTES_MAX.saturating_sub(state.asked));
        let account = Account { need, done: state.done };
        if account == Account::default() {
            state.feeder = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.asked += need;
        state.done = 0;
        Poll::Ready(account)
    }

    /// The giver grants so many bytes.
    ///
    /// # Errors
    /// That many were not asked for; nothing has changed.
    pub fn grant(&self, bytes: u64) -> Result<()> {
        let mut state = self.state();
        if !state.is_connected || bytes > state.asked {
            let words = format!("{bytes} bytes were granted where {} were asked for", state.asked);
            return Err(Error::new(ErrorKind::Invalid, words));
        }
        state.asked -= bytes;
        state.credit += bytes;
        state.granted_bytes += bytes;
        settle(state);
        Ok(())
    }
}

/// Lets go whose turn has come, and tells the feeder that something has changed.
fn settle(mut state: MutexGuard<'_, State>) {
    let mut wakers = Vec::new();
    while let Some(first) = state.waiting.front()
        && first.bytes <= state.credit
    {
        let waiter = state.waiting.pop_front().expect("it was there");
        state.credit -= waiter.bytes;
        state.waiting_bytes -= waiter.bytes;
        state.passed += 1;
        wakers.push(waiter.waker);
    }
    wakers.extend(state.feeder.take());
    // Wakers are foreign code: not under the lock.
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}

/// What one request takes from a budget; dropped when the request has ended, or is not wanted any more.
#[derive(Debug)]
pub(crate) struct Claim {
    budget: Arc<Budget>,
    bytes: u64,
    progress: Progress,
}

#[derive(Clone, Copy, Debug)]
enum Progress {
    New,
    Waiting {
        number: u64,
        epoch: u64,
    },
    Granted {
        epoch: u64,
    },
    /// Nobody granted it, and nobody hears of its end.
    Free,
}

impl Claim {
    pub(crate) fn new(budget: Arc<Budget>, bytes: u64) -> Claim {
        Claim { budget, bytes, progress: Progress::New }
    }

    /// Ready when the request may go.
    pub(crate) fn poll_granted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Progress::New = self.progress {
            self.progress = self.enter(cx);
        }
        if let Progress::Waiting { number, epoch } = self.progress {
            self.progress = self.look(number, epoch, cx);
        }
        if let Progress::Waiting { .. } = self.progress { Poll::Pending } else { Poll::Ready(()) }
    }

    fn enter(&self, cx: &mut Context<'_>) -> Progress {
        let mut state = self.budget.state();
        if !state.is_connected {
            state.passed += 1;
            return Progress::Free;
        }
        state.next_number += 1;
        let (number, epoch) = (state.next_number, state.epoch);
        state.waiting.push_back(Waiter { number, bytes: self.bytes, waker: cx.waker().clone() });
        state.waiting_bytes += self.bytes;
        settle(state);
        Progress::Waiting { number, epoch }
    }

    /// Who is not among those who wait any more may go.
    fn look(&self, number: u64, epoch: u64, cx: &mut Context<'_>) -> Progress {
        let mut state = self.budget.state();
        if let Some(waiter) = state.waiting.iter_mut().find(|waiter| waiter.number == number) {
            waiter.waker.clone_from(cx.waker());
            return Progress::Waiting { number, epoch };
        }
        if state.is_connected && state.epoch == epoch { Progress::Granted { epoch } } else { Progress::Free }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        match self.progress {
            Progress::Waiting { number, epoch } if state.epoch == epoch => {
                if let Some(index) = state.waiting.iter().position(|waiter| waiter.number == number) {
                    state.waiting.remove(index);
                    state.waiting_bytes -= self.bytes;
                } else if state.is_connected {
                    // Granted, but it never heard of it.
                    state.done += self.bytes;
                }
            }
            Progress::Granted { epoch } if state.is_connected && state.epoch == epoch => state.done += self.bytes,
            _ => return,
        }
        settle(state);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn account(budget: &Budget) -> Option<(u64, u64)> {
        match budget.poll_account(&mut cx()) {
            Poll::Ready(Account { need, done }) => Some((need, done)),
            Poll::Pending => None,
        }
    }

    fn claim(budget: &Arc<Budget>, bytes: u64) -> (Claim, bool) {
        let mut claim = Claim::new(budget.clone(), bytes);
        let is_granted = claim.poll_granted(&mut cx()).is_ready();
        (claim, is_granted)
    }

    #[test]
    fn without_a_giver_everything_passes() {
        let budget = Budget::new(false);
        let (request, is_granted) = claim(&budget, 1 << 30);
        assert!(is_granted);
        drop(request);
        assert_eq!(account(&budget), None);
    }

    #[test]
    fn a_request_waits_for_its_grant_and_its_end_is_told() {
        let budget = Budget::new(false);
        budget.connected();
        let (mut request, is_granted) = claim(&budget, 4096);
        assert!(!is_granted);
        assert_eq!(account(&budget), Some((4096, 0)));
        assert_eq!(account(&budget), None, "it is asked for once");
        budget.grant(4095).unwrap();
        assert!(request.poll_granted(&mut cx()).is_pending());
        budget.grant(1).unwrap();
        assert!(request.poll_granted(&mut cx()).is_ready());
        assert_eq!(account(&budget), None);
        drop(request);
        assert_eq!(account(&budget), Some((0, 4096)));
    }

    #[test]
    fn grants_go_to_who_came_first() {
        let budget = Budget::new(true);
        budget.connected();
        let (mut large, _) = claim(&budget, 100);
        let (mut small, _) = claim(&budget, 10);
        assert_eq!(account(&budget), Some((110, 0)));
        budget.grant(10).unwrap();
        assert!(small.poll_granted(&mut cx()).is_pending(), "a small one does not overtake");
        budget.grant(100).unwrap();
        assert!(large.poll_granted(&mut cx()).is_ready() && small.poll_granted(&mut cx()).is_ready());
        assert_eq!(budget.status().passed, 2);
    }

    #[test]
    fn a_large_request_asks_piece_by_piece() {
        let budget = Budget::new(false);
        budget.connected();
        let bytes = 3 * ASKED_BYTES_MAX + 5;
        let (mut request, _) = claim(&budget, bytes);
        let mut asked = Vec::new();
        while let Some((need, _)) = account(&budget) {
            asked.push(need);
            budget.grant(need).unwrap();
        }
        assert_eq!(asked, [ASKED_BYTES_MAX, ASKED_BYTES_MAX, ASKED_BYTES_MAX, 5]);
        assert!(request.poll_granted(&mut cx()).is_ready());
    }

    #[test]
    fn what_was_asked_for_somebody_who_has_gone_serves_the_next() {
        let budget = Budget::new(false);
        budget.connected();
        let (gone, _) = claim(&budget, 4096);
        assert_eq!(account(&budget), Some((4096, 0)));
        drop(gone);
        let (mut next, _) = claim(&budget, 5000);
        assert_eq!(account(&budget), Some((904, 0)));
        budget.grant(5000).unwrap();
        assert!(next.poll_granted(&mut cx()).is_ready());
    }

    #[test]
    fn more_than_was_asked_for_is_refused() {
        let budget = Budget::new(false);
        budget.connected();
        let (_request, _) = claim(&budget, 4096);
        assert!(budget.grant(1).is_err(), "nobody has asked yet");
        account(&budget);
        assert!(budget.grant(4097).is_err());
        budget.grant(4096).unwrap();
    }

    #[test]
    fn when_the_giver_goes_who_waits_goes_on_and_nothing_is_carried_over() {
        let budget = Budget::new(false);
        budget.connected();
        let (mut waiting, _) = claim(&budget, 4096);
        let (mut granted, _) = claim(&budget, 512);
        account(&budget);
        budget.grant(4096 + 512).unwrap();
        assert!(granted.poll_granted(&mut cx()).is_ready());
        let (mut late, _) = claim(&budget, 1);
        budget.disconnected();
        assert!(waiting.poll_granted(&mut cx()).is_ready() && late.poll_granted(&mut cx()).is_ready());
        budget.connected();
        drop((waiting, granted, late));
        assert_eq!(account(&budget), None, "the new giver knows nothing of them");
        assert_eq!(
            budget.status(),
            BudgetStatus { is_connected: true, granted_bytes: 4608, passed: 3, ..budget.status() }
        );
        assert_eq!((budget.status().credit, budget.status().asked, budget.status().waiting), (0, 0, 0));
    }

    #[test]
    fn who_goes_makes_way_for_those_behind() {
        let budget = Budget::new(false);
        budget.connected();
        let (first, _) = claim(&budget, 100);
        let (mut second, _) = claim(&budget, 10);
        account(&budget);
        budget.grant(50).unwrap();
        assert!(second.poll_granted(&mut cx()).is_pending());
        drop(first);
        assert!(second.poll_granted(&mut cx()).is_ready());
    }
}
