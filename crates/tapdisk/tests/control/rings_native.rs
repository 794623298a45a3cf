//! Guests' devices by the native protocol: several rings, watched, counted, let go of and connected again.

use std::{fs, thread};

use block_core::Result;
use control_api::{
    errno,
    native::{
        Answer, AnswerBody, Client, Command, ConnectRing, Grow, OpenImages, ResultOf, RingConnected, RingEvent,
        RingOperation, RingPages, RingQueue,
    },
};
use export::nbd::client::Client as NbdClient;
use futures_util::future::join_all;
use guest::{Front, FrontOptions, FrontRing};
use wire::blkif::Abi;

use crate::{
    host::{eventually, minor},
    hosted::{DEVICE, DISK_BYTES, DOMAIN, Hosted},
};

const NOTHING: RingPages = RingPages { granted: 0, mapped: 0, peak: 0, leaked: 0 };

fn refusal(result: Result<RingConnected>) -> i32 {
    errno(&result.unwrap_err())
}

/// Rings of 16 pages on a disk with four queues, served as one device.
fn wide(hosted: &Hosted, count: usize) -> Vec<Front> {
    let options = FrontOptions { order: 4, ..FrontOptions::default() };
    let fronts: Vec<Front> = (0..count).map(|_| hosted.front(options)).collect();
    let asked = hosted.asking(DEVICE, &fronts.iter().collect::<Vec<_>>(), Abi::X86_64);
    let connected = hosted.connect(asked).unwrap();
    assert!(!connected.already && connected.offer.flush && connected.offer.persistent);
    assert_eq!((connected.geometry.bytes, connected.offer.indirect_segments), (DISK_BYTES, 256));
    fronts
}

#[test]
fn the_rings_of_a_device_are_spread_over_the_queues_of_the_disk() {
    let hosted = Hosted::with(|open| OpenImages { queues: Some(4), ..open });
    let fronts = wide(&hosted, 4);
    hosted.executor.block_on(async {
        join_all((0_u8..).zip(&fronts).map(async |(index, front)| {
            for round in 0..32 {
                let sector = u64::from(index) * 512 + round;
                front.write(sector, &[index + 1; 512]).await.unwrap();
            }
        }))
        .await;
        for (index, front) in (0_u8..).zip(&fronts) {
            // Each sees what the next has written.
            let other = (index + 1) % 4;
            assert_eq!(front.read(u64::from(other) * 512 + 7, 1).await.unwrap(), [other + 1; 512]);
        }
    });
    // A queue tells what it has done after the guest has seen the answers.
    eventually("all is counted", || hosted.shown().rings[0].counters.requests == 4 * 33);
    let shown = hosted.shown();
    let mut queues: Vec<u16> = shown.rings[0].queues.iter().map(|ring| ring.queue).collect();
    queues.sort_unstable();
    assert_eq!(queues, [0, 1, 2, 3]);
    assert_eq!(shown.ring_pages, RingPages { granted: 0, mapped: 64, peak: 64, leaked: 0 });
    assert!(shown.rings[0].queues.iter().all(|ring| ring.ring_pages == 16 && ring.counters.requests == 33));
    assert_eq!((shown.rings[0].counters.requests, shown.rings[0].pages), (4 * 33, shown.ring_pages));

    let ended = hosted.disconnect(DEVICE, None);
    let after = RingPages { granted: 0, mapped: 0, peak: 64, leaked: 0 };
    assert_eq!((ended.connected, ended.counters.requests, ended.pages), (true, 4 * 33, after));
    assert_eq!((hosted.shown().rings, hosted.shown().ring_pages), (Vec::new(), after));
    assert_eq!(hosted.used(), 0);
    assert!(fronts.into_iter().all(|front| front.stray_pages() == 0 && front.release_ring().unwrap() == 0));
}

