//! A disk as the guest's programs use it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use block_core::{Error, ErrorKind, Result};
use storage_io::{Executor, ReplyTo, Signal, Task, reply};
use wire::blkif::{
    Abi, DiscardFlags, IndirectPages, OperationCode, Request, RequestBody, Response, SEGMENTS_MAX, Status, Transfer,
};
use xen::{Access, DomainId, EventChannel, GrantRef, Kernel, Port};

use crate::{
    data::{Data, DataPages, SegmentPages},
    ring::FrontRing,
};

/// How a frontend is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontOptions {
    /// Where the backend runs.
    pub backend: DomainId,
    /// What the guest was compiled for.
    pub abi: Abi,
    /// The ring has two to the power of this many pages.
    pub order: u32,
    /// Segments of one request; more than a slot holds make it an indirect one.
    pub segments_max: usize,
    /// Pages of data stay granted, and are used again and again.
    pub persistent: bool,
}

impl Default for FrontOptions {
    fn default() -> FrontOptions {
        FrontOptions { backend: DomainId(0), abi: Abi::X86_64, order: 0, segments_max: SEGMENTS_MAX, persistent: false }
    }
}

/// A disk of a guest, on one executor.
#[derive(Clone)]
pub struct Front(Rc<Inner>);

struct Inner {
    executor: Executor,
    pages: DataPages,
    options: FrontOptions,
    ring: RefCell<FrontRing>,
    channel: Rc<dyn EventChannel>,
    /// Requests without a response: what they asked.
    waiting: RefCell<HashMap<u64, (OperationCode, ReplyTo<Status>)>>,
    /// Those of a disk that has ended, who wait all the same.
    unanswered: RefCell<Vec<ReplyTo<Status>>>,
    next_id: Cell<u64>,
    /// There is room in the ring.
    room: Signal,
    stray: Cell<u64>,
    listening: RefCell<Option<Task<()>>>,
    life: Cell<Life>,
    /// What was wrong with an answer, if anything.
    nonsense: RefCell<Option<String>>,
}

/// What has become of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Used,
    /// Its backend has let go of everything.
    Ended,
    /// It was taken away, and nobody can be asked whether its backend is done with it.
    Removed,
    /// Its backend may still do what it was asked to, or makes no sense: what it may touch is used for nothing else.
    Abandoned,
}

impl Front {
    /// Makes a ring and leaves an end of an event channel open; the backend can be told of both.
    ///
    /// # Errors
    /// What the guest has run out of.
    pub fn new(executor: &Executor, kernel: &(impl Kernel + Clone + 'static), options: FrontOptions) -> Result<Front> {
        let ring = FrontRing::new(kernel, options.backend, options.abi, options.order)?;
        let channel: Rc<dyn EventChannel> = Rc::from(kernel.leave_open(executor, options.backend)?);
        let inner = Rc::new(Inner {
            executor: executor.clone(),
            pages: DataPages::new(Arc::new(kernel.clone()), options.backend, options.persistent),
            options,
            ring: RefCell::new(ring),
            channel,
            waiting: RefCell::default(),
            unanswered: RefCell::default(),
            next_id: Cell::new(1),
            room: Signal::new(),
            stray: Cell::new(0),
            listening: RefCell::default(),
            life: Cell::new(Life::Used),
            nonsense: RefCell::default(),
        });
        let (channel, weak) = (inner.channel.clone(), Rc::downgrade(&inner));
        let listening = executor.spawn(async move {
            // Who waits for an event holds nothing that would keep the disk: it may never come.
            while channel.wait().await.is_ok() {
                channel.unmask();
                let Some(inner) = weak.upgrade() else { return };
                if let Err(words) = inner.take_responses() {
                    return inner.gives_up(words);
                }
            }
        });
        inner.listening.replace(Some(listening));
        Ok(Front(inner))
    }

    /// The grants of the ring's pages, in order.
    pub fn ring_grants(&self) -> Vec<GrantRef> {
        self.0.ring.borrow().grants().to_vec()
    }

    /// The end of the event channel for the backend to bind to.
    pub fn port(&self) -> Port {
        self.0.channel.port()
    }

    /// Pages that the backend still used when their request had been answered. There should be none, ever.
    pub fn stray_pages(&self) -> u64 {
        self.0.stray.get()
    }

    /// Both sides have agreed that pages of data stay granted, or not. No request may be under way.
    pub fn keep_pages(&self, are_kept: bool) {
        self.0.pages.keep(are_kept);
    }

    /// Requests without a response.
    pub fn in_flight(&self) -> usize {
        self.0.waiting.borrow().len()
    }

    /// Reads so many sectors.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn read(&self, sector: u64, sectors: usize) -> Result<Vec<u8>> {
        let data = self.0.pages.take(sectors, Access::Write)?;
        let asked = self.transfer(Transfer::Read, sector, &data).await;
        let bytes = data.bytes();
        self.take_back(data)?;
        okay(asked?).map(|()| bytes)
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn write(&self, sector: u64, bytes: &[u8]) -> Result<()> {
        let data = self.0.pages.take(bytes.len() / 512, Access::Read)?;
        data.fill(bytes);
        let asked = self.transfer(Transfer::Write, sector, &data).await;
        self.take_back(data)?;
        okay(asked?)
    }

    /// What was answered survives a loss of power.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn flush(&self) -> Result<()> {
        let body = RequestBody::Flush { sector: 0, segments: Vec::new() };
        okay(self.request(OperationCode::FlushDiskCache, body).await?)
    }

