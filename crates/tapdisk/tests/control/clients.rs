//! NBD clients while the disk behind them is paused, resumed and closed.

use std::{thread, time::Duration};

use control_api::OpenRequest;
use export::nbd::client::Client;

use crate::host::{Host, aio, minor};

#[test]
fn a_request_that_comes_during_a_pause_is_answered_after_it() {
    let host = Host::new();
    let (pid, minors) = host.attached(1);
    let (control, slot) = (host.client(pid), minor(&minors[0]));
    control.open(slot, &OpenRequest::new(aio(&host.raw_image("a.img", 1 << 20))).unwrap()).unwrap();
    let mut nbd = Client::connect_unix(&host.run.nbd_socket(pid, slot), "any").unwrap();
    nbd.write(1000, b"before").unwrap();
    control.pause(slot).unwrap();

    let writing = thread::spawn(move || {
        nbd.write(2000, b"during").unwrap();
        nbd
    });
    // A new client is let in as well, and waits.
    let socket = host.run.nbd_socket(pid, slot);
    let reading = thread::spawn(move || {
        let mut nbd = Client::connect_unix(&socket, "").unwrap();
        let mut bytes = [0; 6];
        nbd.read(1000, &mut bytes).unwrap();
        bytes
    });
    thread::sleep(Duration::from_millis(200));
    assert!(!writing.is_finished() && !reading.is_finished());
    control.resume(slot, &OpenRequest::default()).unwrap();
    assert_eq!(&reading.join().unwrap(), b"before");
    let mut nbd = writing.join().unwrap();
    let mut bytes = [0; 6];
    nbd.read(2000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"during");

    let statistics = String::from_utf8(control.stats(Some(slot)).unwrap()).unwrap();
    assert!(statistics.contains("\"secs\": [ 2, 2 ]"), "{statistics}");
}

#[test]
fn closing_a_disk_ends_its_clients() {
    let host = Host::new();
    let (pid, minors) = host.attached(1);
    let (control, slot) = (host.client(pid), minor(&minors[0]));
    let image = host.raw_image("a.img", 1 << 20);
    control.open(slot, &OpenRequest::new(aio(&image)).unwrap()).unwrap();
    let mut nbd = Client::connect_unix(&host.run.nbd_socket(pid, slot), "").unwrap();
    nbd.write(0, &[7; 512]).unwrap();
    control.close(slot).unwrap();
    assert!(nbd.write(0, &[8; 512]).is_err());
    assert_eq!(std::fs::read(image).unwrap()[..512], [7; 512]);
}

#[test]
fn a_read_only_disk_is_told_to_be_so_and_refuses_writes() {
    let host = Host::new();
    let image = aio(&host.raw_image("a.img", 1 << 20));
    host.ok(&["create", "-a", &image, "-R"]);
    let pid = host.run.tapdisks().unwrap()[0];
    let mut nbd = Client::connect_unix(&host.run.nbd_socket(pid, minor("0")), "").unwrap();
    assert_eq!(nbd.write(0, &[1; 512]).unwrap_err().os_error(), Some(1));
    nbd.read(0, &mut [0; 512]).unwrap();
}
