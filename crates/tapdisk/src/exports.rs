//! The sockets through which an open disk is reached, from open to close, also while it is paused.
//!
//! | socket | serves |
//! | --- | --- |
//! | `nbd<pid>.<minor>`, `nbd-old<pid>.<minor>` | whoever connects, newstyle |
//! | `nbdserver-new<pid>.<minor>` | connections that are handed over, newstyle |
//! | `nbdserver<pid>.<minor>` | connections that are handed over, oldstyle |

use std::{cell::RefCell, path::PathBuf, rc::Rc};

use block_core::Result;
use control_api::RunDir;
use export::nbd::{Limits, Server, Style, Work};
use storage_io::Task;
use virtual_disk::Disk;

use crate::{listener::Listener, log::Log, queues::QueueThreads, receiver::receive};

/// The ways to one disk. Dropping it ends all connections and removes all sockets.
pub(crate) struct Exports {
    server: Rc<Server>,
    /// They hold the server: they go first.
    receivers: RefCell<Vec<Task<()>>>,
}

impl Exports {
    /// Makes all sockets of an open disk, or none.
    pub(crate) fn start(disk: &Disk, run: &RunDir, pid: u32, threads: QueueThreads) -> Result<Exports> {
        let (minor, log) = (threads.minor, &threads.log.clone());
        let limits = Limits { queues: threads.count, ..Limits::default() };
        let server = Rc::new(Server::on_threads(disk, limits, move |worker| threads.start(worker)));
        let exports = Exports { server, receivers: RefCell::default() };
        exports.server.listen_unix(&run.nbd_socket(pid, minor))?;
        exports.server.listen_unix(&run.nbd_old_socket(pid, minor))?;
        exports.adopt(disk, run.nbd_server_socket(pid, minor), Style::Old, log)?;
        exports.adopt(disk, run.nbd_server_new_socket(pid, minor), Style::New, log)?;
        Ok(exports)
    }

    fn adopt(&self, disk: &Disk, path: PathBuf, style: Style, log: &Log) -> Result<()> {
        let (server, log, name) = (Rc::downgrade(&self.server), log.clone(), path.display().to_string());
        let receiver = receive(disk.executor(), Listener::bind(path)?, move |words, connection| {
            log.info(format!("{name}: took over a connection: {words:?}"));
            if let Some(server) = server.upgrade() {
                server.adopt(connection, style);
            }
        });
        self.receivers.borrow_mut().push(receiver);
        Ok(())
    }

    /// Has the queue with the least to do serve something else.
    pub(crate) fn serve_on_queue(&self, work: Work) {
        self.server.serve_on_queue(work);
    }

    /// Takes nobody in any more; those who are connected stay.
    pub(crate) fn stop_listening(&self) {
        self.receivers.take();
        self.server.stop_listening();
    }

    /// Ends all connections when their last requests have been answered, in bounded time.
    pub(crate) async fn close(&self) {
        self.stop_listening();
        self.server.close().await;
    }
}
