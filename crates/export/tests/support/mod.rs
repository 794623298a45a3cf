//! What the tests of the NBD server share: a disk in memory, served by a thread of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    future::Future,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    pin::Pin,
    rc::Rc,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use block_core::{Result, ResultExt};
use export::nbd::{Limits, Server, Worker, client::Client};
use image_chain::ChainSpec;
use storage_io::{
    Access, BufferPool, EngineChoice, Executor, Files, LockPolicy, MemoryFiles, MemoryStorage, Opener, Sender, Storage,
    mailbox,
};
use tempfile::TempDir;
use virtual_disk::{Disk, Settings};
use wire::nbd::{
    Command, CommandFlags, ReplyHeader, RequestHeader, SIMPLE_REPLY_BYTES, put_client_flags, put_export_name,
};

/// Longer than anything here takes: a test that waits so long hangs.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// What runs in the server's thread.
pub(crate) struct World {
    pub(crate) disk: Disk,
    pub(crate) server: Rc<Server>,
    /// Where a disk in memory lies.
    pub(crate) files: MemoryFiles,
}

type Job = Box<dyn FnOnce(Rc<World>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A disk, open, served on a Unix socket by a thread that ends with this value.
pub(crate) struct Served {
    directory: TempDir,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the threads of further queues.
pub(crate) type Starter = Box<dyn Fn(Worker) -> Result<()> + Send>;

pub(crate) struct Options {
    pub(crate) bytes: usize,
    pub(crate) access: Access,
    pub(crate) limits: Limits,
    pub(crate) starter: Starter,
}

/// Each queue on a thread, as many as the limits say.
pub(crate) fn threads() -> Starter {
    Box::new(|worker| {
        let run = move || worker.run(EngineChoice::Probe, BufferPool::new(16 << 20)).unwrap();
        std::thread::Builder::new().spawn(run).map(drop).context("queue")
    })
}

impl Default for Options {
    fn default() -> Self {
        Options { bytes: 4 << 20, access: Access::Write, limits: Limits::default(), starter: threads() }
    }
}

pub(crate) fn spec(path: &str, access: Access) -> ChainSpec {
    let leaf = format!("aio:{path}").parse().unwrap();
    ChainSpec { direct: false, lock: LockPolicy::None, ..ChainSpec::new(leaf, access) }
}

impl Served {
    pub(crate) fn new() -> Served {
        Served::with(Options::default())
    }

    /// A disk in memory.
    pub(crate) fn with(options: Options) -> Served {
        Served::of_storage(Arc::new(MemoryStorage::new(options.bytes)), options)
    }

    /// A disk whose bytes are in `storage`.
    pub(crate) fn of_storage(storage: Arc<dyn Storage>, options: Options) -> Served {
        Served::start(options.limits, options.starter, EngineChoice::Probe, spec("/a", options.access), move || {
            let files = MemoryFiles::new();
            files.put("/a", storage);
            (Rc::new(files.clone()), files)
        })
    }

    /// A disk in files.
    pub(crate) fn of_files(engine: EngineChoice, spec: ChainSpec) -> Served {
        Served::start(Limits::default(), threads(), engine, spec, || (Rc::new(Files), MemoryFiles::new()))
    }

    fn start(
        limits: Limits,
        starter: Starter,
        engine: EngineChoice,
        spec: ChainSpec,
        files: impl FnOnce() -> (Rc<dyn Opener>, MemoryFiles) + Send + 'static,
    ) -> Served {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("nbd");
        let (jobs, mut inbox) = mailbox::<Job>();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let executor = Executor::new(engine).unwrap();
            let (opener, files) = files();
            let disk = Disk::new(&executor, opener, BufferPool::new(16 << 20), Arc::new(()));
            executor.block_on(disk.open(spec, Settings::default())).unwrap();
            let server = Rc::new(Server::on_threads(&disk, limits, starter));
            server.listen_unix(&socket).unwrap();
            let world = Rc::new(World { disk, server, files });
            ready.send(()).unwrap();
            executor.block_on(async {
                while let Some(job) = inbox.recv().await {
                    job(world.clone()).await;
                }
            });
            drop(world);
            executor.end_tasks();
        });
        is_ready.recv().expect("the disk is opened and served");
        Served { directory, jobs: Some(jobs), thread: Some(thread) }
    }

    /// Ends the service in order: the images are closed.
    pub(crate) fn close(self) {
        self.run(|world| async move { world.disk.close().await }).unwrap();
        self.run(|world| async move { world.server.close().await });
    }

    /// Runs something in the server's thread.
    pub(crate) fn run<T, F>(&self, job: impl FnOnce(Rc<World>) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move |world| {
            let future = job(world);
            Box::pin(async move { answer.send(future.await).unwrap() })
        });
        assert!(self.jobs.as_ref().unwrap().send(job).is_ok(), "the server's thread has ended");
        answered.recv_timeout(HANG).expect("the server answers")
    }

    pub(crate) fn pause(&self) {
        self.run(|world| async move { world.disk.pause(None).await }).unwrap();
    }

    pub(crate) fn resume(&self) {
        self.run(|world| async move { world.disk.resume(None).await }).unwrap();
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.run(|world| async move { world.disk.status().in_flight() })
    }

    pub(crate) fn connections(&self) -> usize {
        self.run(|world| async move { world.server.connections() })
    }

    /// How many connections each queue serves.
    pub(crate) fn spread(&self) -> Vec<usize> {
        self.run(|world| async move { world.server.spread() })
    }

    pub(crate) fn await_spread(&self, expected: &[usize]) {
        for _ in 0..6000 {
            if self.spread() == expected {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?} connections, not {expected:?}", self.spread());
    }

    /// Waits until there are so many connections.
    pub(crate) fn await_connections(&self, count: usize) {
        for _ in 0..6000 {
            if self.connections() == count {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} connections, not {count}", self.connections());
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("nbd")
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket().display())
    }

    pub(crate) fn client(&self) -> Client {
        Client::over(self.stream(), "any", Some(HANG)).unwrap()
    }

    pub(crate) fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream
    }

    /// A connection in transmission, with simple replies.
    pub(crate) fn raw(&self) -> Raw {
        let mut stream = self.stream();
        let mut hello = Vec::new();
        put_client_flags(&mut hello, wire::nbd::ClientFlags::FIXED_NEWSTYLE | wire::nbd::ClientFlags::NO_ZEROES);
        put_export_name(&mut hello, "any");
        stream.write_all(&hello).unwrap();
        let mut greeting = [0; 18 + 10];
        stream.read_exact(&mut greeting).unwrap();
        Raw(stream)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.jobs.take();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.expect("the server's thread ends in order");
        }
    }
}

