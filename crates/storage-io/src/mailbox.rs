//! Messages from any thread to one executor: a mailbox of many, and a reply of one.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

struct Shared<T> {
    messages: VecDeque<T>,
    senders: usize,
    receiver: Option<Waker>,
    receiver_gone: bool,
}

type Box<T> = Arc<Mutex<Shared<T>>>;

/// The lock guards a queue's few words; nothing waits and nothing can panic while it is held.
fn open<T>(shared: &Box<T>) -> MutexGuard<'_, Shared<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A queue of messages: any thread sends, one executor receives.
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Shared { messages: VecDeque::new(), senders: 1, receiver: None, receiver_gone: false };
    let shared = Arc::new(Mutex::new(shared));
    (Sender(shared.clone()), Receiver(shared))
}

/// The side of a mailbox that sends. Clones send into the same mailbox.
pub struct Sender<T>(Box<T>);

impl<T> Sender<T> {
    /// Puts a message into the mailbox; never waits. Gives it back when the receiver has gone.
    pub fn send(&self, message: T) -> Result<(), T> {
        let mut shared = open(&self.0);
        if shared.receiver_gone {
            return Err(message);
        }
        shared.messages.push_back(message);
        let waker = shared.receiver.take();
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

impl<T> Sender<T> {
    /// Whether there is still somebody to receive.
    pub fn is_heard(&self) -> bool {
        !open(&self.0).receiver_gone
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        open(&self.0).senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut shared = open(&self.0);
        shared.senders -= 1;
        let waker = if shared.senders == 0 { shared.receiver.take() } else { None };
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}

/// The side of a mailbox that receives.
pub struct Receiver<T>(Box<T>);

impl<T> Receiver<T> {
    /// The next message; `None` when all senders have gone and everything was received.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next message, if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        open(&self.0).messages.pop_front()
    }

    /// As [`Self::recv`], for those who poll.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut shared = open(&self.0);
        match shared.messages.pop_front() {
            Some(message) => Poll::Ready(Some(message)),
            None if shared.senders == 0 => Poll::Ready(None),
            None => {
                shared.receiver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut shared = open(&self.0);
        shared.receiver_gone = true;
        let unread = std::mem::take(&mut shared.messages);
        drop(shared);
        // What was never read is dropped outside the lock: a message may hold a sender of this very mailbox.
        drop(unread);
    }
}

/// Room for one answer: any thread gives it, one executor waits for it.
pub fn reply<T>() -> (ReplyTo<T>, Reply<T>) {
    let (sender, receiver) = mailbox();
    (ReplyTo(sender), Reply(receiver))
}

/// Where the answer goes. Dropping it unanswered tells the waiter `None`.
#[derive(Debug)]
pub struct ReplyTo<T>(Sender<T>);

impl<T> ReplyTo<T> {
    /// Gives the answer; gives it back when nobody waits any more.
    pub fn answer(self, answer: T) -> Result<(), T> {
        self.0.send(answer)
    }
}

/// Waits for the answer; `None` when it will never come.
pub struct Reply<T>(Receiver<T>);

impl<T> Future for Reply<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EngineChoice, Executor};

    #[test]
    fn messages_from_another_thread_arrive_in_order_and_the_end_is_seen() {
        let executor = Executor::new(EngineChoice::Threads).unwrap();
        let (sender, mut receiver) = mailbox();
        let thread = std::thread::spawn(move || (0..1000).for_each(|number| sender.send(number).unwrap()));
        let received = executor.block_on(async {
            let mut all = Vec::new();
            while let Some(number) = receiver.recv().await {
                all.push(number);
            }
            all
        });
        thread.join().unwrap();
        assert_eq!(received, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_reply_that_is_dropped_unanswered_says_so() {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let (to, answer) = reply::<u32>();
        drop(to);
        assert_eq!(executor.block_on(answer), None);
    }

    #[test]
    fn sending_to_nobody_gives_the_message_back() {
        let (sender, receiver) = mailbox();
        drop(receiver);
        assert_eq!(sender.send(7), Err(7));
    }
}
