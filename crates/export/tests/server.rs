//! Listening and handing over: how clients reach a server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
};

use block_core::ErrorKind;
use export::nbd::{Style, client::Client};
use support::{HANG, Raw, Served};
use wire::nbd::{Command, CommandFlags};

#[test]
fn a_server_can_be_reached_over_tcp() {
    let served = Served::new();
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let address = served.run(move |world| async move { world.server.listen_tcp(anywhere) }).unwrap();
    let mut over_tcp = Client::connect_tcp(address, "").unwrap();
    over_tcp.write(0, &[8; 1 << 20]).unwrap();
    let mut bytes = vec![0; 1 << 20];
    served.client().read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 8));
    let taken = served.run(move |world| async move { world.server.listen_tcp(address) }).unwrap_err();
    assert!(taken.to_string().starts_with(&format!("{address}: ")), "{taken}");
}

#[test]
fn a_socket_that_a_dead_server_left_is_replaced() {
    let served = Served::new();
    let stale = served.directory().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let path = stale.clone();
    served.run(move |world| async move { world.server.listen_unix(&path) }).unwrap();
    Client::connect_unix(&stale, "").unwrap();
    served.run(|world| async move { world.server.stop_listening() });
    assert!(!stale.exists() && !served.socket().exists());
}

#[test]
fn a_socket_where_somebody_listens_and_a_file_are_left_alone() {
    let served = Served::new();
    let (live, file) = (served.directory().join("live"), served.directory().join("file"));
    let _listener = UnixListener::bind(&live).unwrap();
    fs::write(&file, "precious").unwrap();
    for path in [live, file.clone()] {
        let tried = path.clone();
        let error = served.run(move |world| async move { world.server.listen_unix(&tried) }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
}

#[test]
fn a_socket_that_has_become_somebody_elses_is_not_removed() {
    let served = Served::new();
    fs::remove_file(served.socket()).unwrap();
    let _theirs = UnixListener::bind(served.socket()).unwrap();
    served.run(|world| async move { world.server.stop_listening() });
    assert!(served.socket().exists());
}

#[test]
fn a_connection_that_was_handed_over_begins_again_after_a_disconnect() {
    let served = Served::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    served.run(move |world| async move { world.server.adopt(OwnedFd::from(theirs), Style::New) });
    for round in 1..=3 {
        let mut client = Client::over(ours.try_clone().unwrap(), "", Some(HANG)).unwrap();
        client.write(0, &[round; 512]).unwrap();
        client.disconnect().unwrap();
    }
    let mut bytes = [0; 512];
    Client::over(ours, "", Some(HANG)).unwrap().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [3; 512]);
    served.await_connections(0);
}

#[test]
fn a_connection_that_was_accepted_ends_with_a_disconnect() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.read(1, 0, 4096);
    raw.send(Command::Disconnect, CommandFlags::EMPTY, 2, 0, 0);
    assert_eq!(raw.reply(), (1, 0), "what was asked before is answered");
    raw.bytes(4096);
    assert!(raw.has_ended());
}

#[test]
fn oldstyle_is_a_greeting_and_then_requests() {
    let served = Served::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(HANG)).unwrap();
    served.run(move |world| async move { world.server.adopt(OwnedFd::from(theirs), Style::Old) });
    let mut raw = Raw(ours);
    for _ in 0..2 {
        let greeting = raw.bytes(152);
        assert_eq!(&greeting[..28], b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0\0\0\0\x40\0\0\0\0\0\0");
        assert!(greeting[28..].iter().all(|&byte| byte == 0));
        raw.write(7, 512, &[1; 512]);
        assert_eq!(raw.reply(), (7, 0));
        raw.send(Command::Disconnect, CommandFlags::EMPTY, 8, 0, 0);
    }
    let mut client = Client::over(raw.0, "", Some(HANG)).unwrap();
    assert!(!client.has_structured_replies());
    client.read(0, &mut [0; 512]).unwrap();
}

#[test]
fn a_descriptor_that_is_no_socket_is_dropped() {
    let served = Served::new();
    let file = tempfile::tempfile().unwrap();
    served.run(move |world| async move { world.server.adopt(OwnedFd::from(file), Style::New) });
    served.await_connections(0);
    served.client();
}