#[test]
fn two_guests_and_an_nbd_client_see_the_same_bytes() {
    let hosted = Hosted::new();
    let fronts = [(); 2].map(|()| hosted.front(FrontOptions::default()));
    for (device, front) in (0..).zip(&fronts) {
        hosted.connect(hosted.asking(device, &[front], Abi::X86_64)).unwrap();
    }
    let socket = hosted.host.run.nbd_socket(hosted.pid, minor(&hosted.minor));
    let mut client = NbdClient::connect_unix(&socket, "").unwrap();
    let [first, second] = &fronts;
    hosted.executor.block_on(first.write(0, &[1; 512])).unwrap();
    client.write(512, &[2; 512]).unwrap();
    hosted.executor.block_on(second.write(2, &[3; 512])).unwrap();
    let expected: Vec<u8> = [1, 2, 3].iter().flat_map(|byte| [*byte; 512]).collect();
    let mut bytes = vec![0; 3 * 512];
    client.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, expected);
    for front in &fronts {
        assert_eq!(hosted.executor.block_on(front.read(0, 3)).unwrap(), expected);
    }
}

#[test]
fn pages_that_stay_mapped_are_in_the_account_and_go_back_however_a_tapdisk_ends() {
    for is_killed in [false, true] {
        let hosted = Hosted::new();
        let front = hosted.front(FrontOptions { persistent: true, segments_max: 256, ..FrontOptions::default() });
        let asked = hosted.asking(DEVICE, &[&front], Abi::X86_64);
        hosted.connect(ConnectRing { persistent: true, polling_us: 100, ..asked }).unwrap();
        for round in 0..8 {
            let bytes = vec![round; 20 * 4096];
            hosted.executor.block_on(front.write(8, &bytes)).unwrap();
            assert!(hosted.executor.block_on(front.read(8, 160)).unwrap() == bytes, "round {round}");
        }
        // Twenty pages of data, one that names them, and the ring.
        let kept = RingPages { granted: 0, mapped: 22, peak: 22, leaked: 0 };
        // The guest has its answer before it is in the account.
        eventually("its requests have ended", || hosted.shown().ring_pages == kept);
        assert_eq!(hosted.used(), 22);
        if is_killed {
            hosted.kill();
            eventually("its pages come back", || hosted.used() == 0);
        } else {
            let ended = hosted.disconnect(DEVICE, None);
            assert_eq!((ended.pages, hosted.used()), (RingPages { mapped: 0, ..kept }, 0));
        }
        assert_eq!(front.release_ring().unwrap(), 0);
    }
}

#[test]
fn connecting_and_disconnecting_again_says_the_same() {
    let hosted = Hosted::new();
    let front = hosted.front(FrontOptions { order: 4, ..FrontOptions::default() });
    let asked = hosted.asking(DEVICE, &[&front], Abi::X86_64);
    let first = hosted.connect(asked.clone()).unwrap();
    let again = hosted.connect(asked.clone()).unwrap();
    assert_eq!(again, RingConnected { already: true, ..first });
    hosted.executor.block_on(front.write(0, &[1; 512])).unwrap();
    assert_eq!(refusal(hosted.connect(ConnectRing { persistent: true, ..asked.clone() })), 114, "other parameters");
    let other = hosted.front(FrontOptions::default());
    assert_eq!(refusal(hosted.connect(hosted.asking(DEVICE, &[&other], Abi::X86_64))), 114, "another ring");
    assert!(hosted.disconnect(DEVICE, None).connected);
    let ended = hosted.disconnect(DEVICE, None);
    assert_eq!((ended.connected, ended.pages, hosted.used()), (false, NOTHING, 0));
    // The same pages once more: where the ring was left, it goes on.
    assert!(!hosted.connect(asked).unwrap().already);
    assert_eq!(hosted.executor.block_on(front.read(0, 1)).unwrap(), [1; 512]);
}

