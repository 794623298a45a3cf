//! A server: listening sockets, and the connections that came through them or were handed over.

use std::{
    cell::{Cell, RefCell},
    fs,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use futures_util::future::select;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, socket_with},
};
use storage_io::{Executor, Signal, Task};
use virtual_disk::Disk;

use super::{
    Limits, Style,
    device::{self, Origin},
    socket::{Socket, listen_tcp},
};

/// How long to wait when the process or the machine has run out of what a connection needs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long clients may take to fetch their last replies when the server is closed.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// Serves one disk over NBD, on the disk's own executor. Dropping it ends all connections and removes its sockets.
pub struct Server {
    shared: Rc<Shared>,
    listeners: RefCell<Vec<Listener>>,
}

struct Shared {
    disk: Disk,
    limits: Limits,
    connections: RefCell<Vec<Connection>>,
    /// Tells connections apart.
    next: Cell<u64>,
    /// The number of connections has changed.
    changed: Signal,
}

struct Connection {
    number: u64,
    socket: Socket,
    _task: Task<()>,
}

/// A listening socket and the task that accepts from it.
struct Listener {
    /// A socket in the file system: its path, device and inode.
    file: Option<(PathBuf, u64, u64)>,
    _task: Task<()>,
}

impl Server {
    /// A server for `disk` that nobody can reach yet. Clients are served when the disk has been opened.
    pub fn new(disk: &Disk, limits: Limits) -> Server {
        Server {
            shared: Rc::new(Shared {
                disk: disk.clone(),
                limits,
                connections: RefCell::default(),
                next: Cell::new(0),
                changed: Signal::new(),
            }),
            listeners: RefCell::default(),
        }
    }

    /// Listens on a Unix socket. What a server that is gone has left at `path` is replaced.
    ///
    /// # Errors
    /// `Busy` if somebody listens there, or what the operating system says.
    pub fn listen_unix(&self, path: &Path) -> Result<()> {
        let listener = bind_unix(path).context(path.display())?;
        let metadata = fs::symlink_metadata(path).context(path.display())?;
        let file = Some((path.to_path_buf(), metadata.dev(), metadata.ino()));
        self.listen(listener.into(), file);
        Ok(())
    }

    /// Listens on a TCP address; says on which, for port 0.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn listen_tcp(&self, address: SocketAddr) -> Result<SocketAddr> {
        let (listener, address) = listen_tcp(address).context(address)?;
        self.listen(listener, None);
        Ok(address)
    }

    /// Serves a connected socket that another process has handed over.
    pub fn adopt(&self, descriptor: OwnedFd, style: Style) {
        self.shared.begin(descriptor, Origin::HandedOver(style));
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.shared.connections.borrow().len()
    }

    /// Accepts nobody any more, and removes the sockets; connections stay.
    pub fn stop_listening(&self) {
        for listener in self.listeners.take() {
            if let Some((path, device, inode)) = &listener.file {
                remove_socket(path, *device, *inode);
            }
        }
    }

    /// Ends the server: what clients have sent is still answered (close the disk before, and it is answered with an error),
    /// then they see the end. Those that do not fetch their replies are cut off after a while.
    pub async fn close(&self) {
        self.stop_listening();
        self.shared.connections.borrow().iter().for_each(|connection| connection.socket.end_input());
        let ended = self.shared.changed.until(|| self.connections() == 0);
        select(pin!(ended), pin!(self.shared.disk.executor().sleep(CLOSE_GRACE))).await;
    }

    fn listen(&self, listener: OwnedFd, file: Option<(PathBuf, u64, u64)>) {
        let shared = self.shared.clone();
        let task = self.shared.disk.executor().spawn(async move { shared.accept(listener).await });
        self.listeners.borrow_mut().push(Listener { file, _task: task });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_listening();
        // Tasks hold `shared`; ending them breaks the circle. What a task's end drops may look at the table.
        let connections = self.shared.connections.take();
        drop(connections);
    }
}

impl Shared {
    fn executor(&self) -> &Executor {
        self.disk.executor()
    }

    async fn accept(self: Rc<Self>, listener: OwnedFd) {
        loop {
            self.changed.until(|| self.connections.borrow().len() < self.limits.connections).await;
            match accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(descriptor) => self.begin(descriptor, Origin::Accepted),
                Err(Errno::AGAIN) => {
                    if self.executor().readable(&listener).await.is_err() {
                        self.executor().sleep(ACCEPT_PAUSE).await;
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => self.executor().sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn begin(self: &Rc<Self>, descriptor: OwnedFd, origin: Origin) {
        let socket = Socket::new(self.executor(), descriptor);
        let number = self.next.get();
        self.next.set(number + 1);
        let (shared, line) = (self.clone(), socket.clone());
        let task = self.executor().spawn(async move {
            device::serve(&shared.disk.queue(), shared.limits, line, origin).await;
            shared.end(number);
        });
        self.connections.borrow_mut().push(Connection { number, socket, _task: task });
    }

    /// Forgets a connection, from inside its own task.
    fn end(&self, number: u64) {
        let mut connections = self.connections.borrow_mut();
        let ended = connections.iter().position(|connection| connection.number == number);
        let ended = ended.map(|index| connections.swap_remove(index));
        drop(connections);
        drop(ended);
        self.changed.notify();
    }
}

fn bind_unix(path: &Path) -> Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && is_deserted(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            return Err(Error::new(ErrorKind::Busy, "somebody listens there, or it is no socket"));
        }
        other => other?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether nobody listens on a socket that is there. Asked without waiting: a server that is behind with accepting is alive.
fn is_deserted(path: &Path) -> bool {
    let refused = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
        connect(&client, &SocketAddrUnix::new(path).ok()?).err()
    };
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket && refused() == Some(Errno::CONNREFUSED)
}

/// Removes a socket, unless it is somebody else's by now.
fn remove_socket(path: &Path, device: u64, inode: u64) {
    let is_ours = fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (device, inode));
    if is_ours {
        // Gone already is as good.
        let _ = fs::remove_file(path);
    }
}
