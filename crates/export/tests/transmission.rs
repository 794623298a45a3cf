//! Requests and replies, byte for byte and through our own client.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{io::Write, sync::Arc, time::Duration};

use storage_io::{MemoryStorage, TracedOperation, TracedStorage};
use support::{Options, Served};
use wire::nbd::{Command, CommandFlags, StateFlags, TransmissionFlags};

fn errno(result: block_core::Result<()>) -> i32 {
    result.unwrap_err().os_error().expect("the server's error has a number")
}

#[test]
fn a_request_and_its_simple_reply_are_what_the_protocol_says() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.0.write_all(b"\x25\x60\x95\x13\0\0\0\x01cookie01\0\0\0\0\0\0\0\x05\0\0\0\x03abc").unwrap();
    assert_eq!(raw.bytes(16), b"\x67\x44\x66\x98\0\0\0\0cookie01");
    raw.0.write_all(b"\x25\x60\x95\x13\0\0\0\0cookie02\0\0\0\0\0\0\0\x04\0\0\0\x05").unwrap();
    assert_eq!(raw.bytes(21), b"\x67\x44\x66\x98\0\0\0\0cookie02\0abc\0");
    raw.0.write_all(b"\x25\x60\x95\x13\0\0\0\0cookie03\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x05").unwrap();
    assert_eq!(raw.bytes(16), b"\x67\x44\x66\x98\0\0\0\x16cookie03");
}