#[test]
fn only_a_ring_that_is_served_or_answered_is_adopted() {
    let hosted = Hosted::new();
    let front = hosted.front(FrontOptions::default());
    let asked = hosted.asking(DEVICE, &[&front], Abi::X86_64);
    let adopted = ConnectRing { adopt: true, ..asked.clone() };
    let writing = hosted.begin_to_write(&front, 0, [1; 512]);
    assert_eq!(refusal(hosted.connect(adopted.clone())), 107, "nobody knows whether it was taken");
    assert_eq!(hosted.used(), 0);
    hosted.connect(asked.clone()).unwrap();
    hosted.executor.block_on(writing).unwrap();
    assert!(hosted.connect(adopted.clone()).unwrap().already);
    assert_eq!(refusal(hosted.connect(ConnectRing { persistent: true, ..adopted.clone() })), 114, "other parameters");
    assert!(hosted.disconnect(DEVICE, None).connected);
    assert!(!hosted.connect(adopted).unwrap().already, "everything in it has been answered");
    assert_eq!(hosted.executor.block_on(front.read(0, 1)).unwrap(), [1; 512]);
}

#[test]
fn all_rings_of_a_device_are_served_or_none() {
    let hosted = Hosted::new();
    let (good, bad) = (hosted.front(FrontOptions::default()), hosted.front(FrontOptions::default()));
    hosted.guest.put_entry(bad.ring_grants()[0], 0, 0);
    let mut asked = hosted.asking(DEVICE, &[&good, &bad], Abi::X86_64);
    assert_eq!(refusal(hosted.connect(asked.clone())), 22, "a page is not granted");
    assert_eq!((hosted.used(), hosted.shown().rings.len()), (0, 0), "nothing is left of the other ring");
    asked.queues.pop();
    asked.queues[0].pages = vec![asked.queues[0].pages[0]; 3];
    assert_eq!(refusal(hosted.connect(asked.clone())), 22, "three pages");
    asked.queues.clear();
    assert_eq!(refusal(hosted.connect(asked)), 22, "no ring");
    let asked = ConnectRing { minor: 77, ..hosted.asking(DEVICE, &[&good], Abi::X86_64) };
    assert_eq!(refusal(hosted.connect(asked)), 19, "no such disk");
    hosted.connect(hosted.asking(DEVICE, &[&good], Abi::X86_64)).unwrap();
    hosted.executor.block_on(good.write(0, &[1; 512])).unwrap();
}

#[test]
fn a_device_comes_back_with_another_layout_and_other_rings() {
    let hosted = Hosted::new();
    for (round, (abi, order, count)) in
        (1..).zip([(Abi::X86_64, 0, 1), (Abi::X86_32, 3, 2), (Abi::X86_64, 4, 3), (Abi::X86_32, 0, 1)])
    {
        let options = FrontOptions { abi, order, ..FrontOptions::default() };
        let fronts: Vec<Front> = (0..count).map(|_| hosted.front(options)).collect();
        hosted.connect(hosted.asking(DEVICE, &fronts.iter().collect::<Vec<_>>(), abi)).unwrap();
        for front in &fronts {
            let before = hosted.executor.block_on(front.read(0, 1)).unwrap();
            assert!(before == [round - 1; 512] || before == [round; 512], "round {round}");
            hosted.executor.block_on(front.write(0, &[round; 512])).unwrap();
        }
        assert!(hosted.disconnect(DEVICE, None).connected);
        assert!(fronts.into_iter().all(|front| front.release_ring().unwrap() == 0));
        assert_eq!(hosted.used(), 0);
    }
}

#[test]
fn a_guest_that_may_only_read_changes_nothing() {
    let hosted = Hosted::new();
    let front = hosted.front(FrontOptions::default());
    let asked = hosted.asking(DEVICE, &[&front], Abi::X86_64);
    let connected = hosted.connect(ConnectRing { read_only: true, ..asked }).unwrap();
    assert!(connected.geometry.read_only && !connected.offer.discard);
    assert!(hosted.executor.block_on(front.write(0, &[1; 512])).is_err());
    assert_eq!(hosted.executor.block_on(front.read(0, 1)).unwrap(), [0; 512]);
}

