//! One ring on the thread of its queue, from its mapping to its end. It is told what to do by message.
//!
//! ```text
//!   home --connect--> mapped, bound, served --Leave--> takes no more, drains, unbinds, unmaps --> gone
//!                           |   ^                           |
//!              Hold, Settle +---+ GoOn                      |
//!                           |                               |
//!                           +------ home has hung up -------+--> let go of at once ------------> gone
//! ```
//!
//! That it has gone is told by the end of what it tells: however it ends, also with its thread.

use std::{pin::pin, sync::Arc};

use block_core::Result;
use export::blkif::{ConnectedRing, DeviceAccount, RingChange, RingChanges, RingOptions};
use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, select},
};
use storage_io::{Receiver, ReplyTo, Sender};
use virtual_disk::DiskQueue;
use xen::{Grants, SharedMemory};

use super::{Platform, shown::ShownRing};

/// What home wants of a ring.
pub(super) enum Order {
    /// It takes no more requests for now; home is told when those that it has taken are answered.
    Hold(ReplyTo<()>),
    /// It does nothing more until its guest asks; home is told when all that it has taken is answered.
    Settle(ReplyTo<()>),
    /// It takes requests again.
    GoOn,
    /// Its guest's data is neither read nor written any more, and no request is taken.
    Cut,
    /// It ends: it takes no more requests and answers those that it has taken.
    Leave,
}

/// What a queue is given to serve a ring.
pub(super) struct RingSeed {
    /// Dropped last: home takes that for the end.
    pub(super) changes: Sender<RingChange>,
    pub(super) options: RingOptions,
    /// What outlives this process of the ring.
    pub(super) record: Option<SharedMemory>,
    /// What it shares with the other rings of its device.
    pub(super) device: Arc<DeviceAccount>,
    pub(super) platform: Platform,
    pub(super) grants: Arc<dyn Grants>,
    /// Home hangs up when the ring is to be let go of at once.
    pub(super) orders: Receiver<Order>,
    /// Where to say that it is served.
    pub(super) up: ReplyTo<Result<ShownRing>>,
}

impl RingSeed {
    /// The whole life of the ring.
    pub(super) fn serve(self, queue: DiskQueue) -> LocalBoxFuture<'static, ()> {
        self.run(queue).boxed_local()
    }

    async fn run(self, queue: DiskQueue) {
        let RingSeed { changes, options, record, device, platform, grants, mut orders, up } = self;
        let pages = u16::try_from(options.pages.len()).expect("a ring has 16 pages at most");
        let connected = platform
            .channels()
            .and_then(|channels| ConnectedRing::connect_one_of(&device, &queue, grants, &*channels, &options, record));
        let ring = match connected {
            Ok(ring) => ring,
            Err(error) => {
                // Without a home, nobody waits for it.
                let _ = up.answer(Err(error));
                return;
            }
        };
        let (status, repeated) = (ring.status(), ring.repeated());
        let _ = up.answer(Ok(ShownRing { queue: queue.number(), pages, repeated, status }));
        let _telling = queue.executor().spawn(tell(ring.changes(), changes.clone()));
        let leaves = loop {
            match orders.recv().await {
                Some(Order::Hold(held)) => answer_after(&queue, ring.hold(), held),
                Some(Order::Settle(settled)) => answer_after(&queue, ring.settle(), settled),
                Some(Order::GoOn) => ring.go_on(),
                Some(Order::Cut) => ring.cut(),
                Some(Order::Leave) => break true,
                None => break false,
            }
        };
        if leaves {
            let hung_up = async { while orders.recv().await.is_some() {} };
            select(pin!(ring.disconnect()), pin!(hung_up)).await;
        }
    }
}

fn answer_after(queue: &DiskQueue, end: impl Future<Output = ()> + 'static, to: ReplyTo<()>) {
    let telling = async move {
        end.await;
        let _ = to.answer(());
    };
    queue.executor().spawn(telling).detach();
}

async fn tell(mut changes: RingChanges, to: Sender<RingChange>) {
    while let Some(change) = changes.next().await {
        if to.send(change).is_err() {
            return;
        }
    }
}
