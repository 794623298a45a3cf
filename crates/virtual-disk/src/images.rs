//! What jobs do to the images of a disk: open them, bring them to rest, wake them, make them longer, close them.

use block_core::{Error, ErrorKind, Result, ResultExt, SECTOR};
use image_chain::{ChainSpec, FoundChain, Home, Resting, Writing};
use storage_io::{Access, Moment};

use crate::{
    DiskState, Geometry, Quiet, WriteAccess,
    disk::{Chain, Inner},
    in_flight::describe,
    jobs::{CLOSING, FLUSHING, OPENING, WAITING, WAKING},
    queue::ToQueue,
    writing::access_of,
};

/// The step that takes images into use, which is the first that writes.
const BEGINNING: &str = "taking the images into use";
/// The step that makes an image longer.
const GROWING: &str = "making the image longer";

impl Inner {
    pub(crate) async fn open(&self, spec: ChainSpec, before: DiskState) -> Result<Geometry> {
        let result = self.open_images(&spec).await;
        let result = result.map(|home| self.adopt(home, spec));
        if self.is_forced() {
            return Err(self.late(""));
        }
        self.enter(if result.is_ok() { DiskState::Running } else { before });
        result
    }

    /// Opens the images by name, or wakes those that rest.
    pub(crate) async fn resume(&self, spec: Option<ChainSpec>) -> Result<Geometry> {
        let resting = self.resting.borrow().clone();
        let result = match (&resting, spec) {
            (Some(resting), None) => {
                self.wake(&resting.with(self.writing_now())).await.map_err(|error| self.expecting(error))
            }
            (None, None) => self.reopen(None).await.map_err(|error| self.expecting(error)),
            (_, spec) => self.reopen(spec).await,
        };
        if self.is_forced() {
            return Err(self.late(""));
        }
        self.status.set_trouble(result.as_ref().err().cloned());
        if result.is_ok() {
            self.let_go();
        }
        let has_files = self.resting.borrow().is_some();
        self.enter(match &result {
            Ok(_) => DiskState::Running,
            Err(_) if has_files => DiskState::Quiesced,
            Err(_) => DiskState::ResumeFailed,
        });
        result
    }

    async fn reopen(&self, named: Option<ChainSpec>) -> Result<Geometry> {
        let is_named = named.is_some();
        let spec = named.or_else(|| self.spec.borrow().clone()).expect("a disk that rests was opened from something");
        if is_named {
            self.is_late.set(spec.access == Access::Write && spec.writing == Writing::Later);
        }
        let home = self.open_images(&spec).await?;
        let same = if is_named { Ok(()) } else { self.is_same_leaf(&home) };
        let fit = same.and_then(|()| self.fits(&home));
        // Where it is named, it is the disk's image from now on, also if it does not fit.
        self.remember(spec);
        match fit {
            Ok(()) => Ok(self.adopt_known(home)),
            Err(error) => {
                if is_named {
                    self.identity.set(home.identity());
                    // Files of the image before are not to be served under this name.
                    self.let_go();
                }
                // The mismatch is the news; a stranger's image that cannot be closed cleanly is not.
                let _ = home.close().await;
                Err(error)
            }
        }
    }

    pub(crate) async fn wake(&self, resting: &Resting) -> Result<Geometry> {
        self.at_step(WAKING);
        let found = resting.find(&self.executor, &|| self.go_on()).await?;
        self.at_step(BEGINNING);
        let home = resting.begin(&self.executor, found).await?;
        match self.is_same_leaf(&home).and_then(|()| self.fits(&home)) {
            Ok(()) => Ok(self.adopt(home, resting.spec().clone())),
            Err(error) => {
                // The mismatch is the news.
                let _ = home.close().await;
                let _ = resting.unlock(&self.executor).await;
                Err(error)
            }
        }
    }

    /// What was opened is the disk's from now on.
    fn adopt(&self, home: Home, spec: ChainSpec) -> Geometry {
        self.remember(spec);
        self.adopt_known(home)
    }

