//! Early signs that a guest goes on somewhere else: what it has asked is answered, and write access given up, before anybody
//! there needs it.
//!
//! ```text
//!   toolstack: control/shutdown = suspend --> guest: takes it away, asks its last --> stands still: @releaseDomain
//!                                                       |                                     |
//!                                                       +--> settled                          +--> settled, surely
//! ```
//!
//! They may mean something else, and a guest may be suspended in vain: one that asks again is served again. Nothing depends
//! on them but how long nobody is served.

use std::{cell::Cell, pin::pin, rc::Rc, time::Duration};

use futures_util::future::{Either, select};
use storage_io::Moment;
use wire::xenstore::Path;

use crate::{DeviceName, Disk, Host, LetGo, name::domain_directory, nodes};

/// Where a toolstack tells a guest what to do.
const WISH: &str = "control/shutdown";
/// That it shall stand still, so as to be saved or to go on somewhere else.
const SUSPEND: &[u8] = b"suspend";
/// So long after a guest has taken the wish note it may stand still at any moment.
const SOON: Duration = Duration::from_secs(30);

/// Settles the ring of a device whenever its guest is about to stand still.
pub(crate) async fn attend(host: Rc<Host>, name: DeviceName, served: Rc<Cell<Option<Disk>>>) {
    let node = domain_directory(name.domain).join(WISH).expect("a plain name");
    let (wish, released) = (host.store.watch(&node), host.store.watch(&released()));
    // The first event tells what there is, and not that anything has happened.
    let (mut is_news, mut means_another, mut soon): (bool, bool, Option<Moment>) = (false, false, None);
    loop {
        let is_wish = matches!(select(pin!(wish.next()), pin!(released.next())).await, Either::Left(_));
        drop((wish.take(), released.take()));
        if is_wish {
            // What cannot be read says nothing.
            let value = nodes::read(&host.store, &node).await.ok().flatten().unwrap_or_default();
            let is_empty = value.is_empty();
            // A word that was there too shortly to be read may have been the one.
            soon = (is_empty && is_news && !means_another).then(|| host.executor.now() + SOON);
            (is_news, means_another) = (true, !is_empty && value != SUSPEND);
        }
        if soon.is_some_and(|end| host.executor.now() < end) {
            settle(&host, &name, served.get()).await;
        }
    }
}

async fn settle(host: &Host, name: &DeviceName, served: Option<Disk>) {
    let Some(disk) = served else { return };
    match host.worker.settle(disk, name.clone()).await {
        Ok(LetGo { not_durable: None, .. }) => host.log.note(name, "settled: its guest is about to stand still"),
        Ok(LetGo { not_durable: Some(reason), .. }) => {
            host.log.note(name, &format!("settled, and not all is durable: {reason}"));
        }
        Err(error) => host.log.note(name, &format!("not settled: {error}")),
    }
}

fn released() -> Path {
    Path::new("@releaseDomain").expect("a special name")
}
