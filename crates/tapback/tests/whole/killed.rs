//! A backend that is killed while guests are at work, and the one that comes after it.

use std::{cell::Cell, pin::pin, rc::Rc};

use block_core::Result;
use control_api::native::{Command, Grow};
use futures_util::future::{Either, select};
use guest::{
    Device, DeviceOptions,
    workload::{Pace, Workload},
};
use storage_io::Task;
use xenbus::Outcome;

use crate::host::{DISK_BYTES, Disk, LONG, Whole};

/// Requests that are answered before something is done to the backend, and after it.
const REQUESTS: u64 = 300;
/// Backends, one after the other.
const BACKENDS: u64 = 5;

/// A guest that never rests: whatever it reads is checked.
pub(crate) struct Load {
    workload: Workload,
    must_end: Rc<Cell<bool>>,
    task: Task<Result<()>>,
}

impl Load {
    pub(crate) async fn start(whole: &Whole, device: &Device) -> Load {
        let workload = Workload::new(7, &device.connected().await.unwrap());
        let must_end = Rc::<Cell<bool>>::default();
        let (work, device, stop) = (workload.clone(), device.clone(), must_end.clone());
        let task = whole.executor.spawn(async move {
            while !stop.get() {
                work.run(&device, REQUESTS, Pace::default()).await?;
            }
            work.verify(&device, Pace::default()).await.map(drop)
        });
        Load { workload, must_end, task }
    }

    /// Requests that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.workload.done().requests()
    }

    /// So many more requests are answered.
    pub(crate) async fn goes_on(&mut self) {
        let more = self.workload.done().requests() + REQUESTS;
        match select(pin!(self.workload.until(more)), &mut self.task).await {
            Either::Left(_) => {}
            Either::Right((ended, _)) => panic!("{ended:?}"),
        }
    }

    pub(crate) async fn end(self) {
        self.must_end.set(true);
        self.task.await.unwrap();
    }
}

fn grow(whole: &Whole, disk: &Disk, times: u64) {
    let bytes = Some(times * DISK_BYTES);
    whole.client(disk).ask(Command::Grow(Grow { minor: disk.minor, bytes })).unwrap();
}

#[test]
fn backends_that_are_killed_under_load_stop_no_io_and_are_followed_by_others() {
    let whole = Whole::without_backend();
    whole.start_backend_process();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions { queues: 2, ..DeviceOptions::default() }).await;
        let mut load = Load::start(&whole, &device).await;
        let state = whole.store.watch(&disk.node("state"));
        for times in 2..2 + BACKENDS {
            load.goes_on().await;
            whole.kill_backend_process();
            drop(state.take());
            load.goes_on().await;
            assert_eq!(state.take(), [""; 0], "there is nobody who could have written anything");
            whole.start_backend_process();
            load.goes_on().await;
            // Whoever tells the guest of this has taken up its ring.
            let before = device.disk().unwrap();
            grow(&whole, &disk, times);
            assert_eq!(device.changed_from(before).await.unwrap().sectors, times * DISK_BYTES / 512);
        }
        load.end().await;
        assert_eq!((device.account().connections, device.account().in_flight), (1, 0), "it noticed nothing");
        assert_eq!(device.shutdown(LONG).await, Outcome::AtItsStart);
        assert!(whole.toolstack.remove_disk(&disk.spec, false, LONG).await.unwrap(), "an orderly end, in time");
        assert_eq!((whole.used_pages(), whole.text(&disk.node("state")).await), (0, None));
    });
}

#[test]
fn a_disk_that_has_grown_while_there_was_no_backend_is_larger_once_there_is_one() {
    let whole = Whole::without_backend();
    whole.start_backend_process();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        let before = device.connected().await.unwrap();
        whole.kill_backend_process();
        grow(&whole, &disk, 2);
        whole.start_backend_process();
        assert_eq!(device.changed_from(before).await.unwrap().sectors, 2 * before.sectors);
        assert_eq!(device.account().connections, 1);
    });
}
