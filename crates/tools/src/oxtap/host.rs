//! Every tapdisk of this host, asked at the same time: one that hangs takes nothing from the others.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use block_core::{ErrorKind, Result, ResultExt};
use control_api::{
    RunDir,
    native::{Client, DiskStatistics, Statistics},
};
use rustix::io::Errno;

use super::older;

/// A tapdisk answers from what its disks publish, whatever they are doing; one that takes this long is stuck or stopped.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Those who ask need little: a message and its answer on the heap.
const STACK_BYTES: usize = 256 << 10;

/// A tapdisk and what it has told.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Whether it speaks the native protocol. From others less is known.
    pub(super) is_native: bool,
    /// None if it does not answer.
    pub(super) statistics: Option<Statistics>,
}

impl Process {
    /// Whether it is there and does not answer.
    pub(super) fn is_silent(&self) -> bool {
        self.statistics.is_none()
    }

    /// Its disks, as far as they are known.
    pub(super) fn disks(&self) -> &[DiskStatistics] {
        self.statistics.as_ref().map(|statistics| &statistics.disks[..]).unwrap_or_default()
    }
}

/// Every tapdisk and its disks, by process id. Those that do not answer are there, too, without disks.
pub(super) fn processes(run: &RunDir) -> Result<Vec<Process>> {
    processes_within(run, ANSWER_MAX)
}

/// The same, with another patience for those who do not answer.
pub(super) fn processes_within(run: &RunDir, patience: Duration) -> Result<Vec<Process>> {
    let pids = run.tapdisks().context(run.path().display())?;
    let of = run.clone();
    let answers = ask_all(&pids, patience, move |pid| process(&of, pid, patience));
    let silent = |pid| Process { pid, is_native: run.native_socket(pid).exists(), statistics: None };
    let processes = answers.into_iter().map(|(pid, answer)| answer.unwrap_or_else(|| Some(silent(pid))));
    Ok(processes.flatten().collect())
}

/// What one tapdisk tells. A socket that nobody listens on any more is none.
fn process(run: &RunDir, pid: u32, patience: Duration) -> Option<Process> {
    match ask(run, pid, patience) {
        Ok(statistics) => Some(Process { pid, is_native: true, statistics: Some(statistics) }),
        Err(error) if is_nobody(&error) => older::process(run, pid, patience),
        Err(_) => Some(Process { pid, is_native: true, statistics: None }),
    }
}

fn ask(run: &RunDir, pid: u32, patience: Duration) -> Result<Statistics> {
    Client::connect(run, pid, Some(patience))?.stats(None)
}

/// An answer to another question.
pub(super) fn unexpected(command: &str) -> block_core::Error {
    block_core::Error::from_os(format!("{command}: unexpected answer"), Errno::PROTO.into())
}

/// Whether there was nobody to ask.
pub(super) fn is_nobody(error: &block_core::Error) -> bool {
    error.kind() == ErrorKind::NotFound || control_api::errno(error) == Errno::CONNREFUSED.raw_os_error()
}

/// Asks each of `pids` on a thread of its own, and waits for all of them together no longer than `patience`.
///
/// The answers come in the order of `pids`; there is none from those who did not answer in time. Their threads end when
/// their own timeouts do, so `ask` must have one.
pub(super) fn ask_all<T: Send + 'static>(
    pids: &[u32],
    patience: Duration,
    ask: impl Fn(u32) -> T + Send + Sync + 'static,
) -> Vec<(u32, Option<T>)> {
    let deadline = Instant::now() + patience;
    let mut answers: Vec<(u32, Option<T>)> = pids.iter().map(|&pid| (pid, None)).collect();
    let ask = Arc::new(ask);
    let (sender, receiver) = channel();
    for (index, &pid) in pids.iter().enumerate() {
        let (sender, ask) = (sender.clone(), Arc::clone(&ask));
        let asked = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            // Nobody may be listening any more.
            let _ = sender.send((index, ask(pid)));
        });
        // No room for a thread: this one counts as silent, and what could be asked is still told.
        drop(asked);
    }
    drop(sender);
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((index, answer)) => answers[index].1 = Some(answer),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return answers,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use control_api::native::ProcessStatistics;
    use std::{fs, io::Write, os::unix::net::UnixListener};

    /// A tapdisk with running disks of these minors and images.
    pub(in super::super) fn process(pid: u32, disks: &[(u16, &str)]) -> Process {
        let disks = disks.iter().map(|(minor, image)| older::disk(*minor, Some((*image).to_owned()))).collect();
        let process = ProcessStatistics { pid, ..ProcessStatistics::default() };
        Process { pid, is_native: true, statistics: Some(Statistics { process, disks }) }
    }

    #[test]
    fn one_that_hangs_takes_nothing_from_the_others() {
        let (release, hang) = channel::<()>();
        let hang = std::sync::Mutex::new(hang);
        let ask = move |pid| {
            if pid == 2 {
                let _ = hang.lock().unwrap().recv();
            }
            pid * 10
        };
        let answers = ask_all(&[1, 2, 3], Duration::from_millis(200), ask);
        assert_eq!(answers, [(1, Some(10)), (2, None), (3, Some(30))]);
        drop(release);
    }

    #[test]
    fn one_who_dribbles_is_as_silent_as_one_who_sleeps() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        fs::write(run.control_socket(7), "").unwrap();
        let listener = UnixListener::bind(run.native_socket(7)).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Always something, and never a line.
            while stream.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        });
        let processes = processes_within(&run, Duration::from_millis(200)).unwrap();
        assert!(processes.len() == 1 && processes[0].is_silent(), "{processes:?}");
    }

    #[test]
    fn who_has_gone_and_left_his_sockets_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        drop(UnixListener::bind(run.control_socket(7)).unwrap());
        drop(UnixListener::bind(run.native_socket(7)).unwrap());
        assert!(processes(&run).unwrap().is_empty());
    }

    #[test]
    fn nobody_waits_when_all_have_answered() {
        let answers = ask_all(&[1, 2], Duration::from_secs(3600), |pid| pid);
        assert_eq!(answers, [(1, Some(1)), (2, Some(2))]);
        assert_eq!(ask_all(&[], Duration::from_secs(3600), |pid| pid), []);
    }
}
