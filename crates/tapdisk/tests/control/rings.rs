//! Rings of guests by the messages of tap-ctl's protocol: refused without Xen, served on a hosted platform.

use std::thread;

use control_api::protocol::{Body, Errno, Message, Request, RingIdentity, RingParameters};
use export::nbd::client::Client as NbdClient;
use guest::{Front, FrontOptions};
use wire::blkif::Abi;

use crate::{
    host::{Host, minor},
    hosted::Hosted,
};

/// The number with which a message is refused; 0 if it was carried out.
fn number(host: &Host, pid: u32, cookie: u16, body: Body) -> i32 {
    match host.client(pid).exchange(&Request::new(Message::new(cookie, body))) {
        Ok(Message { body: Body::Error(Errno(number), _), .. }) => number,
        Ok(Message { body: Body::RingConnectResponse(_) | Body::RingDisconnectResponse(_), .. }) => 0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rings_are_refused_with_the_numbers_that_tapback_knows() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let number = |cookie, body| number(&host, pid, cookie, body);
    let ring = RingParameters { identity: RingIdentity { domid: 1, devid: 51712 }, ..RingParameters::default() };
    assert_eq!(number(9, Body::RingConnect(ring.clone())), 19, "no such minor");
    assert_eq!(number(minor("0").number(), Body::RingConnect(ring.clone())), 2, "no Xen");
    assert_eq!(number(0, Body::RingDisconnect(ring.identity)), 19, "no such ring");
}

impl Hosted {
    fn connect_by_message(&self, front: &Front, abi: Abi) -> i32 {
        let grants = front.ring_grants();
        let mut references = [0; 8];
        references.iter_mut().zip(&grants).for_each(|(place, grant)| *place = grant.0);
        let ring = RingParameters {
            identity: self.identity(),
            references,
            order: grants.len().trailing_zeros(),
            protocol: if abi == Abi::X86_32 { 2 } else { 3 },
            port: front.port().0,
            ..RingParameters::default()
        };
        number(&self.host, self.pid, self.number(), Body::RingConnect(ring))
    }

    fn disconnect_by_message(&self) -> i32 {
        number(&self.host, self.pid, 0, Body::RingDisconnect(self.identity()))
    }

    fn connected_front(&self, options: FrontOptions) -> Front {
        let front = self.front(options);
        assert_eq!(self.connect_by_message(&front, options.abi), 0);
        front
    }
}

#[test]
fn a_guest_and_an_nbd_client_see_the_same_bytes() {
    let hosted = Hosted::new();
    let front = hosted.connected_front(FrontOptions { order: 2, ..FrontOptions::default() });
    let socket = hosted.host.run.nbd_socket(hosted.pid, minor(&hosted.minor));
    let mut client = NbdClient::connect_unix(&socket, "").unwrap();
    hosted.executor.block_on(async {
        front.write(8, &[7; 4096]).await.unwrap();
        front.flush().await.unwrap();
    });
    let mut bytes = [0; 4096];
    client.read(4096, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096]);
    client.write(0, &[9; 512]).unwrap();
    assert_eq!(hosted.executor.block_on(front.read(0, 1)).unwrap(), [9; 512]);
    assert_eq!(hosted.disconnect_by_message(), 0);
    assert_eq!((front.stray_pages(), front.release_ring().unwrap()), (0, 0));
    assert_eq!(hosted.guest.account().unwrap().used, 0);
}

#[test]
fn a_ring_is_connected_once_and_again_with_another_layout() {
    let hosted = Hosted::new();
    let first = hosted.connected_front(FrontOptions::default());
    assert_eq!(hosted.connect_by_message(&first, Abi::X86_64), 114, "connected already");
    hosted.executor.block_on(first.write(0, &[1; 512])).unwrap();
    assert_eq!((hosted.disconnect_by_message(), hosted.disconnect_by_message()), (0, 19));
    first.release_ring().unwrap();
    let second = hosted.connected_front(FrontOptions { abi: Abi::X86_32, ..FrontOptions::default() });
    assert_eq!(hosted.executor.block_on(second.read(0, 1)).unwrap(), [1; 512]);
    let bad = Front::new(&hosted.executor, &hosted.guest, FrontOptions::default()).unwrap();
    hosted.guest.put_entry(bad.ring_grants()[0], 0, 0);
    hosted.disconnect_by_message();
    assert_eq!(hosted.connect_by_message(&bad, Abi::X86_64), 22, "its page is not granted");
}

#[test]
fn a_guest_waits_while_its_disk_is_paused() {
    let hosted = Hosted::new();
    let front = hosted.connected_front(FrontOptions::default());
    hosted.executor.block_on(front.write(0, &[1; 512])).unwrap();
    hosted.tap_ctl("pause");
    let reading = {
        let front = front.clone();
        hosted.executor.spawn(async move { front.read(0, 1).await })
    };
    hosted.executor.turn(storage_io::Wait::No).unwrap();
    assert_eq!(front.in_flight(), 1);
    hosted.tap_ctl("unpause");
    assert_eq!(hosted.executor.block_on(reading).unwrap(), [1; 512]);
}

#[test]
fn a_ring_can_be_let_go_of_while_its_disk_is_paused() {
    let hosted = Hosted::new();
    let front = hosted.connected_front(FrontOptions::default());
    hosted.executor.block_on(front.write(0, &[1; 512])).unwrap();
    hosted.tap_ctl("pause");
    assert_eq!(hosted.disconnect_by_message(), 0);
    assert_eq!(front.release_ring().unwrap(), 0);
    hosted.tap_ctl("close");
}

#[test]
fn closing_a_disk_lets_go_of_its_guests() {
    for is_paused in [false, true] {
        let hosted = Hosted::new();
        let front = hosted.connected_front(FrontOptions::default());
        hosted.executor.block_on(front.write(0, &[1; 512])).unwrap();
        if is_paused {
            hosted.tap_ctl("pause");
        }
        hosted.tap_ctl("close");
        assert_eq!(front.release_ring().unwrap(), 0, "nothing of it is mapped any more");
        assert_eq!(hosted.disconnect_by_message(), 19);
    }
}

#[test]
fn a_tapdisk_that_is_killed_gives_its_guests_pages_back() {
    let hosted = Hosted::new();
    let front = hosted.connected_front(FrontOptions::default());
    hosted.executor.block_on(front.write(0, &[1; 512])).unwrap();
    assert_eq!(hosted.guest.account().unwrap().used, 1);
    let guards = hosted.host.place.processes().unwrap();
    assert_eq!(guards.len(), 1);
    drop(guards);
    let pid = rustix::process::Pid::from_raw(hosted.pid.cast_signed()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    while hosted.guest.account().unwrap().used > 0 {
        thread::yield_now();
    }
    assert_eq!(front.release_ring().unwrap(), 0);
}