    /// Writes at most eleven pages as a barrier: what was asked before is durable before it, and it before what comes.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn write_barrier(&self, sector: u64, bytes: &[u8]) -> Result<()> {
        let data = self.0.pages.take(bytes.len() / 512, Access::Read)?;
        data.fill(bytes);
        let body = RequestBody::Barrier { sector, segments: data.segments() };
        let asked = self.request(OperationCode::WriteBarrier, body).await;
        self.take_back(data)?;
        okay(asked?)
    }

    /// The content of some sectors no longer matters.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn discard(&self, sector: u64, sectors: u64) -> Result<()> {
        let body = RequestBody::Discard { sector, sectors, flags: DiscardFlags::EMPTY };
        okay(self.request(OperationCode::Discard, body).await?)
    }

    async fn transfer(&self, transfer: Transfer, sector: u64, data: &Data) -> Result<Status> {
        let segments = data.segments();
        if segments.len() <= SEGMENTS_MAX {
            let body = RequestBody::Transfer { transfer, sector, segments };
            return self.request(transfer.operation(), body).await;
        }
        if segments.len() > self.0.options.segments_max {
            return Err(Error::new(ErrorKind::LimitReached, "a request has no more segments than were offered"));
        }
        let pages = SegmentPages::new(&self.0.pages, &segments)?;
        let count = u16::try_from(segments.len()).expect("few");
        let body = RequestBody::Indirect { transfer, sector, pages: IndirectPages::new(pages.grants(), count) };
        let asked = self.request(transfer.operation(), body).await;
        self.take_back(pages.into_data())?;
        asked
    }

    /// The pages of a request that has ended. Those that a backend may still use, unanswered, stay where they are.
    fn take_back(&self, data: Data) -> Result<()> {
        let stray = match self.0.life.get() {
            Life::Used => self.0.pages.give_back(data)?,
            Life::Ended => data.release()?,
            Life::Removed => data.retire()?,
            Life::Abandoned => 0,
        };
        self.0.stray.set(self.0.stray.get() + stray);
        Ok(())
    }

    /// Sends a request, and waits for its response.
    ///
    /// # Errors
    /// When the disk goes away first: `Corrupt` if that is because the backend's answers make no sense.
    pub async fn request(&self, operation: OperationCode, body: RequestBody) -> Result<Status> {
        let inner = &self.0;
        inner.room.until(|| inner.ring.borrow().free() > 0 || inner.life.get() != Life::Used).await;
        if inner.life.get() != Life::Used {
            return Err(inner.gone());
        }
        let id = inner.next_id.get();
        inner.next_id.set(id + 1);
        let (to, answer) = reply();
        inner.waiting.borrow_mut().insert(id, (operation, to));
        let slot = Request { id, operation, body }.encode(inner.options.abi, 0);
        let wants_to_know = {
            let mut ring = inner.ring.borrow_mut();
            ring.put(&slot);
            ring.push()
        };
        if wants_to_know {
            inner.channel.notify();
        }
        answer.await.ok_or_else(|| inner.gone())
    }

    /// Ends the disk: its backend has let go of the ring. What has no response gets none any more. Says how many pages the
    /// backend still has.
    ///
    /// # Errors
    /// When the platform has gone.
    pub fn end(&self) -> Result<usize> {
        self.end_as(Life::Ended)
    }

    /// As [`end`](Self::end), but as the kernels of guests do it: whoever waits for a response waits for ever.
    ///
    /// # Errors
    /// When the platform has gone.
    pub fn end_without_answers(&self) -> Result<usize> {
        let waiting = self.0.waiting.take();
        self.0.unanswered.borrow_mut().extend(waiting.into_values().map(|(_, to)| to));
        self.end()
    }

    /// As [`end`](Self::end), of a disk that was taken away: its backend may still be about to copy what was asked.
    ///
    /// # Errors
    /// When the platform has gone.
    pub fn remove(&self) -> Result<usize> {
        self.end_as(Life::Removed)
    }

    fn end_as(&self, life: Life) -> Result<usize> {
        self.stop(life);
        let in_use = self.0.ring.borrow_mut().take_back()?;
        Ok(in_use + usize::try_from(self.0.pages.end()?).expect("pages of a guest"))
    }

    /// Gives the disk up, whose backend does not react: it keeps what it has. What has no response gets none any more.
    pub fn abandon(&self) {
        self.stop(Life::Abandoned);
    }

    fn stop(&self, life: Life) {
        let listening = self.0.listening.take();
        drop(listening);
        self.0.enter(life);
    }

    /// Ends the disk: its backend has let go of the ring. Says how many pages it still has.
    ///
    /// # Errors
    /// When the platform has gone.
    ///
    /// # Panics
    /// When others still use the disk.
    pub fn release_ring(self) -> Result<usize> {
        let listening = self.0.listening.take();
        drop(listening);
        let inner = Rc::into_inner(self.0).expect("nobody else has the disk");
        let in_use = inner.ring.into_inner().release()?;
        Ok(in_use + usize::try_from(inner.pages.end()?).expect("pages of a guest"))
    }

    /// The executor that it lives on.
    pub fn executor(&self) -> &Executor {
        &self.0.executor
    }
}

