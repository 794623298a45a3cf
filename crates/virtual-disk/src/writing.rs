//! Write access of a disk that was opened without: it comes with the first writer, and goes with the last.
//!
//! ```text
//!   a source that writes --\                 /--> the lock, waited for while readers are served
//!   a ring, when connected --+--> home -----+---> Switching: drained, all read anew as whoever had the lock left it
//!                            |               \--> Running, written
//!   the last of them goes ---+--> Switching: drained, flushed, the leaf left as readers expect it, unlocked --> Running
//! ```
//!
//! Until then the images are only read, as they were when they were opened, and another may write them.

use std::{
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use block_core::{Error, ErrorKind, Result};
use futures_util::future::select;
use image_chain::{ChainSpec, Home, Resting, Writing};
use storage_io::{LockPolicy, ReplyTo, Sender, StorageExt, reply};

use crate::{
    Disk, DiskState,
    disk::{Chain, Inner},
    queue::{ToDisk, closed},
};

/// The longest pause between two attempts at a lock.
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(100);

/// Whether a disk may change its images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteAccess {
    /// No: it is closed, at rest, or only to be read.
    #[default]
    None,
    /// Not yet, or not any more: it comes with the next writer.
    Later,
    /// Yes.
    Held,
}

/// How many write to a disk.
#[derive(Debug, Default)]
pub(crate) struct Writers(AtomicUsize);

impl Writers {
    fn are_there(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }

    /// One more; home is told when the last has gone.
    pub(crate) fn add(self: &Arc<Self>, home: &Sender<ToDisk>) -> Writer {
        self.0.fetch_add(1, Ordering::AcqRel);
        Writer { writers: self.clone(), home: home.clone() }
    }
}

/// Somebody who writes to a disk, or may at any time. As long as there is one, the disk keeps its write access.
#[must_use = "write access goes with the last writer"]
pub struct Writer {
    writers: Arc<Writers>,
    home: Sender<ToDisk>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.writers.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Without a home there is no access to give up.
            let _ = self.home.send(ToDisk::LastWriterGone);
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Disk {
    /// Somebody who will write, until what is returned is dropped.
    pub fn writer(&self) -> Writer {
        self.inner().writers.add(&self.inner().questions)
    }

    /// Takes write access for a [`writer`](Self::writer), if the disk was opened without. A disk at rest takes it when it is
    /// resumed.
    ///
    /// # Errors
    /// `NotPermitted`, and why: another has the lock for longer than the chain's lock policy waits, or the images cannot be
    /// read any more. Then the disk goes on as it was.
    pub async fn begin_writing(&self) -> Result<()> {
        let (to, answer) = reply();
        self.inner().wants_to_write(to);
        answer.await.unwrap_or_else(|| Err(closed()))
    }

    /// Gives up write access, if the disk was opened without and nobody writes any more; ends when it is given up and all is
    /// durable.
    ///
    /// # Errors
    /// Not all could be made durable, or left as readers expect it. The access is given up nevertheless.
    pub async fn end_writing(&self) -> Result<()> {
        self.inner().end_writing().await
    }

    /// Makes all durable that was answered. A disk at rest has done so.
    ///
    /// # Errors
    /// What storage says.
    pub async fn flush(&self) -> Result<()> {
        let flushing = self.inner().chain.borrow().as_ref().map(|chain| chain.home.begin_flush());
        match flushing {
            Some(flushing) => flushing.await,
            None => Ok(()),
        }
    }
}

impl Inner {
    /// How to open what was asked for: with write access if somebody is there who needs it.
    pub(crate) fn as_needed(&self, spec: &ChainSpec) -> ChainSpec {
        ChainSpec { writing: self.writing_now(), ..spec.clone() }
    }

    pub(crate) fn writing_now(&self) -> Writing {
        if self.is_late.get() && !self.writers.are_there() { Writing::Later } else { Writing::Now }
    }

    /// The files of a running disk that has no write access yet.
    fn only_read(&self) -> Option<Resting> {
        let chain = self.chain.borrow();
        let home = chain.as_ref().map(|Chain { home, .. }| home).filter(|home| home.writes_later())?;
        home.files().filter(|_| self.state() == DiskState::Running).cloned()
    }

