//! The thread that writes the file. A file may hang; then lines wait here, as many as there is room for, and nobody waits
//! but this thread.
//!
//! ```text
//!   log thread --> at most 8 MiB of lines --> file thread --> file
//!                      | full
//!                      '--> lost, counted, told when lines get through again
//! ```

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread,
    time::SystemTime,
};

use super::{Counters, file::LogFile};

/// What may wait for the thread.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// What anything that waits takes besides its text.
const JOB_BYTES: usize = 64;

/// What the thread is given.
#[derive(Debug)]
enum Job {
    Line {
        time: SystemTime,
        text: String,
    },
    /// One of the lines that may come in any number.
    LineAboutRequest {
        time: SystemTime,
        text: String,
    },
    /// A line that says how many there were so far.
    Count(SystemTime),
    /// The file is to be opened anew. Cleared when that begins: from then on it may be asked for again.
    Reopen(Arc<AtomicBool>),
    /// The last one; the answer goes back when it is done.
    End {
        is_kept: bool,
        done: SyncSender<()>,
    },
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Line { text, .. } | Job::LineAboutRequest { text, .. } => JOB_BYTES + text.len(),
            Job::Count(_) | Job::Reopen(_) | Job::End { .. } => JOB_BYTES,
        }
    }
}

/// A way to the thread. It never waits.
#[derive(Debug)]
pub(super) struct FileThread {
    jobs: Sender<Job>,
    counters: Arc<Counters>,
}

impl FileThread {
    pub(super) fn start(file: LogFile, counters: Arc<Counters>) -> io::Result<FileThread> {
        let (jobs, received) = mpsc::channel();
        let theirs = counters.clone();
        thread::Builder::new().name("log file".into()).spawn(move || run(file, &theirs, &received))?;
        Ok(FileThread { jobs, counters })
    }

    /// Takes one line.
    pub(super) fn write(&self, time: SystemTime, text: impl Into<String>) {
        self.push_line(Job::Line { time, text: text.into() });
    }

    /// Takes one of the lines that may come in any number.
    pub(super) fn write_about_request(&self, time: SystemTime, text: String) {
        self.push_line(Job::LineAboutRequest { time, text });
    }

    /// Says in a line how many there were so far.
    pub(super) fn count(&self, time: SystemTime) {
        self.push_line(Job::Count(time));
    }

    /// Opens the file anew.
    pub(super) fn reopen(&self, is_reopening: Arc<AtomicBool>) {
        self.push(Job::Reopen(is_reopening));
    }

    /// Writes what is left, and removes the file if it is not to be kept.
    pub(super) fn end(self, is_kept: bool, done: SyncSender<()>) {
        self.push(Job::End { is_kept, done });
    }

    /// Lines have bounded room, all else comes seldom.
    fn push_line(&self, job: Job) {
        if self.counters.file_waiting.load(Relaxed) + job.bytes() > WAITING_BYTES_MAX {
            self.counters.unwritten.fetch_add(1, Relaxed);
            self.counters.refused.fetch_add(1, Relaxed);
            return;
        }
        self.push(job);
    }

    fn push(&self, job: Job) {
        self.counters.file_waiting.fetch_add(job.bytes(), Relaxed);
        // The thread ends with the last job only.
        let _ = self.jobs.send(job);
    }
}

fn run(mut file: LogFile, counters: &Counters, jobs: &Receiver<Job>) {
    loop {
        let next = jobs.try_recv().or_else(|_| {
            file.flush();
            jobs.recv()
        });
        let Ok(job) = next else { return };
        counters.file_waiting.fetch_sub(job.bytes(), Relaxed);
        file.is_missing(counters.refused.swap(0, Relaxed));
        match job {
            Job::Line { time, text } => file.write(time, &text),
            Job::LineAboutRequest { time, text } => file.write_about_request(time, &text),
            Job::Count(time) => {
                file.flush();
                file.write(time, &format!("log: {} lines, {} lost", counters.written(), counters.lost()));
            }
            Job::Reopen(is_reopening) => {
                is_reopening.store(false, Relaxed);
                file.reopen();
            }
            Job::End { is_kept, done } => {
                file.flush();
                if !is_kept {
                    file.remove();
                }
                let _ = done.try_send(());
                return;
            }
        }
    }
}
