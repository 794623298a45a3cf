//! The socket that disks connect to. Its file is there as long as somebody listens.

use std::{
    fs, io,
    os::unix::{
        fs::FileTypeExt,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
};

use block_core::{Result, ResultExt};
use control_api::make_directory;
use rustix::{fs::Mode, process::umask};

/// What nobody but the owner may do: whoever may connect can use up what others share.
const OTHERS: Mode = Mode::RWXG.union(Mode::RWXO);

/// A listening socket; its file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    is_ours: bool,
}

impl Socket {
    /// Listens there, in the place of what one that was killed has left.
    ///
    /// # Errors
    /// Somebody listens there already, or something else is there.
    pub(super) fn bind(path: PathBuf) -> Result<Socket> {
        // It may be removed from another directory.
        let path = std::path::absolute(&path).context(path.display())?;
        if let Some(directory) = path.parent() {
            make_directory(directory, 0o755).context(directory.display())?;
        }
        // A file that is no socket refuses connections, too.
        let is_socket = fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_socket());
        let refuses =
            || matches!(UnixStream::connect(&path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
        if is_socket && refuses() {
            let _ = fs::remove_file(&path);
        }
        let mask = umask(OTHERS);
        let bound = UnixListener::bind(&path).context(path.display());
        umask(mask);
        let socket = Socket { listener: bound?, path, is_ours: true };
        socket.listener.set_nonblocking(true).context(socket.path.display())?;
        Ok(socket)
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    pub(super) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Leaves the socket to another process that has it, too.
    pub(super) fn leave(mut self) {
        self.is_ours = false;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_the_place_of_the_dead_only() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("rate").join("gold");
        let first = Socket::bind(path.clone()).unwrap();
        assert_eq!(Socket::bind(path.clone()).unwrap_err().os_error(), Some(98));
        first.leave();
        assert!(path.exists(), "nobody listens there any more");
        let second = Socket::bind(path.clone()).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(Socket::bind(path.clone()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
