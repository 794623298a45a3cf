//! A request may arrive in any pieces.

use std::{io::Write, thread, time::Duration};

use crate::host::{Host, ask, minor};
use control_api::{
    OpenRequest,
    protocol::{Body, Message, Request, Text},
};

#[test]
fn a_request_in_two_writes_is_answered() {
    let host = Host::new();
    let pid = host.spawn();
    let bytes = Message::new(0, Body::Pid).encode();
    for cut in [1, 2, 3, 8, 300, 543] {
        let mut stream = host.connect(pid);
        stream.write_all(&bytes[..cut]).unwrap();
        // Long enough to be read on its own.
        thread::sleep(Duration::from_millis(20));
        let answer = ask(&mut stream, &bytes[cut..]);
        let expected = Message::new(0, Body::PidResponse(pid.cast_signed())).encode();
        assert_eq!(answer, expected, "cut at {cut}");
    }
}

#[test]
fn what_follows_a_message_may_come_later() {
    let host = Host::new();
    let (pid, minors) = host.attached(1);
    let parameters = OpenRequest::new("aio:/nonexistent").unwrap().parameters;
    let mut request = Request::new(Message::new(minor(&minors[0]).number(), Body::Open(parameters)));
    request.log_path = Some(Text::new("/log").unwrap());
    let bytes = request.encode();
    let mut stream = host.connect(pid);
    stream.write_all(&bytes[..600]).unwrap();
    thread::sleep(Duration::from_millis(20));
    let answer = ask(&mut stream, &bytes[600..]);
    // A log of changed blocks is not offered: the path was waited for, read, and refused.
    assert_eq!((answer.len(), answer[0], answer[8]), (544, 1, 38));
}

#[test]
fn a_client_that_ends_its_side_after_the_request_gets_its_answer() {
    let host = Host::new();
    let pid = host.spawn();
    let mut stream = host.connect(pid);
    stream.write_all(&Message::new(0, Body::List).encode()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(ask(&mut stream, &[]).len(), 544);
}
