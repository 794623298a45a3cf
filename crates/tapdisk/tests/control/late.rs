//! A disk that was opened late takes the writer's lock with its first writer and gives it up with the last, as other
//! hosts see it.

use std::fs::File;

use control_api::{
    errno,
    native::{OpenImages, State, WriteAccess},
};
use export::nbd::client::Client as NbdClient;
use guest::{Front, FrontOptions};
use wire::blkif::Abi;

use crate::{
    host::{eventually, minor},
    hosted::{DEVICE, Hosted},
};

fn late() -> Hosted {
    Hosted::with(|open| OpenImages { late: true, request_timeout_seconds: Some(1), ..open })
}

fn front(hosted: &Hosted) -> Front {
    hosted.front(FrontOptions::default())
}

/// Takes the lock as another host would.
fn locked(hosted: &Hosted) -> Option<File> {
    let file = File::options().read(true).write(true).open(&hosted.image).unwrap();
    file.try_lock().ok().map(|()| file)
}

#[test]
fn a_ring_that_may_write_takes_the_lock_and_its_end_is_told_when_the_lock_is_free() {
    let hosted = late();
    assert!(locked(&hosted).is_some(), "nobody writes");
    assert_eq!(hosted.shown().write_access, WriteAccess::Later);
    let ring = front(&hosted);
    let asked = hosted.asking(DEVICE, &[&ring], Abi::X86_64);
    let connected = hosted.connect(asked).unwrap();
    assert!(!connected.geometry.read_only);
    assert!(locked(&hosted).is_none(), "a guest may write at any time");
    hosted.executor.block_on(ring.write(8, &[7; 512])).unwrap();
    assert_eq!(hosted.shown().write_access, WriteAccess::Held);
    let ended = hosted.disconnect(DEVICE, None);
    assert!(locked(&hosted).is_some(), "whoever is told of the end may tell others to write");
    assert_eq!((ended.connected, ended.not_durable), (true, None));
    assert_eq!(hosted.shown().write_access, WriteAccess::Later);
}

#[test]
fn a_ring_is_refused_while_another_host_writes_and_readers_are_served() {
    let hosted = late();
    let other = locked(&hosted).unwrap();
    let ring = front(&hosted);
    let asked = hosted.asking(DEVICE, &[&ring], Abi::X86_64);
    let error = hosted.connect(asked.clone()).unwrap_err();
    assert_eq!(errno(&error), 1, "{error}");
    assert!(error.to_string().contains("no write access") && error.to_string().contains("in use"), "{error}");
    assert_eq!(hosted.shown().rings, []);
    let reader = hosted.connect(control_api::native::ConnectRing { read_only: true, ..asked.clone() }).unwrap();
    assert!(reader.geometry.read_only);
    assert_eq!(hosted.executor.block_on(ring.read(0, 1)).unwrap(), [0; 512]);
    hosted.disconnect(DEVICE, None);
    drop(other);
    let again = front(&hosted);
    hosted.connect(hosted.asking(DEVICE, &[&again], Abi::X86_64)).unwrap();
}

#[test]
fn a_client_that_writes_is_refused_while_another_host_writes() {
    let hosted = late();
    let other = locked(&hosted).unwrap();
    let socket = hosted.host.run.nbd_socket(hosted.pid, minor(&hosted.minor));
    let mut client = NbdClient::connect_unix(&socket, "").unwrap();
    let mut bytes = [1; 512];
    client.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 512]);
    let error = client.write(0, &[9; 512]).unwrap_err();
    assert!(error.to_string().contains("another writes"), "{error}");
    drop(other);
    client.write(0, &[9; 512]).unwrap();
    assert!(locked(&hosted).is_none());
    drop(client);
    eventually("the last writer has gone", || locked(&hosted).is_some());
}

#[test]
fn a_late_disk_at_rest_wakes_with_the_lock_for_its_guest() {
    let hosted = late();
    let ring = front(&hosted);
    hosted.connect(hosted.asking(DEVICE, &[&ring], Abi::X86_64)).unwrap();
    for rest in ["pause", "unpause"] {
        hosted.tap_ctl(rest);
        assert_eq!(locked(&hosted).is_some(), rest == "pause");
    }
    assert_eq!(hosted.shown().state, State::Running);
    hosted.executor.block_on(ring.write(8, &[7; 512])).unwrap();
}
