//! A broker beside whatever else a process does.

use std::{
    path::Path,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use storage_io::{EngineChoice, Executor, Sender, mailbox};

use super::{Broker, BrokerLimits};

/// Something that is asked of a broker where it lives.
type Question = Box<dyn FnOnce(&Broker) + Send>;

/// A broker on a thread of its own, until it goes out of scope.
pub struct BrokerThread {
    /// None when it shall end.
    questions: Option<Sender<Question>>,
    thread: Option<JoinHandle<()>>,
}

impl BrokerThread {
    /// Starts a broker with its socket in `directory`.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start(directory: &Path, limits: BrokerLimits) -> Result<BrokerThread> {
        let (questions, mut asked) = mailbox::<Question>();
        let (up, is_up) = mpsc::channel();
        let directory = directory.to_owned();
        let run = move || {
            let executor = match Executor::new(EngineChoice::Inline) {
                Ok(executor) => executor,
                Err(error) => return drop(up.send(Err(error))),
            };
            let broker = match Broker::start(&executor, &directory, limits) {
                Ok(broker) => broker,
                Err(error) => return drop(up.send(Err(error))),
            };
            let _ = up.send(Ok(()));
            executor.block_on(async {
                while let Some(question) = asked.recv().await {
                    question(&broker);
                }
            });
        };
        let thread = thread::Builder::new().name("broker".to_owned()).spawn(run).context("the broker's thread")?;
        let (questions, thread) = (Some(questions), Some(thread));
        let broker = BrokerThread { questions, thread };
        is_up.recv().unwrap_or_else(|_| Err(gone()))?;
        Ok(broker)
    }

    /// Asks the broker something, on its thread, and waits for the answer.
    ///
    /// # Panics
    /// When the broker's thread has panicked.
    pub fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Broker) -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let question = Box::new(move |broker: &Broker| drop(answer.send(question(broker))));
        let questions = self.questions.as_ref().expect("it ends only when this goes out of scope");
        assert!(questions.send(question).is_ok(), "{}", gone());
        answered.recv().unwrap_or_else(|_| panic!("{}", gone()))
    }
}

impl Drop for BrokerThread {
    fn drop(&mut self) {
        self.questions = None;
        if let Some(thread) = self.thread.take() {
            // What it has panicked about stands on stderr already.
            let _ = thread.join();
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "the broker has gone")
}
