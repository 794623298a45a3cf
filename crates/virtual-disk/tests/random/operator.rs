//! Somebody who does anything to the disk, in whatever state it is; and moves its image about while nobody has it open.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use block_core::{ErrorKind, Result};
use image_chain::{ChainSpec, Writing};
use storage_io::{MemoryFiles, MemoryStorage};
use virtual_disk::{Disk, DiskState, Settings};

use crate::{
    Flag, Shared,
    support::{Host, spec, vhd_spec},
};

pub(crate) struct Operator {
    files: MemoryFiles,
    /// Where the image is now.
    path: Shared<String>,
    moves: Cell<u32>,
    is_vhd: bool,
    /// When it takes write access.
    writing: Writing,
    begun: Cell<u32>,
    ended: Rc<Cell<u32>>,
    /// The disk was closed by force while storage hung: the answers of what ran then never come.
    pub(crate) was_stuck: Flag,
}

impl Operator {
    pub(crate) fn new(host: &Host, is_vhd: bool, writing: Writing) -> Rc<Operator> {
        // One that never fits.
        host.files.put("/small", Arc::new(MemoryStorage::new(4096)));
        Rc::new(Operator {
            files: host.files.clone(),
            path: Rc::new(RefCell::new("/image0".to_owned())),
            moves: Cell::new(0),
            is_vhd,
            writing,
            begun: Cell::new(0),
            ended: Rc::default(),
            was_stuck: Rc::default(),
        })
    }

    fn spec_of(&self, path: &str) -> ChainSpec {
        let spec = if self.is_vhd { vhd_spec(path) } else { spec(path) };
        ChainSpec { writing: self.writing, ..spec }
    }

    /// Begins something; what does not fit the state is refused, which is as good.
    pub(crate) fn act(self: &Rc<Self>, host: &Host) {
        let choice = host.executor.random() % 40;
        if choice >= 37 {
            let _ = host.disk.cancel();
            return;
        }
        self.begun.set(self.begun.get() + 1);
        let operator = self.clone();
        host.begin(async move |disk| {
            let result = operator.operate(&disk, choice).await;
            operator.ended.set(operator.ended.get() + 1);
            // Whatever is refused has its reason in words.
            assert!(result.as_ref().map_err(|error| error.to_string()) != Err(String::new()), "{result:?}");
        });
    }

    async fn operate(&self, disk: &Disk, choice: u64) -> Result<()> {
        match choice {
            0 | 1 => disk.pause(Some(Duration::from_secs(1))).await.map(drop),
            2..=4 => disk.pause(None).await.map(drop),
            5 => disk.quiesce(Some(Duration::from_secs(1))).await.map(drop),
            6..=8 => disk.quiesce(None).await.map(drop),
            12..=15 => disk.resume(None).await.map(drop),
            16..=19 => self.resume_elsewhere(disk).await,
            20 => self.resume_wrongly(disk).await,
            21 => disk.grow(None).await.map(drop),
            9 => {
                let bytes = disk.status().geometry().map_or(0, |geometry| geometry.bytes());
                disk.grow(Some(bytes + (1 << 20))).await.map(drop)
            }
            10 => disk.close().await,
            11 => {
                let result = disk.force_close().await;
                let is_stuck = result.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut);
                self.was_stuck.set(self.was_stuck.get() || is_stuck);
                result
            }
            _ => self.bring_back(disk).await,
        }
    }

    /// What most operators want most of the time: that the disk runs.
    async fn bring_back(&self, disk: &Disk) -> Result<()> {
        let spec = self.spec_of(&self.path.borrow());
        match disk.status().state() {
            DiskState::Attached | DiskState::Closed => disk.open(spec, Settings::default()).await.map(drop),
            _ => disk.resume(Some(spec)).await.map(drop),
        }
    }

    /// The image gets another name while it is at rest.
    async fn resume_elsewhere(&self, disk: &Disk) -> Result<()> {
        if matches!(disk.status().state(), DiskState::Paused | DiskState::ResumeFailed | DiskState::Quiesced) {
            self.moves.set(self.moves.get() + 1);
            let path = format!("/image{}", self.moves.get());
            self.files.rename(&*self.path.borrow(), &path);
            self.path.replace(path);
        }
        let spec = self.spec_of(&self.path.borrow());
        disk.resume(Some(spec)).await.map(drop)
    }

    async fn resume_wrongly(&self, disk: &Disk) -> Result<()> {
        let result = disk.resume(Some(self.spec_of("/small"))).await;
        assert!(result.is_err(), "a small image is not this disk");
        result.map(drop)
    }

    /// Nothing that was begun goes on for ever.
    pub(crate) fn check_all_ended(&self) {
        assert_eq!(self.ended.get(), self.begun.get(), "somebody still waits for what he asked");
    }
}