#[test]
fn a_guest_that_may_not_discard_frees_nothing() {
    let hosted = Hosted::new();
    let front = hosted.front(FrontOptions::default());
    let asked = hosted.asking(DEVICE, &[&front], Abi::X86_64);
    let connected = hosted.connect(ConnectRing { no_discard: true, ..asked }).unwrap();
    assert!(!connected.geometry.read_only && !connected.offer.discard);
    hosted.executor.block_on(front.write(0, &[7; 4096])).unwrap();
    assert!(hosted.executor.block_on(front.discard(0, 8)).is_err(), "it was told, and asks all the same");
    assert_eq!(hosted.executor.block_on(front.read(0, 8)).unwrap(), [7; 4096]);
}

/// What a watch tells next.
fn event(watching: &mut Client) -> RingEvent {
    match watching.next_answer().unwrap() {
        Answer { body: AnswerBody::Event(event), .. } => event,
        other => panic!("{other:?}"),
    }
}

fn watch(hosted: &Hosted) -> Client {
    let mut client = hosted.native();
    client.begin(Command::WatchRing { minor: hosted.number(), domain: DOMAIN.0, device: DEVICE }).unwrap();
    client
}

fn size(event: &RingEvent) -> u64 {
    match event {
        RingEvent::Resized { geometry } => geometry.bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_watches_hears_of_the_size_of_what_does_not_work_and_of_a_broken_ring() {
    let hosted = Hosted::with(|open| {
        let faults = Some("discard=EOPNOTSUPP".into());
        OpenImages { faults, queues: Some(2), ..open }
    });
    let front = hosted.front(FrontOptions::default());
    let (evil, channel) = {
        let backend = FrontOptions::default().backend;
        let ring = FrontRing::new(&hosted.guest, backend, Abi::X86_64, 0).unwrap();
        (ring, hosted.guest.allocate_unbound(&hosted.executor, backend).unwrap())
    };
    assert_eq!(errno(&hosted.native().watch_ring(hosted.number(), DOMAIN.0, DEVICE, |_| {}).unwrap_err()), 19);
    let mut asked = hosted.asking(DEVICE, &[&front], Abi::X86_64);
    asked.queues.push(RingQueue { pages: vec![evil.grants()[0].0], port: channel.port().0 });
    hosted.connect(asked).unwrap();
    let mut watching = watch(&hosted);
    assert_eq!(size(&event(&mut watching)), DISK_BYTES);
    let grow = Grow { minor: hosted.number(), bytes: Some(2 * DISK_BYTES) };
    hosted.native().ask(Command::Grow(grow)).unwrap();
    // Once, though two rings have seen it.
    assert_eq!(size(&event(&mut watching)), 2 * DISK_BYTES);
    hosted.executor.block_on(front.write(DISK_BYTES / 512, &[1; 512])).unwrap();
    assert!(hosted.executor.block_on(front.discard(0, 64)).is_err());
    assert_eq!(event(&mut watching), RingEvent::Unsupported { operation: RingOperation::Discard });
    evil.set_produced(1000);
    channel.notify();
    let RingEvent::Broken { reason } = event(&mut watching) else { panic!("it is broken") };
    assert!(reason.contains("requests"), "{reason}");
    eventually("it is shown", || hosted.shown().rings[0].broken.as_ref() == Some(&reason));

    // The other ring is served all the same; and whoever comes late hears all that holds.
    hosted.executor.block_on(front.read(0, 1)).unwrap();
    let mut late = watch(&hosted);
    assert_eq!(size(&event(&mut late)), 2 * DISK_BYTES);
    assert!(matches!(event(&mut late), RingEvent::Unsupported { operation: RingOperation::Discard }));
    assert_eq!(event(&mut late), RingEvent::Broken { reason: reason.clone() });
    assert_eq!(hosted.disconnect(DEVICE, None).broken, Some(reason));
    for mut client in [watching, late] {
        let Answer { body: AnswerBody::Result(result), .. } = client.next_answer().unwrap() else { panic!("an end") };
        assert!(matches!(*result, ResultOf::WatchRing(_)));
    }
}

#[test]
fn a_guest_is_counted_on_a_page_of_its_own_while_it_is_connected() {
    let hosted = Hosted::new();
    let directory = hosted.host.run.shared_memory(hosted.pid);
    let page = directory.join(format!("vbd-{}-{DEVICE}", DOMAIN.0));
    let nbd = directory.join(format!("nbd-{}", hosted.minor));
    let word = |path, at: usize| {
        let bytes = fs::read(path).unwrap();
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    };
    let front = hosted.front(FrontOptions::default());
    assert!(!page.exists());
    hosted.connect(hosted.asking(DEVICE, &[&front], Abi::X86_64)).unwrap();
    hosted.executor.block_on(async {
        front.write(0, &[1; 1024]).await.unwrap();
        front.read(0, 1).await.unwrap();
    });
    let socket = hosted.host.run.nbd_socket(hosted.pid, minor(&hosted.minor));
    let mut client = NbdClient::connect_unix(&socket, "").unwrap();
    client.write(0, &[1; 512]).unwrap();
    eventually("guests are counted", || [16, 24, 32, 48, 56, 64].map(|at| word(&page, at)) == [1, 1, 1, 1, 1, 2]);
    assert_eq!(word(&page, 0), 1, "the version");
    eventually("clients are counted apart", || [16, 48, 64].map(|at| word(&nbd, at)) == [0, 1, 1]);
    hosted.disconnect(DEVICE, None);
    assert!(!page.exists());
    // What the guest has done does not become the clients' when it goes.
    thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!([16, 48].map(|at| word(&nbd, at)), [0, 1]);
}

#[test]
fn a_disk_at_rest_holds_what_guests_ask() {
    let hosted = Hosted::new();
    let front = hosted.front(FrontOptions::default());
    hosted.connect(hosted.asking(DEVICE, &[&front], Abi::X86_64)).unwrap();
    let (number, mut client) = (hosted.number(), hosted.native());
    for rest in
        [Command::Pause { minor: number, deadline_ms: None }, Command::Quiesce { minor: number, deadline_ms: None }]
    {
        client.ask(rest).unwrap();
        let writing = hosted.begin_to_write(&front, 0, [7; 512]);
        assert_eq!(front.in_flight(), 1);
        // Connecting and letting go do not wait for the disk.
        let other = hosted.front(FrontOptions::default());
        hosted.connect(hosted.asking(1, &[&other], Abi::X86_64)).unwrap();
        assert!(hosted.disconnect(1, None).connected);
        client.ask(Command::Resume { minor: number, image: None }).unwrap();
        hosted.executor.block_on(writing).unwrap();
    }
    assert_eq!(hosted.executor.block_on(front.read(0, 1)).unwrap(), [7; 512]);
}

#[test]
fn a_tapdisk_that_is_killed_gives_all_rings_of_its_guests_back() {
    let hosted = Hosted::with(|open| OpenImages { queues: Some(2), ..open });
    let fronts = wide(&hosted, 2);
    hosted.executor.block_on(fronts[0].write(0, &[1; 512])).unwrap();
    assert_eq!(hosted.used(), 32);
    let pid = rustix::process::Pid::from_raw(hosted.pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("all pages are given back", || hosted.used() == 0);
    assert!(fronts.into_iter().all(|front| front.release_ring().unwrap() == 0));
}

#[test]
fn guests_are_served_from_within_a_jail() {
    let hosted = Hosted::confined();
    let front = hosted.front(FrontOptions { order: 2, ..FrontOptions::default() });
    hosted.connect(hosted.asking(DEVICE, &[&front], Abi::X86_64)).unwrap();
    hosted.executor.block_on(front.write(0, &[1; 512])).unwrap();
    assert_eq!(hosted.executor.block_on(front.read(0, 1)).unwrap(), [1; 512]);
    assert_eq!((hosted.disconnect(DEVICE, None).pages.leaked, hosted.used()), (0, 0));
}
