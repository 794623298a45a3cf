//! Connections that are handed over by descriptor are served like others.

use std::{
    io::{IoSlice, Read},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
};

use crate::host::{Host, LONG, aio, eventually};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Hands one end of a new connection over, and gives the other.
fn hand_over(socket: &Path, words: &str) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let door = UnixStream::connect(socket).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [theirs.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(&door, &[IoSlice::new(words.as_bytes())], &mut ancillary, SendFlags::empty()).unwrap();
    ours.set_read_timeout(Some(LONG)).unwrap();
    ours
}

fn greeting(connection: &mut UnixStream) -> [u8; 16] {
    let mut bytes = [0; 16];
    connection.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn connections_are_greeted_in_the_style_of_their_socket() {
    let host = Host::new();
    let (pid, minors) = host.attached(1);
    let minor = crate::host::minor(&minors[0]);
    let image = aio(&host.raw_image("a.img", 8 << 20));
    host.ok(&["open", "-p", &pid.to_string(), "-m", "0", "-a", &image]);

    let mut old = hand_over(&host.run.nbd_server_socket(pid, minor), "mirror");
    assert_eq!(&greeting(&mut old), b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53");
    let mut size = [0; 8];
    old.read_exact(&mut size).unwrap();
    assert_eq!(u64::from_be_bytes(size), 8 << 20);

    let mut new = hand_over(&host.run.nbd_server_new_socket(pid, minor), "mirror");
    assert_eq!(&greeting(&mut new), b"NBDMAGICIHAVEOPT");
    for socket in [host.run.nbd_socket(pid, minor), host.run.nbd_old_socket(pid, minor)] {
        assert_eq!(&greeting(&mut UnixStream::connect(socket).unwrap()), b"NBDMAGICIHAVEOPT");
    }
}

#[test]
fn sockets_are_there_from_open_to_close() {
    let host = Host::new();
    let (pid, minors) = host.attached(1);
    let (client, minor) = (host.client(pid), crate::host::minor(&minors[0]));
    let open = control_api::OpenRequest::new(aio(&host.raw_image("a.img", 1 << 20))).unwrap();
    let sockets = || {
        let names = crate::host::names(host.run.path()).into_iter();
        names.filter(|name| name.starts_with("nbd") && name.ends_with(".0")).collect::<Vec<_>>()
    };
    let all = ["nbd-old", "nbd", "nbdserver-new", "nbdserver"].map(|name| format!("{name}{pid}.0"));
    assert_eq!(sockets(), [] as [&str; 0]);
    client.open(minor, &open).unwrap();
    assert_eq!(sockets(), all);
    client.pause(minor).unwrap();
    assert_eq!(sockets(), all);
    client.close(minor).unwrap();
    assert_eq!(sockets(), [] as [&str; 0]);
}

#[test]
fn named_descriptors_are_kept_up_to_a_number() {
    let host = Host::new();
    let pid = host.spawn();
    let socket = host.run.nbd_client_socket(pid);
    let mut first = hand_over(&socket, "one");
    // One of the same name takes its place: the old one is closed.
    let _second = hand_over(&socket, "one");
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    let kept: Vec<UnixStream> = (0..9).map(|number| hand_over(&socket, &format!("n{number}"))).collect();
    let mut refused = hand_over(&socket, "one too many");
    assert_eq!(refused.read(&mut [0]).unwrap(), 0);
    drop(kept);
    eventually("it still serves", || host.client(pid).pid().is_ok());
}

#[test]
fn whoever_hands_over_nothing_holds_up_nobody() {
    let host = Host::new();
    let pid = host.spawn();
    let socket = host.run.nbd_client_socket(pid);
    let _silent: Vec<UnixStream> = (0..5).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let mut first = hand_over(&socket, "one");
    let _second = hand_over(&socket, "one");
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
}