    /// One attempt at a time, for all who wait.
    pub(crate) fn wants_to_write(self: &Rc<Self>, reply: ReplyTo<Result<()>>) {
        let is_first = {
            let mut waiting = self.want_to_write.borrow_mut();
            waiting.push(reply);
            waiting.len() == 1
        };
        if is_first {
            let inner = self.clone();
            let taking = async move {
                let taken = inner.take_write_access().await;
                let waiting = inner.want_to_write.take();
                // Whoever has gone needs no answer.
                waiting.into_iter().for_each(|reply| drop(reply.answer(taken.clone())));
            };
            self.executor.spawn(taking).detach();
        }
    }

    /// Waits for the lock, serving readers, and then for the requests that run. Nothing of the images is held between two
    /// attempts, and nothing else is done to the disk during one: what comes to rest has neither files nor a lock.
    async fn take_write_access(self: &Rc<Self>) -> Result<()> {
        let mut end = None;
        let mut pause = Duration::from_millis(1);
        loop {
            self.my_turn().await;
            // A disk that has come to rest takes the lock when it is resumed.
            let Some(files) = self.only_read() else { return Ok(()) };
            let end = *end.get_or_insert_with(|| self.executor.now() + patience(&files));
            let locked = self.counted(self.try_lock(&files)).await;
            drop(files);
            let left = end - self.executor.now();
            match locked {
                Ok(true) => return self.switch(Writing::Now).await.map_err(denied),
                Ok(false) => return Ok(()),
                // Not what the operating system calls busy: that is not waited for.
                Err(error) if error.kind() == ErrorKind::Busy && error.os_error().is_none() && !left.is_zero() => {}
                Err(error) => return Err(denied(error)),
            }
            let leaves = pin!(self.changed.until(|| self.only_read().is_none()));
            select(pin!(self.executor.sleep(pause.min(left))), leaves).await;
            pause = (pause * 2).min(LOCK_PAUSE_MAX);
        }
    }

    /// Takes the lock; false, and it is free again, if the disk was closed by force meanwhile.
    async fn try_lock(&self, files: &Resting) -> Result<bool> {
        files.leaf_storage().lock(&self.executor).await?;
        if self.only_read().is_some() {
            return Ok(true);
        }
        files.unlock(&self.executor).await.map(|()| false)
    }

    /// See [`Disk::end_writing`].
    pub(crate) async fn end_writing(self: &Rc<Self>) -> Result<()> {
        self.my_turn().await;
        let is_written = self.chain.borrow().as_ref().is_some_and(|chain| !chain.home.is_read_only());
        let is_due = is_written && self.state() == DiskState::Running && self.writing_now() == Writing::Later;
        if is_due { self.switch(Writing::Later).await } else { Ok(()) }
    }

    /// Has a running disk read its images anew, with write access or without.
    async fn switch(self: &Rc<Self>, writing: Writing) -> Result<()> {
        self.enter(DiskState::Switching);
        let inner = self.clone();
        self.job(async move { inner.switch_images(writing).await }).await
    }

    async fn switch_images(&self, writing: Writing) -> Result<()> {
        let settled = self.settle(None).await;
        if self.is_forced() {
            return Err(self.late(""));
        }
        let (files, rested) = self.bring_to_rest().await;
        let mut left = settled.map(drop).and(rested);
        let mut woken = self.wake(&files.with(writing)).await;
        if writing == Writing::Now && woken.is_err() && !self.is_forced() {
            left = left.and(woken.map(drop));
            woken = self.wake(&files.with(Writing::Later)).await;
        }
        if self.is_forced() {
            return Err(self.late(""));
        }
        let result = left.and(woken.as_ref().map(|_| ()).map_err(Clone::clone));
        self.status.set_trouble(result.as_ref().err().cloned());
        match woken {
            Ok(_) => self.enter(DiskState::Running),
            Err(_) => {
                self.resting.replace(Some(files.with(self.writing_now())));
                self.enter(DiskState::Quiesced);
            }
        }
        result
    }
}

/// How long another writer is waited for.
fn patience(files: &Resting) -> Duration {
    match files.spec().lock {
        LockPolicy::Exclusive { deadline } => deadline,
        LockPolicy::None | LockPolicy::Later => Duration::ZERO,
    }
}

/// What the disk may do to its images.
pub(crate) fn access_of(home: &Home) -> WriteAccess {
    match (home.writes_later(), home.is_read_only()) {
        (true, _) => WriteAccess::Later,
        (false, true) => WriteAccess::None,
        (false, false) => WriteAccess::Held,
    }
}

/// Why there is no write access. Whatever it was, nobody is told to try again at once.
fn denied(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Closed => error,
        _ => Error::new(ErrorKind::NotPermitted, format!("no write access: {error}")),
    }
}
