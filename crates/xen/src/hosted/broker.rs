//! The broker: which domains there are, what memory they have, and which ends of channels are whose.
//!
//! It is asked when something is set up or torn down, never for a request. When a process goes away, however it does,
//! its connection ends, and with it everything that it had pinned, mapped or bound.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    rc::Rc,
    sync::atomic::Ordering,
    time::Duration,
};

use block_core::{Error, Result, ResultExt};
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, recv, socket_with,
    },
};
use storage_io::{Executor, Task};

use super::{
    SOCKET_NAME, connection,
    layout::{self, ASK_BYTES, Ask, GRANTS, LIMITS_BYTES, PINS_BYTES, TABLE_BYTES},
    pinning,
};
use crate::{DomainId, GrantRef, PAGE_BYTES, SharedMemory};

/// Pages of a domain, at most: 16 GiB.
const DOMAIN_PAGES_MAX: u32 = 1 << 22;
/// How long to wait when the system has no descriptor left for a connection.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// What all backends of a host may use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerLimits {
    /// Pages that are mapped.
    pub mapped_pages: u32,
    /// Pages that are being copied at one instant.
    pub copies: u32,
}

impl Default for BrokerLimits {
    /// Room enough for any test that does not look for the limits.
    fn default() -> BrokerLimits {
        BrokerLimits { mapped_pages: 1 << 20, copies: 1 << 20 }
    }
}

/// The broker of a host without Xen. Dropping it ends all connections and removes its socket.
pub struct Broker {
    shared: Rc<Shared>,
    path: PathBuf,
    _accepting: Task<()>,
}

struct Shared {
    executor: Executor,
    host: RefCell<Host>,
    connections: RefCell<HashMap<u64, Task<()>>>,
    next: Cell<u64>,
}

struct Host {
    domains: HashMap<DomainId, Domain>,
    /// Of domains that have gone while backends had pages of theirs.
    orphans: Vec<Pins>,
    channels: Vec<Channel>,
    limits_file: OwnedFd,
    limits: SharedMemory,
}

/// A domain and its memory.
struct Domain {
    pages: u32,
    memory_file: OwnedFd,
    table_file: OwnedFd,
    table: SharedMemory,
    /// What backends have pinned.
    pins: Vec<Pins>,
    next_port: u32,
}

/// What one backend has pinned of a domain.
struct Pins {
    connection: u64,
    memory: SharedMemory,
    file: OwnedFd,
}

/// A channel: the end of who has left it open, and that of who has bound it.
struct Channel {
    opener: End,
    /// For whom it was left open.
    peer: DomainId,
    binder: Option<End>,
    to_opener: OwnedFd,
    to_binder: OwnedFd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct End {
    domain: DomainId,
    port: u32,
    connection: u64,
}

/// What the broker answers: two numbers, and descriptors.
type Answer<'a> = std::result::Result<([u32; 2], Vec<BorrowedFd<'a>>), Errno>;

impl Broker {
    /// Starts a broker with its socket in `directory`. Only the first domain is there, without memory of its own.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn start(executor: &Executor, directory: &Path, limits: BrokerLimits) -> Result<Broker> {
        let path = directory.join(SOCKET_NAME);
        // Gone already is as good.
        let _ = fs::remove_file(&path);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listening = || {
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            bind(&socket, &SocketAddrUnix::new(&path)?)?;
            listen(&socket, 128)?;
            Ok(socket)
        };
        let socket = listening().map_err(|error: Errno| Error::from_os(path.display().to_string(), error.into()))?;
        let shared = Rc::new(Shared {
            executor: executor.clone(),
            host: RefCell::new(Host::new(limits)?),
            connections: RefCell::default(),
            next: Cell::new(0),
        });
        let accepting = shared.clone();
        let accepting = executor.spawn(async move { accepting.accept(socket).await });
        Ok(Broker { shared, path, _accepting: accepting })
    }

    /// Makes a domain with so many pages of memory.
    ///
    /// # Errors
    /// `Busy` if it is there already, or what the operating system says.
    pub fn create_domain(&self, domain: DomainId, pages: u32) -> Result<()> {
        let created = self.shared.host.borrow_mut().create(domain, pages);
        created.map_err(|error| Error::from_os(format!("making domain {domain}"), error.into()))
    }

    /// Ends a domain. Pages that others have mapped stay until they are unmapped.
    pub fn destroy_domain(&self, domain: DomainId) {
        self.shared.host.borrow_mut().destroy(domain);
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.connections.borrow().len()
    }

    /// Event channels that there are, bound or left open.
    pub fn channels(&self) -> usize {
        self.shared.host.borrow().channels.len()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let connections = self.shared.connections.take();
        drop(connections);
    }
}

