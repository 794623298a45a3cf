//! Whatever a client of the native protocol says, it is told what is wrong, and harms nobody else.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
};

use control_api::native::{Answer, AnswerBody, JobList, REQUEST_BYTES_MAX, ResultOf, Version};
use rustix::{
    net::{SendFlags, send},
    process::Signal,
};
use test_support::ProcessGuard;

use crate::host::{Host, LONG};

/// A connection that has been greeted.
fn connect(host: &Host, pid: u32) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(host.run.native_socket(pid)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut stream = BufReader::new(stream);
    let mut hello = String::new();
    stream.read_line(&mut hello).unwrap();
    let version = Version::CURRENT.number();
    let expected = format!("{{\"oxtap\":{{\"version\":{version},\"program\":\"tapdisk 0.1.0\",\"pid\":{pid}}}}}\n");
    assert_eq!(hello, expected);
    stream
}

fn say(stream: &mut BufReader<UnixStream>, bytes: &[u8]) {
    stream.get_mut().write_all(bytes).unwrap();
}

fn answer(stream: &mut BufReader<UnixStream>) -> Answer {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// Which request was refused, with which number.
fn refusal(stream: &mut BufReader<UnixStream>) -> (Option<u64>, i32) {
    match answer(stream) {
        Answer { id, body: AnswerBody::Error(failure) } => (id, failure.errno),
        other => panic!("{other:?}"),
    }
}

fn is_served(stream: &mut BufReader<UnixStream>) {
    say(stream, b"{\"id\":77,\"command\":{\"list\":{}}}\n");
    let Answer { id, body } = answer(stream);
    assert!(id == Some(77) && matches!(body, AnswerBody::Result(_)));
}

#[test]
fn nonsense_is_refused_and_the_connection_goes_on() {
    let host = Host::new();
    let pid = host.spawn();
    let mut stream = connect(&host, pid);
    let deep = [&b"{\"id\":1,\"command\":"[..], &[b'['; 30_000], b"\n"].concat();
    for (line, id) in [
        (&b"hello\n"[..], None),
        (b"\xff\xfe\x00\n", None),
        (b"{\"id\":1}\n", Some(1)),
        (b"{\"id\":2,\"command\":{\"explode\":{}}}\n", Some(2)),
        (b"{\"id\":3,\"command\":{\"list\":{\"colour\":1}}}\n", Some(3)),
        (b"{\"id\":4,\"command\":{\"list\":{}},\"urgent\":true}\n", Some(4)),
        (b"{\"id\":\"5\",\"command\":{\"list\":{}}}\n", None),
        (b"{\"id\":6,\"command\":{\"stats\":{\"minor\":\"\xff\"}}}\n", Some(6)),
        (b"{\"id\":7,\"command\":{\"pause\":{\"minor\":1e99}}}\n", Some(7)),
        (b"{\"id\":8,\"command\":{\"open\":{\"minor\":0,\"image\":\"a\\u0000b\"}}}\n", Some(8)),
        (b"[]\n", None),
        (&deep, None),
    ] {
        say(&mut stream, line);
        let (refused, errno) = refusal(&mut stream);
        let words = String::from_utf8_lossy(line);
        assert_eq!(refused, id, "{words}");
        assert!([19, 22].contains(&errno), "{words}: {errno}");
    }
    is_served(&mut stream);
}

#[test]
fn a_line_is_a_line_however_it_is_cut() {
    let host = Host::new();
    let pid = host.spawn();
    let mut stream = connect(&host, pid);
    for byte in b"\n  \r\n{\"id\":1,\"command\":{\"list\":{}}}\r\n" {
        say(&mut stream, &[*byte]);
    }
    assert_eq!(answer(&mut stream).id, Some(1));
    say(&mut stream, b"{\"id\":2,\"command\":{\"list\":{}}}\n{\"id\":3,\"command\":{\"jobs\":{}}}\n{\"id\"");
    assert_eq!([answer(&mut stream).id, answer(&mut stream).id], [Some(2), Some(3)]);
    say(&mut stream, b":4,\"command\":{\"list\":{}}}\n");
    assert_eq!(answer(&mut stream).id, Some(4));
}

#[test]
fn a_line_without_end_is_cut_off() {
    let host = Host::new();
    let pid = host.spawn();
    let mut stream = connect(&host, pid);
    // Longer than any buffer between us: it may be cut off while we still speak.
    let _ = stream.get_mut().write_all(&vec![b'x'; REQUEST_BYTES_MAX + 1]);
    assert_eq!(refusal(&mut stream), (None, 90));
    assert!(stream.read(&mut [0]).is_ok_and(|length| length == 0) || stream.read(&mut [0]).is_err());
    is_served(&mut connect(&host, pid));
}

#[test]
fn who_has_said_all_still_gets_the_answers() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let mut stream = connect(&host, pid);
    say(&mut stream, b"{\"id\":1,\"command\":{\"close\":{\"minor\":0}}}\n{\"id\":2,\"comm");
    stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.lines().any(|line| line == "{\"id\":1,\"result\":{\"close\":{}}}"), "{rest}");
}

