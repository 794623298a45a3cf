//! One tapdisk that serves more guests' devices than it takes connections.

use control_api::{
    errno,
    native::{Answer, AnswerBody, Client, Command, ConnectRing, Grow, ResultOf, RingEvent, RingQueue},
};
use guest::{FrontOptions, FrontRing};
use wire::blkif::Abi;
use xen::hosted::GuestChannel;

use crate::{
    host::eventually,
    hosted::{DISK_BYTES, DOMAIN, Hosted},
};

/// More than there may be connections of other kinds.
const DEVICES: u32 = 100;

/// The ring of a guest that asks for nothing.
struct Quiet {
    ring: FrontRing,
    port: GuestChannel,
}

fn quiet(hosted: &Hosted) -> Quiet {
    let backend = FrontOptions::default().backend;
    let ring = FrontRing::new(&hosted.guest, backend, Abi::X86_64, 0).unwrap();
    Quiet { ring, port: hosted.guest.allocate_unbound(&hosted.executor, backend).unwrap() }
}

fn asking(hosted: &Hosted, device: u32, quiet: &Quiet) -> Command {
    let queues = vec![RingQueue { pages: vec![quiet.ring.grants()[0].0], port: quiet.port.port().0 }];
    Command::ConnectRing(ConnectRing { queues, ..hosted.asking(device, &[], Abi::X86_64) })
}

/// Each asks on a connection of its own, and waits.
fn all_ask(hosted: &Hosted, commands: impl Iterator<Item = Command>) -> Vec<Client> {
    let ask = |command| {
        let mut client = hosted.native();
        client.begin(command).unwrap();
        client
    };
    commands.map(ask).collect()
}

fn result(client: &mut Client) -> ResultOf {
    loop {
        match client.next_answer().unwrap().body {
            AnswerBody::Result(result) => return *result,
            AnswerBody::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn bytes(client: &mut Client) -> u64 {
    match client.next_answer().unwrap() {
        Answer { body: AnswerBody::Event(RingEvent::Resized { geometry }), .. } => geometry.bytes,
        other => panic!("{other:?}"),
    }
}

fn watching(hosted: &Hosted, device: u32) -> Command {
    Command::WatchRing { minor: hosted.number(), domain: DOMAIN.0, device }
}

#[test]
fn whoever_watches_a_hundred_devices_keeps_all_connections_whoever_else_comes() {
    let hosted = Hosted::new();
    let rings: Vec<Quiet> = (0..DEVICES).map(|_| quiet(&hosted)).collect();
    let connecting = rings.iter().zip(0..).map(|(quiet, device)| asking(&hosted, device, quiet));
    for mut client in all_ask(&hosted, connecting) {
        assert!(matches!(result(&mut client), ResultOf::ConnectRing(_)));
    }
    let mut watchers = all_ask(&hosted, (0..DEVICES).map(|device| watching(&hosted, device)));
    for watcher in &mut watchers {
        assert_eq!(bytes(watcher), DISK_BYTES);
    }
    // Those who are only there throw each other out, and nobody else.
    let idle: Vec<Client> = (0..DEVICES).map(|_| hosted.native()).collect();
    let grow = Grow { minor: hosted.number(), bytes: Some(2 * DISK_BYTES) };
    hosted.native().ask(Command::Grow(grow)).unwrap();
    for watcher in &mut watchers {
        assert_eq!(bytes(watcher), 2 * DISK_BYTES);
    }
    drop(idle);
    let (minor, domain) = (hosted.number(), DOMAIN.0);
    let leaving = |device| Command::DisconnectRing { minor, domain, device, deadline_ms: None, is_removed: false };
    for mut client in all_ask(&hosted, (0..DEVICES).map(leaving)) {
        assert!(matches!(result(&mut client), ResultOf::DisconnectRing(ended) if ended.connected));
    }
    for watcher in &mut watchers {
        assert!(matches!(result(watcher), ResultOf::WatchRing(_)));
    }
}

#[test]
fn whoever_watches_and_goes_away_makes_room_for_the_next() {
    let hosted = Hosted::new();
    let quiet = quiet(&hosted);
    hosted.native().ask(asking(&hosted, 1, &quiet)).unwrap();
    let watch = || {
        let mut client = hosted.native();
        client.begin(watching(&hosted, 1)).unwrap();
        match client.next_answer().unwrap().body {
            AnswerBody::Event(_) => Ok(client),
            AnswerBody::Error(failure) => Err(failure.errno),
            other => panic!("{other:?}"),
        }
    };
    let several: Vec<Client> = (0..4).map(|_| watch().unwrap()).collect();
    assert_eq!(watch().unwrap_err(), 16, "so many need not watch one device");
    drop(several);
    // Nothing has happened that they could have been told of, and it is seen that they have gone.
    let mut next = None;
    eventually("there is room", || {
        next = watch().ok();
        next.is_some()
    });
    let nobody = hosted.native().watch_ring(hosted.number(), DOMAIN.0, 2, |_| {}).unwrap_err();
    assert_eq!(errno(&nobody), 19);
}