impl Shared {
    async fn accept(self: Rc<Self>, socket: OwnedFd) {
        loop {
            match accept_with(&socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(connection) => self.begin(connection),
                Err(Errno::AGAIN) => {
                    if self.executor.readable(&socket).await.is_err() {
                        return;
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => self.executor.sleep(NO_DESCRIPTOR_PAUSE).await,
            }
        }
    }

    fn begin(self: &Rc<Self>, socket: OwnedFd) {
        let number = self.next.get();
        self.next.set(number + 1);
        let shared = self.clone();
        let task = self.executor.spawn(async move {
            shared.serve(number, &socket).await;
            shared.host.borrow_mut().forget(number);
            let ended = shared.connections.borrow_mut().remove(&number);
            drop(ended);
        });
        self.connections.borrow_mut().insert(number, task);
    }

    async fn serve(&self, number: u64, socket: &OwnedFd) {
        let mut domain = None;
        loop {
            let mut bytes = [0; ASK_BYTES];
            match recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((ASK_BYTES, ASK_BYTES)) => {}
                Err(Errno::AGAIN) => match self.executor.readable(socket).await {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                Err(Errno::INTR) => continue,
                _ => return,
            }
            let [ask, a, b] = layout::decode(&bytes);
            let mut host = self.host.borrow_mut();
            let sent = match host.carry_out(number, &mut domain, ask, a, b) {
                Ok(([first, second], descriptors)) => connection::answer(socket, [0, first, second], &descriptors),
                Err(error) => connection::answer(socket, [error.raw_os_error().unsigned_abs(), 0, 0], &[]),
            };
            if !sent {
                return;
            }
        }
    }
}

fn sealed_file(name: &str, bytes: usize) -> rustix::io::Result<OwnedFd> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, bytes as u64)?;
    // A page that is taken away under a mapping would kill whoever touches it.
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

fn number(domain: u32) -> std::result::Result<DomainId, Errno> {
    u16::try_from(domain).map(DomainId).map_err(|_| Errno::SRCH)
}

fn map(file: &OwnedFd, bytes: usize) -> std::result::Result<SharedMemory, Errno> {
    SharedMemory::map(file, 0, bytes).map_err(|_| Errno::NOMEM)
}

impl Host {
    fn new(limits: BrokerLimits) -> Result<Host> {
        let limits_file = sealed_file("limits", LIMITS_BYTES).map_err(std::io::Error::from).context("limits")?;
        let memory = SharedMemory::map(&limits_file, 0, LIMITS_BYTES)?;
        let max = layout::usage_max(&memory);
        max.mapped.store(limits.mapped_pages, Ordering::SeqCst);
        max.copies.store(limits.copies, Ordering::SeqCst);
        let (domains, orphans, channels) = Default::default();
        Ok(Host { domains, orphans, channels, limits_file, limits: memory })
    }

    fn create(&mut self, domain: DomainId, pages: u32) -> std::result::Result<(), Errno> {
        if self.domains.contains_key(&domain) {
            return Err(Errno::BUSY);
        }
        if !(1..=DOMAIN_PAGES_MAX).contains(&pages) {
            return Err(Errno::INVAL);
        }
        let memory_file = sealed_file("domain memory", pages as usize * PAGE_BYTES)?;
        let table_file = sealed_file("grant table", TABLE_BYTES)?;
        let table = map(&table_file, TABLE_BYTES)?;
        layout::alive(&table).store(1, Ordering::SeqCst);
        let domain_memory = Domain { pages, memory_file, table_file, table, pins: Vec::new(), next_port: 1 };
        self.domains.insert(domain, domain_memory);
        Ok(())
    }

    fn destroy(&mut self, domain: DomainId) {
        if let Some(gone) = self.domains.remove(&domain) {
            layout::alive(&gone.table).store(0, Ordering::SeqCst);
            // What backends have mapped still counts until they unmap it, or die.
            self.orphans.extend(gone.pins);
        }
        self.channels.retain(|channel| channel.opener.domain != domain);
    }

    /// A process has gone, with all that it had.
    fn forget(&mut self, connection: u64) {
        let total = layout::usage(&self.limits);
        let tables = self.domains.values_mut().map(|domain| (&mut domain.pins, Some(&domain.table)));
        for (pins, table) in tables.chain([(&mut self.orphans, None)]) {
            let before = pins.len();
            for gone in pins.extract_if(.., |pins| pins.connection == connection) {
                let own = layout::usage(&gone.memory);
                total.mapped.fetch_sub(own.mapped.load(Ordering::SeqCst), Ordering::SeqCst);
                total.copies.fetch_sub(own.copies.load(Ordering::SeqCst), Ordering::SeqCst);
            }
            if let Some(table) = table.filter(|_| pins.len() < before) {
                layout::version(table).fetch_add(1, Ordering::SeqCst);
            }
        }
        for channel in &mut self.channels {
            channel.binder = channel.binder.filter(|end| end.connection != connection);
        }
        self.channels.retain(|channel| channel.opener.connection != connection);
    }

