//! Somebody lets go of a guest's disks, or brings them to rest, whether or not its domain has gone.

use std::{fs::File, process::Output};

use control_api::native::{Command, Faults};
use guest::{Device, DeviceOptions, toolstack::DiskSpec};

use crate::host::{Disk, LONG, Whole};

/// Devices that are used.
async fn begin(whole: &Whole, disks: &[Disk]) -> Vec<Device> {
    let mut devices = Vec::new();
    for disk in disks {
        let device = whole.device(disk, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        devices.push(device);
    }
    devices
}

/// Whether another host may write to the image.
fn is_free(disk: &Disk) -> bool {
    let path = disk.spec.image.rsplit(':').next().unwrap();
    File::options().read(true).write(true).open(path).unwrap().try_lock().is_ok()
}

fn said(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8(output.stdout.clone()).unwrap())
}

#[test]
fn a_guest_is_released_before_its_domain_has_gone_and_once_more_after_that() {
    let whole = Whole::new();
    whole.run(async {
        let disks = [whole.attach("xvda").await, whole.attach("xvdb").await];
        for device in &begin(&whole, &disks).await {
            device.write(8, &[7; 4096]).await.unwrap();
        }
        let release = ["release", "--domain", "7", "--force", "--deadline", "60"];
        let (status, text) = said(&whole.oxtap(&release));
        assert!(status == 0 && text.matches("released after").count() == 2, "{status}: {text}");
        for disk in &disks {
            assert!(is_free(disk), "others may write from now on");
            whole.wait_for_node(&disk.node("shutdown-done"), true).await;
            assert_eq!(whole.text(&disk.node("shutdown-done")).await.as_deref(), Some("1"));
        }
        let nothing = (0, "domain 7 has no devices here\n".to_owned());
        assert_eq!(said(&whole.oxtap(&release)), nothing);
        for disk in &disks {
            assert!(whole.toolstack.remove_disk(&disk.spec, true, LONG).await.unwrap());
        }
        whole.until_all_is_forgotten().await;
        assert_eq!((said(&whole.oxtap(&release)), whole.used_pages()), (nothing, 0));
    });
}

#[test]
fn a_device_that_hangs_is_named_with_its_step_and_stops_no_other() {
    let whole = Whole::new();
    whole.run(async {
        let hanging = |spec: DiskSpec| DiskSpec { image: format!("fault:write=hang:{}", spec.image), ..spec };
        let disks = [whole.attach_with("xvda", hanging).await, whole.attach("xvdb").await];
        let devices = begin(&whole, &disks).await;
        devices[1].write(8, &[7; 4096]).await.unwrap();
        let device = devices[0].clone();
        let writing = whole.executor.spawn(async move { device.write(8, &[9; 4096]).await });
        while whole.shown(&disks[0]).in_flight == 0 {
            whole.text(&disks[0].node("state")).await;
        }
        let [stuck, other] = &disks;
        let (status, text) = said(&whole.oxtap(&["release", "--domain", "7", "--deadline", "1"]));
        assert!(
            status == 1 && text.contains(&format!("{}:{} device 51728: released", other.pid, other.minor)),
            "{text}"
        );
        assert!(text.contains(&format!("{}:{} device 51712: FAILED", stuck.pid, stuck.minor)), "{text}");
        assert!(text.contains("last step: disconnect_ring") && text.contains("requests to end"), "{text}");
        assert!(is_free(other) && !is_free(stuck));
        whole.wait_for_node(&other.node("shutdown-done"), true).await;
        // By force its pages are given back; but nobody can say that nothing is written any more.
        let (status, text) = said(&whole.oxtap(&["release", "--domain", "7", "--force", "--deadline", "1"]));
        assert!(status == 1 && text.contains("not all is durable"), "{text}");
        whole.wait_for_node(&stuck.error_node(), true).await;
        assert_eq!((whole.used_pages(), is_free(stuck)), (0, false), "storage still holds a write");
        assert_eq!(whole.text(&stuck.node("shutdown-done")).await, None);
        drop(writing);
        // Storage writes it, long after the guest was let go of.
        whole.client(stuck).ask(Command::Faults(Faults { minor: stuck.minor, rules: String::new() })).unwrap();
        whole.wait_for_node(&stuck.node("shutdown-done"), true).await;
        assert!(is_free(stuck));
        assert!(whole.toolstack.remove_disk(&stuck.spec, true, LONG).await.unwrap());
    });
}

#[test]
fn all_disks_of_a_guest_come_to_rest_and_go_on() {
    let whole = Whole::new();
    whole.run(async {
        let disks = [whole.attach("xvda").await, whole.attach("xvdb").await];
        let devices = begin(&whole, &disks).await;
        let (status, text) = said(&whole.oxtap(&["quiesce", "--domain", "7", "--deadline", "60"]));
        assert_eq!(status, 0, "{text}");
        assert!(disks.iter().all(is_free), "{text}");
        let device = devices[0].clone();
        let writing = whole.executor.spawn(async move { device.write(8, &[9; 4096]).await });
        // The migration has failed.
        let (status, text) = said(&whole.oxtap(&["resume", "--domain", "7"]));
        assert!(status == 0 && !disks.iter().any(is_free), "{text}");
        writing.await.unwrap();
        assert_eq!(devices[0].read(8, 8).await.unwrap(), [9; 4096]);
        assert_eq!(whole.text(&disks[0].node("state")).await.as_deref(), Some("4"), "its guest has noticed nothing");
    });
}
