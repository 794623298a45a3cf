//! A log daemon: it listens where programs look for one, and reads as badly as the test wants.

use std::{
    fs, io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How soon a reader that shall stop notices.
const STOP_MAX: Duration = Duration::from_millis(50);

/// A log daemon that reads only when it is told to: until then its socket fills.
///
/// It stops listening when it goes out of scope, and leaves its socket behind, as a daemon does that was killed.
#[derive(Debug)]
pub struct LogReceiver {
    path: PathBuf,
    socket: UnixDatagram,
}

impl LogReceiver {
    /// Listens at `path`, also if another one did before.
    ///
    /// # Panics
    ///
    /// If that is not possible.
    pub fn new(path: &Path) -> LogReceiver {
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path).expect("cannot listen as a log daemon");
        socket.set_read_timeout(Some(STOP_MAX)).expect("a time longer than none");
        LogReceiver { path: path.into(), socket }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the next line, if there is any or one comes soon.
    pub fn next_line(&self) -> Option<String> {
        let mut bytes = vec![0; 16 << 10];
        loop {
            match self.socket.recv(&mut bytes) {
                Ok(length) => return Some(String::from_utf8_lossy(&bytes[..length]).into_owned()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads everything that is there, and what comes soon after.
    pub fn read_all(&self) -> Vec<String> {
        std::iter::from_fn(|| self.next_line()).collect()
    }

    /// Reads from now on, until it is told to stop.
    pub fn read(self) -> ReadingLogReceiver {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        let reader = thread::spawn(move || {
            let mut lines = Vec::new();
            loop {
                // First the question, then the look: what was there when it was told to stop is read.
                let is_last = told.load(Relaxed);
                match self.next_line() {
                    Some(line) => lines.push(line),
                    None if is_last => return (self, lines),
                    None => {}
                }
            }
        });
        ReadingLogReceiver { is_over, reader }
    }
}

/// A log daemon that reads.
#[derive(Debug)]
pub struct ReadingLogReceiver {
    is_over: Arc<AtomicBool>,
    reader: JoinHandle<(LogReceiver, Vec<String>)>,
}

impl ReadingLogReceiver {
    /// Stops reading when nothing comes any more; gives the daemon, which still listens, and what it has read.
    ///
    /// # Panics
    ///
    /// If its thread did.
    pub fn stop(self) -> (LogReceiver, Vec<String>) {
        self.is_over.store(true, Relaxed);
        self.reader.join().expect("a reader that only reads")
    }
}