/// A connection whose bytes a test sends itself.
pub(crate) struct Raw(pub(crate) UnixStream);

impl Raw {
    pub(crate) fn send(&mut self, command: Command, flags: CommandFlags, cookie: u64, offset: u64, length: u32) {
        let header = RequestHeader { flags, command, cookie, offset, length };
        self.0.write_all(&header.encode()).unwrap();
    }

    pub(crate) fn read(&mut self, cookie: u64, offset: u64, length: u32) {
        self.send(Command::Read, CommandFlags::EMPTY, cookie, offset, length);
    }

    pub(crate) fn write(&mut self, cookie: u64, offset: u64, data: &[u8]) {
        self.send(Command::Write, CommandFlags::EMPTY, cookie, offset, u32::try_from(data.len()).unwrap());
        self.0.write_all(data).unwrap();
    }

    /// The cookie and the error of the next simple reply.
    pub(crate) fn reply(&mut self) -> (u64, u32) {
        let mut bytes = [0; SIMPLE_REPLY_BYTES];
        self.0.read_exact(&mut bytes).unwrap();
        match ReplyHeader::decode(&bytes).unwrap().unwrap().0 {
            ReplyHeader::Simple { cookie, error } => (cookie, error.map_or(0, |code| code.number())),
            other => panic!("not a simple reply: {other:?}"),
        }
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Receives so many bytes, and forgets them.
    pub(crate) fn skip(&mut self, mut length: usize) {
        let mut part = [0; 64 << 10];
        while length > 0 {
            let count = length.min(part.len());
            self.0.read_exact(&mut part[..count]).unwrap();
            length -= count;
        }
    }

    /// Whether the server has ended the connection, with nothing more to say.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
            || matches!(self.0.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
    }
}
