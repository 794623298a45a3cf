//! Asking a tapdisk in its native protocol. Blocking, for programs that have nothing else to do.

use std::{io, time::Duration};

use block_core::{Error, Result};

use super::{
    ANSWER_BYTES_MAX, Answer, AnswerBody, Command, DiskSummary, Failure, Greeting, Hello, LineReader, Progress,
    Request, ResultOf, RingEvent, Statistics,
};
use crate::{RunDir, connection::Connection};

/// A connection to one tapdisk.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    reader: LineReader,
    greeting: Greeting,
    /// Of the last request.
    id: u64,
}

impl Client {
    /// Connects to the tapdisk with this process id. Gives up, now and later, when it has said nothing for `timeout`:
    /// while a job runs it says something every second.
    pub fn connect(run: &RunDir, pid: u32, timeout: Option<Duration>) -> Result<Client> {
        let connection = Connection::open(&run.native_socket(pid), timeout)?;
        let greeting = Greeting { version: 0, program: String::new(), pid };
        let reader = LineReader::new(ANSWER_BYTES_MAX);
        let mut client = Client { connection, reader, greeting, id: 0 };
        let Hello { oxtap } = client.line()?;
        client.greeting = oxtap;
        Ok(client)
    }

    /// What the tapdisk says about itself.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Has a command carried out, and gives its result.
    ///
    /// # Errors
    /// The tapdisk's own, with its number and words; `TimedOut` if it has said nothing for too long; or whatever is wrong
    /// with the connection.
    pub fn ask(&mut self, command: Command) -> Result<ResultOf> {
        self.ask_watching(command, |_| {})
    }

    /// As [`ask`](Self::ask), and tells how far the job is. (The first time, that it has a number.)
    pub fn ask_watching(&mut self, command: Command, progress: impl FnMut(&Progress)) -> Result<ResultOf> {
        let id = self.begin(command)?;
        self.end(id, progress, |_| {})
    }

    /// Watches a guest's device until it is disconnected: `event` is told what happens to it.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); nothing may happen for longer than the timeout of the connection.
    pub fn watch_ring(&mut self, minor: u16, domain: u16, device: u32, event: impl FnMut(&RingEvent)) -> Result<()> {
        let id = self.begin(Command::WatchRing { minor, domain, device })?;
        self.end(id, |_| {}, event).map(drop)
    }

    /// Waits for the end of a request.
    fn end(
        &mut self,
        id: u64,
        mut progress: impl FnMut(&Progress),
        mut event: impl FnMut(&RingEvent),
    ) -> Result<ResultOf> {
        loop {
            let Answer { id: answered, body } = self.next_answer()?;
            if answered.is_some_and(|answered| answered != id) {
                // Of a request that was begun before, and that nobody waits for here.
                continue;
            }
            match body {
                AnswerBody::Progress(made) => progress(&made),
                AnswerBody::Event(happened) => event(&happened),
                AnswerBody::Result(result) => return Ok(*result),
                AnswerBody::Error(Failure { errno, reason }) => {
                    return Err(Error::from_os(reason, io::Error::from_raw_os_error(errno)));
                }
            }
        }
    }

    /// Sends a command without waiting for anything; gives the number that its answers will carry.
    pub fn begin(&mut self, command: Command) -> Result<u64> {
        self.id += 1;
        let request = Request { id: self.id, command };
        let mut line = serde_json::to_vec(&request).expect("commands have text for keys and nothing that may fail");
        line.push(b'\n');
        self.connection.send(&line)?;
        Ok(self.id)
    }

    /// The next answer to anything that was begun here.
    pub fn next_answer(&mut self) -> Result<Answer> {
        self.line()
    }

    /// Every disk in a few words.
    pub fn list(&mut self) -> Result<Vec<DiskSummary>> {
        match self.ask(Command::List {})? {
            ResultOf::List(disks) => Ok(disks.disks),
            _ => Err(self.connection.not_understood("the answer to another command")),
        }
    }

