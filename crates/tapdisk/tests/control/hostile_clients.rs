//! Whoever says nothing, or nonsense, holds up nobody else.

use std::{io::Write, os::unix::net::UnixStream};

use crate::host::{Host, ask};
use control_api::protocol::{Body, Message};

fn serves(host: &Host, pid: u32) {
    assert_eq!(host.client(pid).pid().unwrap(), pid);
    assert_eq!(host.client(pid).list().unwrap(), []);
}

#[test]
fn silent_connections_do_not_block_others() {
    let host = Host::new();
    let pid = host.spawn();
    let silent: Vec<UnixStream> = (0..12).map(|_| host.connect(pid)).collect();
    serves(&host, pid);
    // Nor do more of them than a tapdisk has room for.
    let more: Vec<UnixStream> = (0..300).map(|_| host.connect(pid)).collect();
    serves(&host, pid);
    drop((silent, more));
    serves(&host, pid);
}

#[test]
fn a_request_that_never_ends_is_cut_off() {
    let host = Host::new();
    let pid = host.spawn();
    let mut slow = host.connect(pid);
    let answer = ask(&mut slow, &[3, 0, 0]);
    assert_eq!(answer, b"", "it is closed without an answer");
    serves(&host, pid);
}

#[test]
fn a_client_that_goes_away_is_forgotten() {
    let host = Host::new();
    let pid = host.spawn();
    for length in [0, 1, 100, 543, 544] {
        host.connect(pid).write_all(&Message::new(0, Body::List).encode()[..length]).unwrap();
    }
    serves(&host, pid);
}

#[test]
fn nonsense_is_refused() {
    let host = Host::new();
    let pid = host.spawn();
    let refusal = |bytes: &[u8]| {
        let answer = ask(&mut host.connect(pid), bytes);
        assert_eq!(answer.len(), 544);
        (answer[0], u16::from_le_bytes([answer[2], answer[3]]), answer[8])
    };
    let mut unknown = [0; 544];
    (unknown[0], unknown[2]) = (99, 7);
    assert_eq!(refusal(&unknown), (1, 0, 22), "an unknown type");
    assert_eq!(refusal(&[0xff; 544]), (1, 0, 22));
    assert_eq!(refusal(&Message::new(7, Body::Exit).encode()), (1, 0, 22), "a type that is not served");
    assert_eq!(refusal(&Message::new(7, Body::PidResponse(1)).encode()), (1, 0, 22), "an answer");
    let mut unterminated = [b'x'; 544];
    unterminated[..8].copy_from_slice(&[5, 0, 7, 0, 0, 0, 0, 0]);
    assert_eq!(refusal(&unterminated), (1, 7, 22), "a path without an end");
    assert_eq!(refusal(&Message::new(9, Body::Stats).encode()), (1, 9, 19), "a minor that is not attached");
    serves(&host, pid);
}
