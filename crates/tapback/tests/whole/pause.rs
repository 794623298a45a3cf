//! A storage manager that pauses the disk of a busy guest by nodes, with a tapdisk that opens and closes files.

use std::{fs, path::Path};

use control_api::native::State;
use guest::DeviceOptions;

use crate::{
    host::{Disk, Whole},
    killed::Load,
};

async fn pause(whole: &Whole, disk: &Disk) {
    whole.store.write(&disk.node("pause"), b"").await.unwrap();
    whole.wait_for_node(&disk.node("pause-done"), true).await;
}

async fn unpause(whole: &Whole, disk: &Disk) {
    whole.store.remove(&disk.node("pause")).await.unwrap();
    whole.wait_for_node(&disk.node("pause-done"), false).await;
}

#[test]
fn images_of_a_busy_guest_are_replaced_while_its_disk_is_paused_by_nodes() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions { queues: 2, ..DeviceOptions::default() }).await;
        let mut load = Load::start(&whole, &device).await;
        let mut image = disk.spec.image.clone();
        for round in 0..3 {
            load.goes_on().await;
            pause(&whole, &disk).await;
            assert_eq!(whole.shown(&disk).state, State::Paused);
            let answered = load.answered();
            let next = format!("{}.{round}", disk.spec.image);
            let files = [&image, &next].map(|name| Path::new(name.strip_prefix("aio:").unwrap()));
            fs::copy(files[0], files[1]).unwrap();
            fs::remove_file(files[0]).unwrap();
            whole.store.write(&disk.node("params"), next.as_bytes()).await.unwrap();
            image = next;
            assert_eq!(load.answered(), answered, "its guest waits");
            unpause(&whole, &disk).await;
            let shown = whole.shown(&disk);
            assert_eq!((shown.state, shown.image.as_deref()), (State::Running, Some(image.as_str())));
        }
        load.goes_on().await;
        load.end().await;
    });
}

#[test]
fn the_next_tapdisk_of_a_paused_disk_is_paused_before_its_guest_has_it() {
    let whole = Whole::new();
    whole.run(async {
        let mut disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        pause(&whole, &disk).await;
        whole.kill(&disk);
        whole.wait_for(&disk, "5").await;
        device.left().await;
        whole.wait_for(&disk, "6").await;
        whole.run_script(&mut disk).await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        assert_eq!(whole.shown(&disk).state, State::Paused);
        assert!(whole.text(&disk.node("pause-done")).await.is_some(), "it was never taken back");
        unpause(&whole, &disk).await;
        let mut load = Load::start(&whole, &device).await;
        load.goes_on().await;
        load.end().await;
    });
}
