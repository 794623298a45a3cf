//! Freed room on its way back: out of the tables already, but somebody may still read the old place. It is handed out
//! again only behind a fence on all queues; one fence serves all room that waits.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use image_format::{Format, Freed};

use crate::chain::Chain;

/// Room that waits for the next fence.
#[derive(Default)]
pub(crate) struct Reclaim {
    waiting: RefCell<Vec<Freed>>,
    runs: Cell<bool>,
}

impl<F: Format + 'static> Chain<F> {
    /// Gives room back when nobody can be using it any more. It has left the tables, and the owner map, before.
    pub(crate) fn reclaim(self: &Rc<Self>, freed: Freed) {
        self.reclaim.waiting.borrow_mut().push(freed);
        if !self.reclaim.runs.replace(true) {
            let chain = self.clone();
            self.start(async move { chain.reclaim_all().await });
        }
    }

    async fn reclaim_all(&self) {
        loop {
            let batch = std::mem::take(&mut *self.reclaim.waiting.borrow_mut());
            if batch.is_empty() {
                self.reclaim.runs.set(false);
                return;
            }
            self.claiming.fence().await;
            for freed in batch {
                // Room that cannot be emptied is not handed out again by the format; nobody waits to hear of it.
                let _ = self.leaf().release(&self.executor, freed).await;
            }
        }
    }
}
