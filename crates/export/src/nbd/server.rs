//! A server: listening sockets, and the connections that came through them or were handed over.

use std::{
    cell::RefCell,
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
use storage_io::Task;
use virtual_disk::Disk;

use super::{
    Limits, Style, Work, Worker,
    device::{Origin, Terms},
    roster::{Roster, StartThread},
    socket::listen_tcp,
};

/// How long to wait when the process or the machine has run out of what a connection needs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long clients may take to fetch their last replies when the server is closed, and threads to end then.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// Serves one disk over NBD. It listens on the disk's home executor; connections are served by the disk's queues.
/// Dropping it ends all connections and removes its sockets.
pub struct Server {
    roster: Rc<Roster>,
    connections_max: usize,
    listeners: RefCell<Vec<Listener>>,
}

/// A listening socket and the task that accepts from it.
struct Listener {
    /// A socket in the file system: its path, device and inode.
    file: Option<(PathBuf, u64, u64)>,
    _task: Task<()>,
}

impl Server {
    /// A server for `disk` that nobody can reach yet. Clients are served when the disk has been opened, all on home's
    /// queue.
    pub fn new(disk: &Disk, limits: Limits) -> Server {
        Server::build(disk, limits, None)
    }

    /// As [`new`](Self::new), but connections are spread over as many queues as `limits` say. When one more is wanted,
    /// `start_thread` starts a thread that runs the worker; if it fails, others serve the connection.
    ///
    /// ```no_run
    /// # use block_core::ResultExt;
    /// # use export::nbd::{Limits, Server, Worker};
    /// # use storage_io::{BufferPool, EngineChoice};
    /// # fn server(disk: &virtual_disk::Disk) -> Server {
    /// let start = |worker: Worker| {
    ///     let run = move || worker.run(EngineChoice::Probe, BufferPool::new(4 << 20));
    ///     std::thread::Builder::new().name("queue".into()).spawn(run).map(drop).context("queue")
    /// };
    /// Server::on_threads(disk, Limits { queues: 4, ..Limits::default() }, start)
    /// # }
    /// ```
    pub fn on_threads(disk: &Disk, limits: Limits, start_thread: impl Fn(Worker) -> Result<()> + 'static) -> Server {
        Server::build(disk, limits, Some(Box::new(start_thread)))
    }

    fn build(disk: &Disk, limits: Limits, start_thread: Option<StartThread>) -> Server {
        Server {
            roster: Roster::new(disk, Terms::new(limits), start_thread),
            connections_max: limits.connections,
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
        self.roster.begin(descriptor, Origin::HandedOver(style));
    }

    /// Has a queue of the disk do something else, the one with the least to do: the queues of a disk serve whoever comes,
    /// by whichever export. What is not begun or not ended when the server closes, or when the queue's thread dies, is
    /// dropped.
    pub fn serve_on_queue(&self, work: Work) {
        self.roster.begin_work(work);
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.roster.count()
    }

    /// How much each queue serves, home's first: clients, and other work.
    pub fn spread(&self) -> Vec<usize> {
        self.roster.spread()
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
    /// then they see the end. Those that do not fetch their replies are cut off after a while. Then the queues' threads
    /// end.
    pub async fn close(&self) {
        self.stop_listening();
        self.roster.end_input();
        self.in_time(self.roster.fewer_than(1)).await;
        self.roster.dismiss_all();
        self.in_time(self.roster.alone()).await;
    }

    async fn in_time(&self, end: impl Future<Output = ()>) {
        select(pin!(end), pin!(self.roster.executor().sleep(CLOSE_GRACE))).await;
    }

    fn listen(&self, listener: OwnedFd, file: Option<(PathBuf, u64, u64)>) {
        let accepting = accept(self.roster.clone(), self.connections_max, listener);
        let task = self.roster.executor().spawn(accepting);
        self.listeners.borrow_mut().push(Listener { file, _task: task });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_listening();
        self.roster.clear();
    }
}

async fn accept(roster: Rc<Roster>, connections_max: usize, listener: OwnedFd) {
    loop {
        roster.fewer_than(connections_max).await;
        match accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(descriptor) => roster.begin(descriptor, Origin::Accepted),
            Err(Errno::AGAIN) => {
                if roster.executor().readable(&listener).await.is_err() {
                    roster.executor().sleep(ACCEPT_PAUSE).await;
                }
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) => roster.executor().sleep(ACCEPT_PAUSE).await,
        }
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