    fn carry_out(&mut self, connection: u64, own: &mut Option<DomainId>, ask: u32, a: u32, b: u32) -> Answer<'_> {
        let ask = Ask::from_number(ask).ok_or(Errno::NOSYS)?;
        if ask == Ask::Hello {
            *own = Some(number(a)?);
            return Ok(([0, 0], Vec::new()));
        }
        let own = own.ok_or(Errno::PERM)?;
        match ask {
            Ask::Hello => unreachable!("answered above"),
            Ask::Create | Ask::Destroy if own.0 != 0 => Err(Errno::PERM),
            Ask::Create => self.create(number(a)?, b).map(|()| ([0, 0], Vec::new())),
            Ask::Destroy => {
                self.destroy(number(a)?);
                Ok(([0, 0], Vec::new()))
            }
            Ask::OwnMemory => {
                let domain = self.domains.get(&own).ok_or(Errno::SRCH)?;
                Ok(([domain.pages, 0], vec![domain.memory_file.as_fd(), domain.table_file.as_fd()]))
            }
            Ask::Attach => self.attach(connection, number(a)?),
            Ask::PinsOf => {
                let domain = self.domains.get(&own).ok_or(Errno::SRCH)?;
                let pins = domain.pins.get(a as usize).ok_or(Errno::INVAL)?;
                Ok(([0, 0], vec![pins.file.as_fd()]))
            }
            Ask::AllocateUnbound => self.allocate(connection, own, number(a)?),
            Ask::Bind => self.bind(connection, own, number(a)?, b),
            Ask::Unbind => {
                self.unbind(own, a);
                Ok(([0, 0], Vec::new()))
            }
            Ask::Account => {
                let domain = self.domains.get(&number(a)?).ok_or(Errno::SRCH)?;
                Ok((domain.account(), Vec::new()))
            }
        }
    }

    /// The pages and grant table of a domain, and a table for what the asker pins.
    fn attach(&mut self, connection: u64, domain: DomainId) -> Answer<'_> {
        let domain = self.domains.get_mut(&domain).ok_or(Errno::SRCH)?;
        let file = sealed_file("pins", PINS_BYTES)?;
        let memory = map(&file, PINS_BYTES)?;
        domain.pins.push(Pins { connection, memory, file });
        // Before the answer: whoever pins a page has been counted.
        layout::version(&domain.table).fetch_add(1, Ordering::SeqCst);
        let pins = &domain.pins.last().expect("they were just made").file;
        let descriptors =
            vec![domain.memory_file.as_fd(), domain.table_file.as_fd(), pins.as_fd(), self.limits_file.as_fd()];
        Ok(([domain.pages, 0], descriptors))
    }

    fn allocate(&mut self, connection: u64, own: DomainId, peer: DomainId) -> Answer<'_> {
        let port = self.next_port(own)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let (to_opener, to_binder) = (eventfd(0, flags)?, eventfd(0, flags)?);
        let opener = End { domain: own, port, connection };
        self.channels.push(Channel { opener, peer, binder: None, to_opener, to_binder });
        let channel = self.channels.last().expect("it was just made");
        Ok(([port, 0], vec![channel.to_opener.as_fd(), channel.to_binder.as_fd()]))
    }

    fn bind(&mut self, connection: u64, own: DomainId, domain: DomainId, remote: u32) -> Answer<'_> {
        if !self.domains.contains_key(&domain) {
            return Err(Errno::SRCH);
        }
        let is_open = |channel: &Channel| {
            channel.opener.domain == domain
                && channel.opener.port == remote
                && channel.peer == own
                && channel.binder.is_none()
        };
        let index = self.channels.iter().position(is_open).ok_or(Errno::INVAL)?;
        let port = self.next_port(own)?;
        let channel = &mut self.channels[index];
        channel.binder = Some(End { domain: own, port, connection });
        // As on Xen, a channel that was just bound has an event that nobody sent.
        rustix::io::write(&channel.to_binder, &1_u64.to_le_bytes())?;
        let channel = &self.channels[index];
        Ok(([port, 0], vec![channel.to_binder.as_fd(), channel.to_opener.as_fd()]))
    }

    fn unbind(&mut self, own: DomainId, port: u32) {
        let is_mine = |end: End| end.domain == own && end.port == port;
        for channel in &mut self.channels {
            channel.binder = channel.binder.filter(|end| !is_mine(*end));
        }
        self.channels.retain(|channel| !is_mine(channel.opener));
    }

    fn next_port(&mut self, domain: DomainId) -> std::result::Result<u32, Errno> {
        match self.domains.get_mut(&domain) {
            Some(domain) => {
                domain.next_port += 1;
                Ok(domain.next_port)
            }
            // The first domain has no memory here, and ports all the same.
            None if domain.0 == 0 => {
                let used = self.channels.iter().flat_map(|channel| [Some(channel.opener), channel.binder]).flatten();
                let mine = used.filter(|end| end.domain == domain).map(|end| end.port);
                Ok(mine.max().unwrap_or(0) + 1)
            }
            None => Err(Errno::SRCH),
        }
    }
}

impl Domain {
    fn users(&self, grant: GrantRef) -> u32 {
        self.pins.iter().map(|pins| pinning::pins_of(&pins.memory, grant)).sum()
    }

    fn account(&self) -> [u32; 2] {
        let granted = (0..GRANTS).filter(|grant| pinning::is_granted(&self.table, GrantRef(*grant))).count();
        let used = (0..GRANTS).map(|grant| self.users(GrantRef(grant))).sum();
        [u32::try_from(granted).unwrap_or(u32::MAX), used]
    }
}