impl Inner {
    /// Hands responses to those who wait for them; tells what is wrong with one that makes no sense.
    fn take_responses(&self) -> std::result::Result<(), String> {
        loop {
            let response = self.ring.borrow_mut().try_take();
            match response.map_err(|index| format!("responses run ahead of requests: {index}"))? {
                Some(response) => self.end(&response)?,
                None if self.ring.borrow().arm() => {}
                None => break,
            }
        }
        self.room.notify();
        Ok(())
    }

    fn end(&self, response: &Response) -> std::result::Result<(), String> {
        match self.waiting.borrow_mut().remove(&response.id) {
            None => Err(format!("{response:?} answers nothing that was asked")),
            Some((asked, _)) if asked != response.operation => Err(format!("{response:?} answers a {asked:?}")),
            Some((_, to)) => {
                // Whoever asked may have gone.
                let _ = to.answer(response.status);
                Ok(())
            }
        }
    }

    /// As a guest's kernel does, the ring is not looked at any more.
    fn gives_up(&self, words: String) {
        self.nonsense.replace(Some(words));
        self.enter(Life::Abandoned);
    }

    /// What has no response gets none any more.
    fn enter(&self, life: Life) {
        self.life.set(life);
        let waiting = self.waiting.take();
        drop(waiting);
        self.room.notify();
    }

    /// Why there is no disk any more.
    fn gone(&self) -> Error {
        match &*self.nonsense.borrow() {
            Some(words) => Error::new(ErrorKind::Corrupt, format!("the backend makes no sense: {words}")),
            None => Error::new(ErrorKind::Closed, "the disk has gone"),
        }
    }
}

fn okay(status: Status) -> Result<()> {
    match status {
        Status::Okay => Ok(()),
        Status::Error => Err(Error::new(ErrorKind::Io, "the backend says that it failed")),
        Status::Unsupported => Err(Error::new(ErrorKind::Unsupported, "the backend does not offer it")),
    }
}