    fn adopt_known(&self, home: Home) -> Geometry {
        let geometry = geometry_of(&home);
        self.status.set_geometry(geometry);
        self.status.set_chain(Some(home.statistics()));
        self.status.set_write_access(access_of(&home));
        self.identity.set(home.identity());
        self.chain.replace(Some(Chain { home, geometry }));
        geometry
    }

    fn remember(&self, spec: ChainSpec) {
        self.status.set_image(Some(spec.leaf.clone()));
        self.spec.replace(Some(spec));
    }

    /// Whether clients that knew the disk as it was can go on with what it is now: it may have grown.
    fn fits(&self, home: &Home) -> Result<()> {
        let before = self.status.geometry().expect("a disk that rests was open");
        let now = geometry_of(home);
        if now.sectors >= before.sectors && now.logical_block_size == before.logical_block_size {
            return Ok(());
        }
        let words = |geometry: Geometry| {
            format!("{} sectors in blocks of {} bytes", geometry.sectors, geometry.logical_block_size)
        };
        Err(Error::new(ErrorKind::SizeChanged, format!("the disk had {}, the image has {}", words(before), words(now))))
    }

    /// Whether a leaf that nobody has named anew is the image that it was.
    fn is_same_leaf(&self, home: &Home) -> Result<()> {
        match (self.identity.get(), home.identity()) {
            (Some(was), Some(is)) if was != is => {
                let name = home.layers().first().map(|leaf| leaf.name.clone()).unwrap_or_default();
                Err(Error::new(ErrorKind::Mismatch, format!("{name}: was {was}, and is {is} now")))
            }
            _ => Ok(()),
        }
    }

    /// What is no image any more cannot tell which it was: the error does.
    fn expecting(&self, error: Error) -> Error {
        match self.identity.get() {
            Some(was) if error.kind() == ErrorKind::Corrupt => error.context(format!("image {was} was expected")),
            _ => error,
        }
    }

    /// Ends the requests that run, and the work on the images: their files are closed, or stay open.
    pub(crate) async fn rest(&self, end: Option<Moment>, goal: DiskState) -> Result<Quiet> {
        let quiet = self.settle(end).await;
        if self.is_forced() {
            return Err(self.late(""));
        }
        match (quiet, goal) {
            (Ok(quiet), DiskState::Paused) => self.close_images(goal).await.map(|()| quiet),
            (Ok(quiet), _) => self.quiesce_images().await.map(|()| quiet),
            (Err(error), _) => {
                self.enter(DiskState::Running);
                Err(error)
            }
        }
    }

    /// Waits until nothing runs and everything is durable.
    pub(crate) async fn settle(&self, end: Option<Moment>) -> Result<Quiet> {
        let began = self.executor.now();
        self.at_step(WAITING);
        let requests = self.unless_unwanted(end, self.members.drained()).await;
        let requests = requests.ok_or_else(|| self.late(self.describe_running()))?;
        let drained = self.executor.now();
        self.at_step(FLUSHING);
        // It is finished also if nobody waits for it.
        let flushing = self.chain.borrow().as_ref().expect("a disk that settles has images").home.begin_flush();
        let flushed = self.unless_unwanted(end, flushing).await;
        flushed.ok_or_else(|| self.late(FLUSHING))?.context(FLUSHING)?;
        Ok(Quiet { drained: drained - began, flushed: self.executor.now() - drained, requests })
    }

    /// Leaves the images as readers expect them, and their files open without a lock.
    async fn quiesce_images(&self) -> Result<()> {
        let (resting, rested) = self.bring_to_rest().await;
        let result = rested.and(resting.unlock(&self.executor).await);
        self.resting.replace(Some(resting));
        if self.is_forced() {
            return Err(self.late(""));
        }
        self.status.set_trouble(result.as_ref().err().cloned());
        self.enter(DiskState::Quiesced);
        result
    }

    pub(crate) async fn bring_to_rest(&self) -> (Resting, Result<()>) {
        self.at_step(CLOSING);
        let Chain { home, .. } = self.chain.take().expect("a disk that comes to rest has images");
        let (resting, result) = home.rest().await;
        self.status.set_chain(None);
        self.status.set_write_access(WriteAccess::None);
        (resting, result.context(CLOSING))
    }

