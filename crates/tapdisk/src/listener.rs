//! Listening on a Unix socket that is there as long as somebody listens.

use std::{
    fs, io,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::Duration,
};

use block_core::{Result, ResultExt};
use storage_io::Executor;

/// How long to wait when the system has no descriptor left for a connection.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, in the place of whatever a process that was killed has left there.
    pub(crate) fn bind(path: PathBuf) -> Result<Listener> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context(path.display()),
            _ => {}
        }
        let listener = UnixListener::bind(&path).context(path.display())?;
        let listener = Listener { listener, path };
        listener.listener.set_nonblocking(true).context(listener.path.display())?;
        Ok(listener)
    }

    /// The next connection, which does not block either.
    pub(crate) async fn accept(&self, executor: &Executor) -> Result<UnixStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true).context(self.path.display())?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    executor.readable(&self.listener).await.context(self.path.display())?;
                }
                Err(error) if is_about_the_connection(&error) => {}
                Err(_) => executor.sleep(NO_DESCRIPTOR_PAUSE).await,
            }
        }
    }
}

/// Whoever connected has gone again.
fn is_about_the_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
