//! Memory that many clients can take together. A program of its own: it looks at all memory of the process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::thread;

use export::nbd::Limits;
use support::{Options, Served};

const REQUEST: u32 = 4 << 20;
const CONNECTIONS: usize = 8;
const REQUESTS: u64 = 16;

/// The most memory that this process has used so far, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

/// Without a common bound this takes 512 MiB.
#[test]
fn many_clients_that_want_much_share_a_budget_and_all_are_served_in_the_end() {
    let limits = Limits { queues: 3, own_bytes: 64 << 10, shared_bytes: 32 << 20, ..Limits::default() };
    let served = Served::with(Options { limits, ..Options::default() });
    let mut other = served.client();
    let before = peak();
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| served.raw()).collect();
    for client in &mut clients {
        (0..REQUESTS).for_each(|cookie| client.read(cookie, 0, REQUEST));
    }
    for round in 0..200_u64 {
        other.write(round * 512, &[3; 512]).unwrap();
        other.read(round * 512, &mut [0; 512]).unwrap();
    }
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                for _ in 0..REQUESTS {
                    assert_eq!(client.reply().1, 0);
                    client.skip(REQUEST as usize);
                }
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let grown = peak() - before;
    assert!(grown < 100 << 20, "{} MiB for a budget of 32", grown >> 20);
}