#[test]
fn silent_connections_make_room_for_others() {
    let host = Host::new();
    let pid = host.spawn();
    let silent: Vec<_> = (0..100).map(|_| connect(&host, pid)).collect();
    is_served(&mut connect(&host, pid));
    let mut last = silent.into_iter().last().unwrap();
    is_served(&mut last);
}

#[test]
fn who_fetches_no_answers_is_not_listened_to() {
    let host = Host::new();
    let pid = host.spawn();
    let stream = connect(&host, pid);
    stream.get_ref().set_nonblocking(true).unwrap();
    let questions = b"{\"id\":1,\"command\":{\"stats\":{}}}\n".repeat(1000);
    // Their answers are some ten megabytes, far more than sockets hold.
    const BYTES: usize = 2 << 20;
    let mut sent = 0;
    while sent < BYTES {
        match stream.get_ref().write(&questions) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock && takes_more(stream.get_ref()) => {}
            Err(_) => break,
        }
    }
    assert!(sent < BYTES, "it takes whatever comes");
    is_served(&mut connect(&host, pid));
}

/// Whether more is taken within a time in which thousands of questions are answered.
fn takes_more(stream: &UnixStream) -> bool {
    let mut poll = [rustix::event::PollFd::new(stream, rustix::event::PollFlags::OUT)];
    let patience = rustix::event::Timespec { tv_sec: 2, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&patience)).unwrap() == 1
}

#[test]
fn requests_of_one_connection_are_bounded_and_told_apart() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let mut stream = connect(&host, pid);
    // All in one piece: none of these has ended when the next is taken.
    let request = |id: u64| format!("{{\"id\":{id},\"command\":{{\"pause\":{{\"minor\":0}}}}}}\n");
    let lines: String = (1..=40).chain([1]).map(request).collect();
    say(&mut stream, lines.as_bytes());
    let mut ended = std::collections::BTreeMap::new();
    while ended.len() < 41 {
        let Answer { id, body } = answer(&mut stream);
        match body {
            AnswerBody::Progress(_) | AnswerBody::Event(_) => {}
            AnswerBody::Result(_) => assert_eq!(ended.insert(id, 0), None),
            AnswerBody::Error(failure) => assert_eq!(ended.insert(id, failure.errno), None),
        }
    }
    let count = |errno| ended.values().filter(|ended| **ended == errno).count();
    assert_eq!((count(0), count(16), ended[&None]), (32, 8, 22));
    assert!((33..=40).all(|id| ended[&Some(id)] == 16));
    is_served(&mut stream);
}