#[test]
fn structured_replies_are_what_the_protocol_says() {
    let served = Served::new();
    let mut raw = support::Raw(served.stream());
    raw.bytes(18);
    raw.0.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x08\0\0\0\0").unwrap();
    assert_eq!(raw.bytes(20), b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0");
    raw.0.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
    assert_eq!(raw.bytes(10), b"\0\0\0\0\0\x40\0\0\x0d\xed", "4 MiB and the flags, with DF");
    raw.0.write_all(b"\x25\x60\x95\x13\0\0\0\0cookie01\0\0\0\0\0\0\0\x04\0\0\0\x02").unwrap();
    let data = raw.bytes(30);
    assert_eq!(data, b"\x66\x8e\x33\xef\0\x01\0\x01cookie01\0\0\0\x0a\0\0\0\0\0\0\0\x04\0\0");
    raw.0.write_all(b"\x25\x60\x95\x13\0\0\0\0cookie02\0\0\0\0\0\0\0\x04\0\0\0\0").unwrap();
    assert_eq!(raw.bytes(20), b"\x66\x8e\x33\xef\0\x01\0\0cookie02\0\0\0\0");
    raw.0.write_all(b"\x25\x60\x95\x13\0\0\0\0cookie03\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x05").unwrap();
    let error = raw.bytes(20);
    assert_eq!(&error[..16], b"\x66\x8e\x33\xef\0\x01\x80\x01cookie03");
    let words = raw.bytes(usize::from(error[19]));
    assert_eq!(&words[..6], [0, 0, 0, 22, 0, u8::try_from(words.len() - 6).unwrap()]);
}

#[test]
fn any_alignment_is_read_and_written() {
    let served = Served::new();
    let mut client = served.client();
    let bytes: Vec<u8> = (0..9001_u32).map(|index| u8::try_from(index % 251).unwrap()).collect();
    client.write(511, &bytes).unwrap();
    let mut all = vec![0xff; 16384];
    client.read(0, &mut all).unwrap();
    assert!(all[..511].iter().all(|&byte| byte == 0) && all[511 + 9001..].iter().all(|&byte| byte == 0));
    assert_eq!(all[511..511 + 9001], bytes);
    let mut some = [0; 3];
    client.read(513, &mut some).unwrap();
    assert_eq!(some, [2, 3, 4]);
}

#[test]
fn long_requests_arrive_whole() {
    let served = Served::with(Options { bytes: 64 << 20, ..Options::default() });
    let mut client = served.client();
    let bytes: Vec<u8> = (0..32_u32 << 20).map(|index| u8::try_from(index % 253).unwrap()).collect();
    client.write(12345, &bytes).unwrap();
    let mut read = vec![0; bytes.len()];
    client.read(12345, &mut read).unwrap();
    assert!(read == bytes);
}

#[test]
fn what_an_export_offers_is_told() {
    let served = Served::new();
    let client = served.client();
    let flags = client.flags();
    for flag in [
        TransmissionFlags::HAS_FLAGS,
        TransmissionFlags::SEND_FLUSH,
        TransmissionFlags::SEND_FUA,
        TransmissionFlags::SEND_TRIM,
        TransmissionFlags::SEND_WRITE_ZEROES,
        TransmissionFlags::SEND_FAST_ZERO,
        TransmissionFlags::SEND_DF,
        TransmissionFlags::SEND_CACHE,
        TransmissionFlags::CAN_MULTI_CONN,
    ] {
        assert!(flags.contains(flag), "{flag:?} is not in {flags:?}");
    }
    assert!(!flags.contains(TransmissionFlags::READ_ONLY) && client.has_structured_replies());
    let sizes = client.block_sizes().unwrap();
    assert_eq!((sizes.minimum, sizes.preferred, sizes.maximum), (1, 4096, 32 << 20));
    assert_eq!(client.size(), 4 << 20);
}

#[test]
fn every_command_is_served() {
    let served = Served::new();
    let mut client = served.client();
    client.write_with(CommandFlags::FUA, 0, &[7; 8192]).unwrap();
    client.write_zeroes(CommandFlags::NO_HOLE | CommandFlags::FUA, 512, 100).unwrap();
    let mut bytes = [1; 1024];
    client.read(0, &mut bytes).unwrap();
    assert!(bytes[..512].iter().all(|&byte| byte == 7) && bytes[612..].iter().all(|&byte| byte == 7));
    assert!(bytes[512..612].iter().all(|&byte| byte == 0));
    client.flush().unwrap();
    client.trim(4096, 4096).unwrap();
    client.command(Command::Cache, CommandFlags::EMPTY, 0, 4096).unwrap();
    let extents = client.block_status(CommandFlags::EMPTY, 0, 1 << 20).unwrap();
    let sum: u32 = extents.iter().map(|extent| extent.length).sum();
    assert!(sum <= 1 << 20 && extents.iter().all(|extent| extent.length > 0));
    let one = client.block_status(CommandFlags::REQ_ONE, 100, 1 << 20).unwrap();
    assert_eq!(one.len(), 1);
    assert!(StateFlags::KNOWN.contains(one[0].state));
    client.disconnect().unwrap();
    served.await_connections(0);
}

#[test]
fn what_cannot_be_done_is_answered_with_the_protocols_errors() {
    let served = Served::new();
    let mut client = served.client();
    let end = client.size();
    assert_eq!(errno(client.read(end, &mut [0])), 22);
    assert_eq!(errno(client.write(end - 1, &[0; 2])), 28);
    assert_eq!(errno(client.write_zeroes(CommandFlags::EMPTY, end, 512)), 28);
    assert_eq!(errno(client.trim(end, 512)), 22);
    assert_eq!(errno(client.trim(u64::MAX, 512)), 22);
    assert_eq!(errno(client.block_status(CommandFlags::EMPTY, end, 1).map(drop)), 22);
    assert_eq!(errno(client.block_status(CommandFlags::EMPTY, 0, 0).map(drop)), 22);
    assert_eq!(errno(client.command(Command::Flush, CommandFlags::NO_HOLE, 0, 0)), 22);
    assert_eq!(errno(client.command(Command::Unknown(77), CommandFlags::EMPTY, 0, 0)), 22);
    assert_eq!(errno(client.write(0, &vec![1; (32 << 20) + 1])), 22);
    assert_eq!(errno(client.read(0, &mut vec![1; (32 << 20) + 1])), 22);
    client.write(end - 1, &[9]).expect("after all these refusals both sides still agree where requests begin");
}

#[test]
fn a_read_only_disk_says_so_and_refuses_changes() {
    let served = Served::with(Options { access: storage_io::Access::Read, ..Options::default() });
    let mut client = served.client();
    assert!(client.flags().contains(TransmissionFlags::READ_ONLY));
    assert!(!client.flags().contains(TransmissionFlags::SEND_TRIM));
    assert_eq!(errno(client.write(0, &[1; 4096])), 1);
    assert_eq!(errno(client.trim(0, 4096)), 1);
    client.read(0, &mut [0; 4096]).unwrap();
    client.flush().unwrap();
}

#[test]
fn many_requests_at_once_are_each_answered_once() {
    let served = Served::new();
    let mut raw = served.raw();
    let mut requests = Vec::new();
    for cookie in 0..1000 {
        let header = wire::nbd::RequestHeader {
            flags: CommandFlags::EMPTY,
            command: Command::Read,
            cookie,
            offset: cookie * 512,
            length: 512,
        };
        requests.extend_from_slice(&header.encode());
    }
    let mut sender = raw.0.try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(&requests).unwrap());
    let mut seen = vec![false; 1000];
    for _ in 0..1000 {
        let (cookie, error) = raw.reply();
        assert_eq!(error, 0);
        raw.bytes(512);
        assert!(!std::mem::replace(&mut seen[usize::try_from(cookie).unwrap()], true), "{cookie} was answered twice");
    }
    sending.join().unwrap();
}