    /// Everything that is counted, of one disk or of all.
    pub fn stats(&mut self, minor: Option<u16>) -> Result<Statistics> {
        match self.ask(Command::Stats { minor })? {
            ResultOf::Stats(statistics) => Ok(statistics),
            _ => Err(self.connection.not_understood("the answer to another command")),
        }
    }

    /// The next line, as what it should be.
    fn line<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        loop {
            let fed = self.reader.feed(self.connection.unread());
            let (length, line) = fed.map_err(|error| self.connection.not_understood(error))?;
            self.connection.take(length);
            if let Some(line) = line {
                return serde_json::from_slice(&line).map_err(|error| self.connection.not_understood(error));
            }
            self.connection.fill()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{errno, reason};
    use block_core::ErrorKind;
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
        thread,
    };

    /// Somebody on the socket of process 7 who says this to whoever connects, and ends.
    fn stranger(said: &'static str) -> (tempfile::TempDir, RunDir) {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        let listener = UnixListener::bind(run.native_socket(7)).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(said.as_bytes()).unwrap();
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        (directory, run)
    }

    const HELLO: &str = "{\"oxtap\":{\"version\":1,\"program\":\"x\",\"pid\":7}}\n";

    fn connect(said: &'static str) -> (tempfile::TempDir, Result<Client>) {
        let (directory, run) = stranger(said);
        (directory, Client::connect(&run, 7, Some(Duration::from_secs(60))))
    }

    #[test]
    fn a_newer_tapdisk_may_say_more() {
        let said = "{\"oxtap\":{\"version\":9,\"program\":\"x\",\"pid\":7,\"colour\":1},\"more\":[]}\n\
                    {\"id\":1,\"result\":{\"list\":{\"disks\":[],\"more\":{}}},\"more\":0}\n";
        let (_directory, client) = connect(said);
        let mut client = client.unwrap();
        assert_eq!(client.greeting().version, 9);
        assert_eq!(client.list().unwrap(), []);
    }

    #[test]
    fn progress_comes_before_the_result_and_strangers_answers_do_not_count() {
        let progress = "{\"id\":1,\"progress\":{\"job\":3,\"minor\":0,\"command\":\"close\",\"state\":\"running\",\
                        \"step\":\"\",\"age_ms\":0,\"in_flight\":1,\"waiting\":0}}\n";
        let end = "{\"id\":8,\"result\":{\"jobs\":{\"jobs\":[]}}}\n{\"id\":1,\"result\":{\"close\":{}}}\n";
        let (_directory, client) = connect([HELLO, progress, end].concat().leak());
        let mut jobs = Vec::new();
        let close = Command::Close { minor: 0, force: false, deadline_ms: None };
        let result = client.unwrap().ask_watching(close, |progress| jobs.push(progress.job)).unwrap();
        assert_eq!((jobs, result), (vec![3], ResultOf::Close(super::super::Done {})));
    }

    #[test]
    fn a_refusal_carries_number_and_words() {
        let error = "{\"id\":1,\"error\":{\"errno\":19,\"reason\":\"minor 4 is not attached here\"}}\n";
        let (_directory, client) = connect([HELLO, error].concat().leak());
        let error = client.unwrap().stats(Some(4)).unwrap_err();
        assert_eq!((errno(&error), reason(&error).as_str()), (19, "minor 4 is not attached here"));
    }

    #[test]
    fn nonsense_and_silence_are_errors() {
        let (_directory, client) = connect("SSH-2.0-x\n");
        assert_eq!(errno(&client.unwrap_err()), 71);
        let (_directory, client) = connect(HELLO);
        assert_eq!(errno(&client.unwrap().list().unwrap_err()), 71);
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        let _silent = UnixListener::bind(run.native_socket(7)).unwrap();
        let error = Client::connect(&run, 7, Some(Duration::from_millis(20))).unwrap_err();
        assert_eq!((errno(&error), error.kind()), (110, ErrorKind::TimedOut));
    }
}