#[test]
fn mangled_requests_are_answered_and_harm_nobody() {
    let host = Host::new();
    let pid = host.spawn();
    let golden = concat!(
        include_str!("../../../control-api/src/native/golden/v1.jsonl"),
        include_str!("../../../control-api/src/native/golden/v2.jsonl"),
    );
    let requests: Vec<&str> = golden.lines().filter(|line| line.contains("\"command\":{\"")).collect();
    assert!(requests.len() > 10);
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut below = |end: usize| {
        // As in xorshift64; every run is the same.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % u64::try_from(end).unwrap()).unwrap()
    };
    for _ in 0..test_support::cycles(20, 1000) {
        let stream = connect(&host, pid);
        let mut writing = stream.get_ref().try_clone().unwrap();
        let lines: Vec<u8> = (0..200)
            .flat_map(|_| {
                let mut line = requests[below(requests.len())].as_bytes().to_vec();
                for _ in 0..below(4) {
                    let index = below(line.len());
                    match below(3) {
                        0 => line[index] = u8::try_from(below(256)).unwrap(),
                        1 => drop(line.drain(index..)),
                        _ => line.insert(index, b"{}[]\",:0\n\xff"[below(10)]),
                    }
                    line.push(b' ');
                }
                line.push(b'\n');
                line
            })
            .collect();
        let is_blank = |line: &[u8]| line.trim_ascii().is_empty();
        let asked = lines.split(|byte| *byte == b'\n').filter(|line| !is_blank(line)).count();
        let sending = std::thread::spawn(move || {
            writing.write_all(&lines).unwrap();
            writing.shutdown(std::net::Shutdown::Write).unwrap();
        });
        // Every line that comes back is an answer, also to nonsense; only blank lines have none.
        let answers = stream.lines().map(|line| serde_json::from_str::<Answer>(&line.unwrap()).unwrap());
        let answers: Vec<Answer> = answers.collect();
        sending.join().unwrap();
        assert!(answers.len() >= asked, "{} answers to {asked} lines", answers.len());
    }
    is_served(&mut connect(&host, pid));
}

#[test]
fn who_never_stops_talking_does_not_hold_up_others() {
    let host = Host::new();
    let pid = host.spawn();
    for flood in ["\n", "{\"id\":1,\"command\":{\"list\":{}}}\n"] {
        let talking = connect(&host, pid);
        let socket = talking.get_ref().try_clone().unwrap();
        let (mut writing, mut reading) = (socket.try_clone().unwrap(), socket.try_clone().unwrap());
        let bytes = flood.repeat((1 << 20) / flood.len());
        // Both end when the socket is shut down.
        let sending = std::thread::spawn(move || while writing.write_all(bytes.as_bytes()).is_ok() {});
        let fetching = std::thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
        for _ in 0..20 {
            is_served(&mut connect(&host, pid));
            assert_eq!(host.client(pid).list().unwrap(), []);
        }
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        sending.join().unwrap();
        let _ = fetching.join().unwrap();
    }
}

/// The endless flood above shows it only to a machine that is quick enough to keep the socket full. Here all is said
/// before anything is heard.
#[test]
fn others_have_their_turn_while_a_long_speech_is_taken() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let tapdisk = ProcessGuard::new(pid).unwrap();
    // As much as a socket holds, and many times what is read of it in one turn.
    let speech = [&[b'\n'; 128 << 10][..], b"{\"id\":1,\"command\":{\"jobs\":{}}}\n"].concat();
    for round in 0..8 {
        let (mut talking, mut other) = (connect(&host, pid), connect(&host, pid));
        tapdisk.stop().unwrap();
        let talk = || assert_eq!(send(talking.get_ref(), &speech, SendFlags::DONTWAIT), Ok(speech.len()));
        let ask = |other: &mut _| say(other, b"{\"id\":2,\"command\":{\"pause\":{\"minor\":0}}}\n");
        // Whoever speaks first.
        if round % 2 == 0 {
            talk();
            ask(&mut other);
        } else {
            ask(&mut other);
            talk();
        }
        tapdisk.signal(Signal::CONT).unwrap();
        match answer(&mut talking).body {
            AnswerBody::Result(result) => {
                let ResultOf::Jobs(JobList { jobs }) = *result else { panic!("{result:?}") };
                assert_eq!(jobs.len(), round + 1, "the other had to wait until all was said");
            }
            body => panic!("{body:?}"),
        }
    }
    tapdisk.release();
}

#[test]
fn many_requests_in_one_piece_hold_bounded_memory() {
    let host = Host::new();
    let (pid, _) = host.attached(64);
    let held = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
    };
    let mut deaf = connect(&host, pid);
    let before = held();
    say(&mut deaf, &b"{\"id\":1,\"command\":{\"stats\":{}}}\n".repeat(120));
    for _ in 0..3 {
        is_served(&mut connect(&host, pid));
    }
    let grown = held() - before;
    assert!(grown < 3 << 10, "{grown} KiB");
}