#[test]
fn requests_sent_while_the_disk_is_paused_are_answered_after_it_resumed() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.write(1, 0, &[5; 4096]);
    assert_eq!(raw.reply(), (1, 0));
    served.pause();
    raw.read(2, 0, 4096);
    raw.write(3, 8192, &[6; 512]);
    raw.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(std::io::Read::read(&mut raw.0, &mut [0]).is_err(), "nothing is answered while the disk is paused");
    raw.0.set_read_timeout(Some(support::HANG)).unwrap();
    let newcomer = std::thread::scope(|scope| {
        let client = scope.spawn(|| served.client());
        client.join().unwrap()
    });
    assert_eq!(newcomer.size(), 4 << 20, "a client may also come while the disk is paused");
    served.resume();
    let mut cookies: Vec<_> = (0..2)
        .map(|_| {
            let (cookie, error) = raw.reply();
            assert_eq!(error, 0);
            if cookie == 2 {
                assert_eq!(raw.bytes(4096), [5; 4096]);
            }
            cookie
        })
        .collect();
    cookies.sort_unstable();
    assert_eq!(cookies, [2, 3]);
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_replies() {
    let served = Served::new();
    let mut raw = served.raw();
    // More than any socket buffer holds.
    (0..10).for_each(|cookie| raw.read(cookie, 0, 4 << 20));
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..10 {
        assert_eq!(raw.reply().1, 0);
        raw.bytes(4 << 20);
    }
    assert!(raw.has_ended());
    served.await_connections(0);
}

#[test]
fn a_closed_disk_answers_that_it_shuts_down_and_a_closed_server_ends_its_clients() {
    let served = Served::new();
    let mut client = served.client();
    let mut raw = served.raw();
    served.run(|world| async move { world.disk.close().await }).unwrap();
    assert_eq!(errno(client.read(0, &mut [0; 512])), 108);
    served.run(|world| async move { world.server.close().await });
    assert!(raw.has_ended());
    assert!(!served.socket().exists());
    assert_eq!(served.connections(), 0);
}

#[test]
fn one_connection_reads_what_another_wrote() {
    let served = Served::new();
    let mut clients: Vec<_> = (0..16).map(|_| served.client()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.write(index as u64 * 4096, &[u8::try_from(index + 1).unwrap(); 4096]).unwrap();
    }
    let mut bytes = vec![0; 16 * 4096];
    clients[7].read(0, &mut bytes).unwrap();
    assert!(
        bytes.chunks(4096).enumerate().all(|(index, part)| part.iter().all(|&byte| usize::from(byte) == index + 1))
    );
}

#[test]
fn a_client_that_goes_away_while_the_disk_is_paused_is_noticed() {
    let served = Served::new();
    let (idle, mut busy) = (served.raw(), served.raw());
    served.pause();
    busy.write(1, 0, &[7; 512]);
    drop((idle, busy));
    served.await_connections(1);
    served.resume();
    served.await_connections(0);
    let mut bytes = [0; 512];
    served.client().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 512], "what was sent before is carried out");
}

#[test]
fn a_trim_is_durable_before_it_is_answered_if_the_client_says_so() {
    let storage = Arc::new(TracedStorage::new(Arc::new(MemoryStorage::new(4 << 20))));
    let served = Served::of_storage(storage.clone(), Options::default());
    let mut client = served.client();
    let mut trimmed = |flags| {
        client.command(Command::Trim, flags, 1 << 20, 64 << 10).unwrap();
        let operations = storage.take();
        let is_discard = |operation: &TracedOperation| matches!(operation, TracedOperation::Discard(_));
        let discarded = operations.iter().position(is_discard).expect("it is trimmed");
        operations[discarded..].contains(&TracedOperation::Sync)
    };
    assert!(!trimmed(CommandFlags::EMPTY));
    assert!(trimmed(CommandFlags::FUA));
}
