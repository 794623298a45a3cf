//! Home's side of the disk's queues: who they are, and what they are told.
//!
//! ```text
//!   home                     queue (any thread)
//!    | --- Open(seed) ------->|  serves
//!    | --- Hold / Refuse ---->|  takes no more; what waits for a retry is held, or answered
//!    | --- Drain ------------>|  what runs ends
//!    |<-- so many had to end -|  the queue has let go of the images
//!    | --- Abandon ---------->|  gives up the answers of what runs
//! ```
//!
//! A queue that has gone answers nothing and runs nothing: its silence is an answer.

use std::cell::RefCell;

use futures_util::future::join_all;
use storage_io::{Receiver, Sender, mailbox, reply};

use crate::queue::ToQueue;

/// The queues of a disk.
#[derive(Default)]
pub(crate) struct Members(RefCell<Vec<Sender<ToQueue>>>);

impl Members {
    /// A new queue, whose first message is `first`.
    pub(crate) fn add(&self, first: ToQueue) -> Receiver<ToQueue> {
        let (sender, mail) = mailbox();
        let _ = sender.send(first);
        self.0.borrow_mut().push(sender);
        mail
    }

    /// Tells every queue something, and forgets those that have gone.
    pub(crate) fn tell(&self, mut message: impl FnMut() -> ToQueue) {
        self.0.borrow_mut().retain(|queue| queue.send(message()).is_ok());
    }

    /// Waits until nothing runs on any queue; gives how many requests had to end first.
    pub(crate) async fn drained(&self) -> u64 {
        let mut answers = Vec::new();
        self.tell(|| {
            let (to, answer) = reply();
            answers.push(answer);
            ToQueue::Drain(to)
        });
        join_all(answers).await.into_iter().flatten().sum()
    }
}
