//! The chain as home sees it: the images and what is remembered about them. Only home has it; its work is in
//! [`crate::jobs`].

use std::{cell::RefCell, rc::Rc, sync::Arc};

use block_core::{FileOffset, GuestRange, Result};
use image_format::Format;
use slab::Slab;
use storage_io::Executor;

use crate::{
    claiming::Claiming,
    jobs::{Jobs, Reclaim},
    owners::OwnerWriter,
    piece::{Owner, Piece},
    registry::Registry,
    shared::Shared,
    walk::walk,
};

/// The images of a disk, base first, and home's books.
pub(crate) struct Chain<F> {
    pub(crate) executor: Executor,
    pub(crate) layers: Vec<F>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) claiming: Rc<Claiming>,
    pub(crate) reclaim: Reclaim,
    pub(crate) jobs: Rc<Jobs>,
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
            self.owners.borrow_mut().store(unit, &pieces);
        }
        Ok(pieces)
    }

    /// Fills the owner map where it does not know `range` yet, so that the next write may be done in place by its queue.
    /// A failure is not told: whoever needs the answer asks again.
    pub(crate) async fn learn_what_is_unknown(&self, range: GuestRange) {
        if !self.owners.borrow().has_room() {
            return;
        }
        let mut rest = range;
        while !rest.is_empty() {
            let unit = self.shared.owners.unit_at(rest.start());
            let known = self.owners.borrow().knows(unit.start());
            let being_learned = self.walks.borrow().iter().any(|(_, walking)| walking.range == unit);
            if !known && !being_learned && self.learn(unit).await.is_err() {
                return;
            }
            rest = rest.split_at(unit.end() - rest.start()).1;
        }
    }

    /// `range` was committed: it is in the leaf at `offset`.
    pub(crate) fn is_now_at(&self, range: GuestRange, offset: FileOffset) {
        self.outdate_walks(range);
        self.owners.borrow_mut().overlay(range, Owner::Data { layer: self.shared.leaf(), offset });
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
