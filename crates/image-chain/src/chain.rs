//! The chain as home sees it: the images and what is remembered about them. Only home has it; its work is in
//! [`crate::jobs`].

use std::{cell::RefCell, rc::Rc, sync::Arc};

use block_core::{FileOffset, GuestRange, Result};
use image_format::{Format, Lookup, Mapping};
use slab::Slab;
use storage_io::Executor;

use crate::{
    claiming::Claiming,
    jobs::{Jobs, Reclaim},
    owners::OwnerWriter,
    piece::{Owner, Piece},
    registry::Registry,
    sealing::Sealer,
    shared::Shared,
    statistics::Recorder,
    walk::walk,
};

/// The images of a disk, base first, and home's books.
pub(crate) struct Chain<F> {
    pub(crate) executor: Executor,
    pub(crate) layers: Vec<F>,
    pub(crate) shared: Arc<Shared>,
    /// Counts what jobs do.
    pub(crate) recorder: Recorder,
    pub(crate) claiming: Rc<Claiming>,
    pub(crate) reclaim: Reclaim,
    pub(crate) jobs: Rc<Jobs>,
    /// If the leaf is encrypted.
    pub(crate) sealer: Option<Sealer>,
    owners: RefCell<OwnerWriter>,
    /// Walks that wait for tables, and whether what they have seen of the leaf has changed since.
    walks: RefCell<Slab<Walking>>,
}

struct Walking {
    range: GuestRange,
    is_stale: bool,
}

impl<F: Format + 'static> Chain<F> {
    pub(crate) fn new(executor: &Executor, layers: Vec<F>, shared: Arc<Shared>, owners: OwnerWriter) -> Rc<Chain<F>> {
        Rc::new(Chain {
            executor: executor.clone(),
            layers,
            recorder: shared.statistics.add_queue(),
            sealer: shared.sealer(),
            shared,
            claiming: Rc::default(),
            reclaim: Reclaim::default(),
            jobs: Rc::default(),
            owners: RefCell::new(owners),
            walks: RefCell::default(),
        })
    }

    /// The writable image.
    pub(crate) fn leaf(&self) -> &F {
        self.layers.last().expect("a chain has at least one image")
    }

    /// Home's own running writes, on which claims count as on those of a queue.
    pub(crate) fn registry(&self) -> &Rc<Registry> {
        self.claiming.registry()
    }

    /// Who owns `range`: from the owner map, or by walking, which fills the map.
    pub(crate) async fn resolve(&self, range: GuestRange) -> Result<Vec<Piece>> {
        if !self.owners.borrow().has_room() {
            return walk(&self.executor, &self.layers, range).await;
        }
        let mut pieces = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            let known = self.shared.owners.lookup(rest);
            if let Some(piece) = known {
                pieces.push(piece);
                rest = rest.split_at(piece.range.length()).1;
                continue;
            }
            let unit = self.shared.owners.unit_at(rest.start());
            let found = self.learn(unit).await?;
            pieces.extend(found.iter().filter_map(|piece| piece.clipped(rest)));
            rest = rest.split_at(unit.end() - rest.start()).1;
        }
        Ok(pieces)
    }

    /// Walks a unit of the owner map and remembers what was found, unless it has changed meanwhile.
    async fn learn(&self, unit: GuestRange) -> Result<Vec<Piece>> {
        let walking = self.walks.borrow_mut().insert(Walking { range: unit, is_stale: false });
        let pieces = walk(&self.executor, &self.layers, unit).await;
        let walked = self.walks.borrow_mut().remove(walking);
        let pieces = pieces?;
        if !walked.is_stale {
            let runs = pieces.iter().map(|piece| (piece.range.start(), Some(piece.owner)));
            self.owners.borrow_mut().store(unit, runs);
        }
        Ok(pieces)
    }

    /// `range` is in the leaf at `offset`, and the tables say so.
    pub(crate) fn is_now_at(&self, range: GuestRange, offset: FileOffset) {
        self.outdate_walks(range);
        self.owners.borrow_mut().overlay(range, Owner::Data { layer: self.shared.leaf(), offset });
        let mut rest = range;
        while !rest.is_empty() {
            let unit = self.shared.owners.unit_at(rest.start());
            self.note_leaf(unit);
            rest = rest.split_at(unit.end() - rest.start()).1;
        }
    }

    /// Remembers what the leaf has of a unit that is unknown so far, so that its next write may be done in place by its
    /// queue. No table is loaded and no parent is asked: what the leaf does not have stays unknown.
    fn note_leaf(&self, unit: GuestRange) {
        let mut owners = self.owners.borrow_mut();
        if !owners.has_room() || owners.knows(unit.start()) {
            return;
        }
        let mut runs = Vec::new();
        let mut rest = unit;
        while !rest.is_empty() {
            let Lookup::Found(extent) = self.leaf().map(rest) else { return };
            let owner = match extent.mapping {
                Mapping::Data { offset } => Some(Owner::Data { layer: self.shared.leaf(), offset }),
                Mapping::Zero => Some(Owner::Hole),
                Mapping::Parent => None,
            };
            runs.push((extent.range.start(), owner));
            rest = rest.split_at(extent.range.length()).1;
        }
        owners.store(unit, runs);
    }

    /// What was known about `range` is no longer so.
    pub(crate) fn forget(&self, range: GuestRange) {
        self.outdate_walks(range);
        self.owners.borrow_mut().forget(range);
    }

    fn outdate_walks(&self, range: GuestRange) {
        let mut walks = self.walks.borrow_mut();
        walks.iter_mut().filter(|(_, walking)| walking.range.overlaps(range)).for_each(|(_, walking)| {
            walking.is_stale = true;
        });
    }
}