    /// Closes the files of a quiesced disk.
    pub(crate) fn let_go(&self) {
        let resting = self.resting.take();
        drop(resting);
    }

    /// Makes the image longer, or finds it longer.
    pub(crate) async fn grow(&self, bytes: Option<u64>) -> Result<Geometry> {
        let settled = self.settle(None).await;
        if self.is_forced() {
            return Err(self.late(""));
        }
        if let Err(error) = settled {
            self.enter(DiskState::Running);
            return Err(error);
        }
        let (resting, rested) = self.bring_to_rest().await;
        self.at_step(GROWING);
        let grown = match (rested, bytes) {
            (Ok(()), Some(bytes)) => resting.grow(&self.executor, bytes).await,
            (rested, _) => rested,
        };
        let woken = self.wake(&resting.with(self.writing_now())).await;
        if self.is_forced() {
            return Err(self.late(""));
        }
        match &woken {
            Ok(_) => self.enter(DiskState::Running),
            Err(error) => {
                self.status.set_trouble(Some(error.clone()));
                self.resting.replace(Some(resting));
                self.enter(DiskState::Quiesced);
            }
        }
        // Why it did not grow is older news than why it cannot be read.
        grown.and(woken)
    }

    async fn open_images(&self, spec: &ChainSpec) -> Result<Home> {
        self.at_step(OPENING);
        let spec = self.as_needed(spec);
        let found = FoundChain::find(&self.executor, self.opener.clone(), &spec, &|| self.go_on()).await?;
        self.go_on()?;
        self.at_step(BEGINNING);
        found.begin(&self.executor).await
    }

    /// Closes the images and becomes `next`. The images are closed also if there is an error.
    pub(crate) async fn close_images(&self, next: DiskState) -> Result<()> {
        self.at_step(CLOSING);
        self.let_go();
        let chain = self.chain.take();
        let result = match chain {
            Some(Chain { home, .. }) => home.close().await.context(CLOSING),
            None => Ok(()),
        };
        self.status.set_chain(None);
        self.status.set_write_access(WriteAccess::None);
        if next == DiskState::Closed {
            self.status.set_image(None);
            self.spec.take();
        }
        // Closing by force may have come in between: then its job has the last word.
        if self.state().may_become(next) {
            self.status.set_trouble(result.as_ref().err().cloned());
            self.end_force();
            self.enter(next);
        }
        result
    }

    /// Waits for whatever still runs, however long that takes, and closes the images behind it.
    pub(crate) async fn close_by_force(&self) {
        self.idle().await;
        // A job ahead of this one may have closed the disk, and somebody may have opened it again.
        if !matches!(self.state(), DiskState::Closing | DiskState::Stuck) {
            return;
        }
        self.counted(async {
            self.at_step(WAITING);
            self.members.drained().await;
            // The error, if any, is published as the disk's trouble.
            let _ = self.close_images(DiskState::Closed).await;
        })
        .await;
    }

    fn describe_running(&self) -> String {
        describe(self.status.in_flight_requests(), self.executor.now())
    }

    /// Stops waiting for storage.
    pub(crate) fn give_up(&self) -> Error {
        if self.state() == DiskState::Stuck {
            return self.trouble();
        }
        let words = match self.status.in_flight() {
            0 => self.jobs.step().to_owned(),
            _ => self.describe_running(),
        };
        let error = Error::new(ErrorKind::TimedOut, format!("storage hangs: {words}"));
        self.status.set_trouble(Some(error.clone()));
        self.members.tell(|| ToQueue::Abandon);
        self.enter(DiskState::Stuck);
        error
    }
}

/// What an open chain looks like.
fn geometry_of(home: &Home) -> Geometry {
    Geometry {
        sectors: home.size() / SECTOR,
        logical_block_size: home.logical_block_size(),
        physical_block_size: home.leaf_storage().limits().physical_block_size,
        read_only: home.is_read_only() && !home.writes_later(),
        can_discard: home.gives_room_back(),
    }
}
