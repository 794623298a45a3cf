//! Lines on stderr that nobody waits for: whoever reads them may have stopped, and guests are served all the same.
//!
//! ```text
//!   note --> at most so many lines --> a thread, at most a thousand a second --> stderr
//!               full: left out, counted, and told when half of them have gone
//! ```

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use block_core::Result;
use tapback::{DeviceName, Log};

/// Lines that may wait.
const LINES_MAX: usize = 256;
/// Characters of a line; what is longer is cut.
const LINE_CHARACTERS_MAX: usize = 1000;
/// After each line: so a guest that has things happen all the time fills no disk in a moment.
const PAUSE: Duration = Duration::from_millis(1);
/// How long lines that still wait at the end may take.
const END_MAX: Duration = Duration::from_secs(2);

/// Where lines are given. Dropping it waits for what was given, but not for ever.
#[derive(Debug)]
pub(super) struct Lines {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<String>,
    /// Left out since it was told last.
    untold: u64,
    has_ended: bool,
    /// The thread has written everything, or there is nobody to write for any more.
    is_done: bool,
}

impl Waiting {
    fn put(&mut self, line: &str) {
        let is_full = self.lines.len() >= LINES_MAX || (self.untold > 0 && self.lines.len() > LINES_MAX / 2);
        if is_full {
            self.untold += 1;
            return;
        }
        self.tell_left_out();
        self.lines.push_back(line.chars().take(LINE_CHARACTERS_MAX).collect());
    }

    fn tell_left_out(&mut self) {
        if self.untold > 0 {
            let notice = format!("{} lines were left out here: they came faster than they were read", self.untold);
            self.untold = 0;
            self.lines.push_back(notice);
        }
    }

    fn take(&mut self) -> Option<String> {
        if self.lines.is_empty() {
            self.tell_left_out();
        }
        self.lines.pop_front()
    }
}

impl Queue {
    /// Nobody panics with it in hand, and a line more or less would be no harm.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next line; none at the end.
    fn next(&self) -> Option<String> {
        let mut waiting = self.lock();
        loop {
            match waiting.take() {
                Some(line) => return Some(line),
                None if waiting.has_ended => return None,
                None => waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn write_all(&self, mut out: impl Write) {
        while let Some(mut line) = self.next() {
            line.push('\n');
            if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
                break;
            }
            thread::sleep(PAUSE);
        }
        self.lock().is_done = true;
        self.changed.notify_all();
    }
}

impl Lines {
    /// Lines for stderr.
    pub(super) fn to_stderr() -> Result<Lines> {
        Lines::to(io::stderr())
    }

    fn to(out: impl Write + Send + 'static) -> Result<Lines> {
        let queue = Arc::<Queue>::default();
        let writing = queue.clone();
        thread::Builder::new().name("log".into()).spawn(move || writing.write_all(out))?;
        Ok(Lines { queue })
    }

    /// Takes a line; never waits.
    pub(super) fn put(&self, line: &str) {
        let mut waiting = self.queue.lock();
        if !waiting.is_done {
            waiting.put(line);
            drop(waiting);
            self.queue.changed.notify_all();
        }
    }
}

impl Log for Lines {
    fn note(&self, device: &DeviceName, words: &str) {
        self.put(&format!("{device}: {words}"));
    }

    fn note_all(&self, kind: &str, words: &str) {
        self.put(&format!("{kind}: {words}"));
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.has_ended = true;
        self.queue.changed.notify_all();
        let done = self.queue.changed.wait_timeout_while(waiting, END_MAX, |waiting| !waiting.is_done);
        drop(done);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Somebody who reads only what he is told to.
    struct Reader {
        lines: Sender<String>,
        may_read: Receiver<()>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.may_read.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.lines.send(String::from_utf8(bytes.to_vec()).unwrap()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines() -> (Lines, Sender<()>, Receiver<String>) {
        let ((lines, read), (go, may_read)) = (channel(), channel());
        (Lines::to(Reader { lines, may_read }).unwrap(), go, read)
    }

    #[test]
    fn what_is_left_out_is_counted_and_told_in_its_place() {
        let (lines, go, read) = lines();
        let count = 3 * LINES_MAX;
        (0..count).for_each(|number| lines.put(&number.to_string()));
        (0..count).for_each(|_| go.send(()).unwrap());
        let mut told: Vec<String> = read.iter().take(LINES_MAX).collect();
        lines.put("afterwards");
        while told.last().unwrap() != "afterwards\n" {
            told.push(read.recv().unwrap());
        }
        let (arrived, last) = told.split_at(told.len() - 2);
        let expected: Vec<String> = (0..arrived.len()).map(|number| format!("{number}\n")).collect();
        assert_eq!(arrived, expected, "in the order in which they came");
        let left_out = count - arrived.len();
        assert!(last[0].starts_with(&format!("{left_out} lines were left out here")), "{last:?}");
    }

    #[test]
    fn long_lines_are_cut_and_a_reader_who_goes_is_not_waited_for() {
        let (lines, go, read) = lines();
        lines.put(&"\u{e4}".repeat(2 * LINE_CHARACTERS_MAX));
        go.send(()).unwrap();
        assert_eq!(read.recv().unwrap().chars().count(), LINE_CHARACTERS_MAX + 1);
        drop((go, read));
        (0..10 * LINES_MAX).for_each(|number| lines.put(&number.to_string()));
        drop(lines);
    }

    #[test]
    fn lines_that_were_given_arrive_before_the_end() {
        let (lines, go, read) = lines();
        for number in 0..20 {
            lines.put(&number.to_string());
            go.send(()).unwrap();
        }
        drop(lines);
        assert_eq!(read.try_iter().count(), 20);
    }
}
