//! The jobs of home: what one request needs beyond reading a place and writing a place. A job belongs to home: the
//! requester that goes away cancels nothing.

mod clear;
mod reclaim;
mod sync;
mod write;

use std::{cell::Cell, future::Future, rc::Rc};

use image_format::Format;
use storage_io::Signal;

use crate::{
    chain::Chain,
    messages::{Clear, ToHome},
};

pub(crate) use reclaim::Reclaim;

/// How many jobs run, for who waits until none does.
#[derive(Default)]
pub(crate) struct Jobs {
    running: Cell<usize>,
    ended: Signal,
}

impl Jobs {
    /// Waits until no job runs.
    pub(crate) async fn all_ended(&self) {
        self.ended.until(|| self.running.get() == 0).await;
    }
}

/// Counts a job while it runs.
struct Running(Rc<Jobs>);

impl Running {
    fn begin(jobs: &Rc<Jobs>) -> Running {
        jobs.running.set(jobs.running.get() + 1);
        Running(jobs.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        if self.0.running.get() == 0 {
            self.0.ended.notify();
        }
    }
}

impl<F: Format + 'static> Chain<F> {
    /// Runs `job` to its end, whoever still waits for it.
    pub(crate) fn start(self: &Rc<Self>, job: impl Future<Output = ()> + 'static) {
        let running = Running::begin(&self.jobs);
        let job = async move {
            job.await;
            drop(running);
        };
        self.executor.spawn(job).detach();
    }

    /// Starts what a queue asks for. An answer that nobody waits for any more is dropped.
    pub(crate) fn take(self: &Rc<Self>, message: ToHome) {
        let chain = self.clone();
        self.start(async move {
            match message {
                ToHome::Resolve { range, reply } => _ = reply.answer(chain.resolve(range).await),
                ToHome::Write { range, buffer, durable, reply } => {
                    _ = reply.answer(chain.write(range, buffer, durable).await);
                }
                ToHome::Clear { range, clear: Clear::Discard, reply } => {
                    _ = reply.answer(chain.discard(range).await);
                }
                ToHome::Clear { range, clear: Clear::Zero { may_free, durable }, reply } => {
                    _ = reply.answer(chain.write_zeroes(range, may_free, durable).await);
                }
                ToHome::Flush { reply } => _ = reply.answer(chain.flush().await),
                ToHome::Leave { queue } => chain.claiming.remove_queue(queue).await,
            }
        });
    }
}
