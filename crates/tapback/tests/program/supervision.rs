//! What `--on-death` says is done about tapdisks that go, by the program itself.

use std::{fs, path::Path, time::Duration};

use block_core::ErrorKind;
use guest::{
    Device, DeviceOptions,
    toolstack::DiskSpec,
    workload::{Pace, Workload},
};
use storage_io::Task;

use crate::host::{Hosted, LONG, OUR_SCRIPT, disk};

const REQUESTS: u64 = 200;

/// The process that has the disk, as its nodes say.
async fn pid(host: &Hosted, spec: &DiskSpec) -> u32 {
    host.text(spec, "pid").await.unwrap().parse().unwrap()
}

/// A guest that asks and asks, and waits for its answers as kernels do.
async fn load(host: &Hosted, spec: &DiskSpec) -> (Device, Workload, Task<block_core::Result<()>>) {
    let options = DeviceOptions { waits_for_answers: true, ..DeviceOptions::default() };
    let device = host.device_of(&host.guest, spec, options).await;
    let workload = Workload::new(7, &device.connected().await.unwrap());
    let load = {
        let (workload, device) = (workload.clone(), device.clone());
        host.executor.spawn(async move { workload.run(&device, u64::MAX, Pace::default()).await })
    };
    (device, workload, load)
}

#[test]
fn a_guest_under_load_is_answered_by_errors_and_nothing_is_left_of_its_disk() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let image = host.image("xvda");
        let spec = disk("xvda", &format!("aio:{}", image.display()), OUR_SCRIPT);
        host.attach(&spec, &[]).await;
        let (device, workload, load) = load(&host, &spec).await;
        workload.until(REQUESTS).await;
        let process = host.process(pid(&host, &spec).await);
        process.kill().unwrap();
        assert_eq!(load.await.unwrap_err().kind(), ErrorKind::Io);
        assert!(host.error(&spec).await.contains("has gone"));
        device.left().await;
        assert!(host.toolstack.remove_disk(&spec, false, LONG).await.unwrap());
        while !host.run.minors().unwrap().is_empty() {
            host.executor.sleep(Duration::from_millis(5)).await;
        }
        process.release();
    });
    host.end();
    // The sockets of a killed process go with the next, or by hand.
    let doctor = host.command("oxtap").args(["doctor", "--repair"]).output().unwrap();
    assert!(doctor.status.success(), "{doctor:?}");
    host.place_is_clean();
}

#[test]
fn with_restart_a_guest_under_load_does_not_notice() {
    let host = Hosted::new(&["--auto", "--on-death", "restart"]);
    host.run(async {
        let image = host.image("xvda");
        let spec = disk("xvda", &format!("aio:{}", image.display()), OUR_SCRIPT);
        host.attach(&spec, &[]).await;
        let (device, workload, load) = load(&host, &spec).await;
        workload.until(REQUESTS).await;
        let before = pid(&host, &spec).await;
        let process = host.process(before);
        process.kill().unwrap();
        while pid(&host, &spec).await == before {}
        workload.until(workload.done().requests() + REQUESTS).await;
        workload.stop();
        load.await.unwrap();
        workload.verify(&device, Pace::default()).await.unwrap();
        host.until_no_error(&spec).await;
        assert_eq!(device.account().connections, 1);
        device.shutdown(LONG).await;
        assert!(host.toolstack.remove_disk(&spec, false, LONG).await.unwrap());
        host.until_no_tapdisk_is_left().await;
        process.release();
    });
    host.end();
    host.place_is_clean();
}

/// A guest that asks for nothing, whose tapdisk is killed.
async fn bereaved(host: &Hosted) -> (DiskSpec, Device) {
    let image = host.image("xvda");
    let spec = disk("xvda", &format!("aio:{}", image.display()), OUR_SCRIPT);
    host.attach(&spec, &[]).await;
    let device = host.device(&spec).await;
    device.connected().await.unwrap();
    let process = host.process(pid(host, &spec).await);
    process.kill().unwrap();
    process.release();
    (spec, device)
}

/// What somebody has written into a file, all of it.
async fn told(host: &Hosted, path: &Path) -> String {
    loop {
        match fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text,
            _ => host.executor.sleep(Duration::from_millis(5)).await,
        }
    }
}

#[test]
fn a_command_takes_care_of_a_device_and_its_guest_is_told_nothing() {
    let host = Hosted::without_backend();
    let (written, done) = (host.place.scratch().join("written"), host.place.scratch().join("done"));
    let command = format!(
        "run:echo $OXTAP_DOMAIN $OXTAP_DEVICE $OXTAP_MINOR $XENBUS_PATH > {}; until [ -e {} ]; do sleep 0.01; done",
        written.display(),
        done.display()
    );
    host.start(&["--auto", "--on-death", &command]);
    host.run(async {
        let (spec, device) = bereaved(&host).await;
        let words = format!("7 51712 0 {}\n", spec.backend_path().unwrap());
        assert_eq!(told(&host, &written).await, words);
        // Whoever asks sees what has happened; the guest sees nothing, before and after the end of the command.
        assert!(host.error(&spec).await.contains("has gone"));
        assert_eq!(host.text(&spec, "state").await.as_deref(), Some("4"));
        fs::write(&done, "").unwrap();
        // The toolstack is the next who says anything.
        assert!(host.toolstack.remove_disk(&spec, true, LONG).await.unwrap());
        drop(device);
    });
    assert_eq!(host.end().code(), Some(0));
}

#[test]
fn the_guest_is_told_if_the_command_fails() {
    let host = Hosted::new(&["--auto", "--on-death", "run:exit 3"]);
    host.run(async {
        let (spec, device) = bereaved(&host).await;
        device.left().await;
        host.wait_for(&spec, "6").await;
        assert!(host.toolstack.remove_disk(&spec, false, LONG).await.unwrap());
    });
    assert_eq!(host.end().code(), Some(0));
}
