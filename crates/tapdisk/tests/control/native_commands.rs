//! The native protocol: what each command does to a disk.

use control_api::{
    errno,
    native::{
        Client, Command, DiskSummary, Faults, Grow, Limit, Limits, LimitsInForce, OpenImages, Rate, ResultOf, State,
    },
};

use crate::host::{Host, aio, eventually, minor};

fn open(image: String) -> Command {
    Command::Open(OpenImages { minor: 0, image, ..OpenImages::default() })
}

fn pause() -> Command {
    Command::Pause { minor: 0, deadline_ms: None }
}

fn close() -> Command {
    Command::Close { minor: 0, force: false, deadline_ms: None }
}

fn only_disk(client: &mut Client) -> DiskSummary {
    let mut disks = client.list().unwrap();
    assert_eq!(disks.len(), 1);
    disks.remove(0)
}

#[test]
fn a_disk_lives_from_attach_to_detach() {
    let host = Host::new();
    let pid = host.spawn();
    let mut client = host.native(pid);
    assert_eq!(client.greeting().pid, pid);
    assert!(client.greeting().program.starts_with("tapdisk "));
    assert_eq!(client.list().unwrap(), []);

    let number = host.run.allocate_minor().unwrap().number();
    assert!(matches!(client.ask(Command::Attach { minor: number }).unwrap(), ResultOf::Attach(_)));
    assert_eq!(only_disk(&mut client).state, State::Attached);

    let image = aio(&host.raw_image("a.img", 1 << 20));
    let ResultOf::Open(opened) = client.ask(open(image.clone())).unwrap() else { panic!("an answer to open") };
    assert_eq!(opened.geometry.bytes, 1 << 20);
    let disk = only_disk(&mut client);
    assert_eq!((disk.state, disk.image, disk.job), (State::Running, Some(image.clone()), None));
    assert_eq!(disk.nbd.unwrap(), host.run.nbd_socket(pid, minor("0")).display().to_string());

    assert!(matches!(client.ask(pause()).unwrap(), ResultOf::Pause(_)));
    assert_eq!(only_disk(&mut client).state, State::Paused);
    let resume = Command::Resume { minor: 0, image: None };
    assert!(matches!(client.ask(resume).unwrap(), ResultOf::Resume(resumed) if resumed == opened));
    assert!(matches!(client.ask(close()).unwrap(), ResultOf::Close(_)));
    let disk = only_disk(&mut client);
    assert_eq!((disk.state, disk.image, disk.nbd), (State::Closed, None, None));
    assert!(matches!(client.ask(Command::Detach { minor: 0 }).unwrap(), ResultOf::Detach(_)));
    // The process ends with its last disk, and says so to whoever is connected.
    assert!(client.list().is_err());
    host.ok(&["free", "-m", "0"]);
    host.place.assert_nothing_left();
}

#[test]
fn both_protocols_speak_of_the_same_disk() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let image = aio(&host.raw_image("a.img", 1 << 20));
    host.ok(&["open", "-p", &pid.to_string(), "-m", "0", "-a", &image]);
    let mut client = host.native(pid);
    assert_eq!(only_disk(&mut client).image, Some(image.clone()));
    client.ask(pause()).unwrap();
    assert!(host.ok(&["list"]).contains("state=0x2a"));
    host.ok(&["unpause", "-p", &pid.to_string(), "-m", "0"]);
    assert_eq!(only_disk(&mut client).state, State::Running);
}

#[test]
fn refusals_have_the_same_numbers_as_ever() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let mut client = host.native(pid);
    let mut refusal = |command| errno(&client.ask(command).unwrap_err());
    assert_eq!(refusal(Command::Detach { minor: 7 }), 19);
    assert_eq!(refusal(open("aio:/nonexistent".into())), 2);
    assert_eq!(refusal(open("nonsense".into())), 22);
    assert_eq!(refusal(open(format!("aio:/{}", "x".repeat(300)))), 36, "longer than tap-ctl can say");
    assert_eq!(
        refusal(open(format!("aio:/{}", "x".repeat(300)))),
        36,
        "a name that the protocol of tap-ctl cannot say"
    );
    let queues = Some(0);
    assert_eq!(refusal(Command::Open(OpenImages { minor: 0, queues, ..OpenImages::default() })), 22);
    assert_eq!(refusal(Command::Resume { minor: 0, image: None }), 22);
    assert_eq!(refusal(Command::Stats { minor: Some(7) }), 19);
    assert_eq!(refusal(Command::Watch { job: 1000 }), 3);
    assert_eq!(refusal(Command::Cancel { job: 1000 }), 3);
    assert_eq!(refusal(Command::Attach { minor: 0 }), 17);
}

#[test]
fn statistics_count_what_clients_did() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let mut client = host.native(pid);
    client.ask(open(aio(&host.raw_image("a.img", 1 << 20)))).unwrap();
    let mut nbd = export::nbd::client::Client::connect_unix(&host.run.nbd_socket(pid, minor("0")), "").unwrap();
    nbd.write(0, &[1; 8192]).unwrap();
    nbd.read(0, &mut [0; 4096]).unwrap();
    // The last answer is out before it is counted.
    eventually("both are counted", || {
        let stats = client.stats(Some(0)).unwrap();
        stats.disks[0].requests["read"].completed == 1
    });
    let stats = client.stats(None).unwrap();
    assert_eq!(stats.process.pid, pid);
    let disk = &stats.disks[0];
    let write = disk.requests["write"];
    assert_eq!((write.requests, write.completed, write.errors, write.sectors), (1, 1, 0, 16));
    assert_eq!(disk.latency["write"].served.count, 1);
    assert_eq!(disk.queues.iter().map(|queue| queue.requests).sum::<u64>(), 2);
    assert_eq!((disk.chain[0].read_sectors, disk.chain[0].write_sectors), (8, 16));
    assert_eq!((disk.errors.len(), disk.retries), (0, 0));
    nbd.disconnect().unwrap();
}

#[test]
fn a_quiesced_disk_keeps_its_files_and_lets_others_write() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let mut client = host.native(pid);
    let path = host.raw_image("a.img", 1 << 20);
    client.ask(open(aio(&path))).unwrap();
    let lock = || {
        let file = std::fs::File::open(&path).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
    };
    assert!(lock().is_err(), "a running disk writes alone");
    let quiesce = Command::Quiesce { minor: 0, deadline_ms: Some(60_000) };
    assert!(matches!(client.ask(quiesce).unwrap(), ResultOf::Quiesce(_)));
    assert_eq!(only_disk(&mut client).state, State::Quiesced);
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let is_open = descriptors.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|file| file == path));
    assert!(is_open && lock().is_ok());
    client.ask(Command::Resume { minor: 0, image: None }).unwrap();
    assert_eq!(only_disk(&mut client).state, State::Running);
    assert!(lock().is_err());
}

#[test]
fn a_disk_grows_with_its_image_and_makes_it_grow() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let mut client = host.native(pid);
    let path = host.raw_image("a.img", 1 << 20);
    client.ask(open(aio(&path))).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
    let mut grow = |bytes| match client.ask(Command::Grow(Grow { minor: 0, bytes })) {
        Ok(ResultOf::Grow(resized)) => Ok((resized.before_bytes >> 20, resized.geometry.bytes >> 20)),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(errno(&error)),
    };
    assert_eq!(grow(None), Ok((1, 2)));
    assert_eq!(grow(Some(4 << 20)), Ok((2, 4)));
    assert_eq!(grow(Some(1 << 20)), Err(22), "a disk does not shrink");
    assert_eq!(path.metadata().unwrap().len(), 4 << 20);
    let nbd = export::nbd::client::Client::connect_unix(&host.run.nbd_socket(pid, minor("0")), "").unwrap();
    assert_eq!(nbd.size(), 4 << 20);
    assert_eq!(client.stats(None).unwrap().disks[0].resized, 2);
}

#[test]
fn connections_are_spread_over_as_many_queues_as_were_asked_for() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let mut client = host.native(pid);
    let image = aio(&host.raw_image("a.img", 1 << 20));
    client.ask(Command::Open(OpenImages { minor: 0, image, queues: Some(2), ..OpenImages::default() })).unwrap();
    let socket = host.run.nbd_socket(pid, minor("0"));
    let clients = (0..4).map(|number| {
        let mut nbd = export::nbd::client::Client::connect_unix(&socket, "").unwrap();
        nbd.write(number << 12, &[1; 4096]).unwrap();
        nbd
    });
    let clients: Vec<_> = clients.collect();
    let queues = |client: &mut Client| client.stats(Some(0)).unwrap().disks.remove(0).queues;
    let took: Vec<u64> = queues(&mut client).iter().map(|queue| queue.requests).collect();
    assert_eq!(took, [2, 2]);
    drop(clients);
    client.ask(close()).unwrap();
    eventually("the thread has gone", || queues(&mut client).len() == 1);
    assert_eq!(client.stats(Some(0)).unwrap().disks[0].requests["write"].requests, 4);
}

#[test]
fn limits_are_set_when_opening_and_changed_live() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let mut client = host.native(pid);
    let image = aio(&host.raw_image("a.img", 1 << 20));
    let rate = |per_second, burst| Some(Rate { per_second, burst: Some(burst) });
    let slow = Limits { write: Limit { requests: rate(20, 1), bytes: None }, ..Limits::default() };
    client.ask(Command::Open(OpenImages { minor: 0, image, limits: Some(slow), ..OpenImages::default() })).unwrap();
    let disk = |client: &mut Client| client.stats(Some(0)).unwrap().disks.remove(0);
    assert_eq!(disk(&mut client).limits, slow);
    let mut nbd = export::nbd::client::Client::connect_unix(&host.run.nbd_socket(pid, minor("0")), "").unwrap();
    let mut write = |count: u64| (0..count).for_each(|number| nbd.write(number << 12, &[1; 4096]).unwrap());
    // On a busy machine many a write comes so late that it need not wait.
    let throttled = (0..200).find_map(|_| {
        write(1);
        Some(disk(&mut client).throttled).filter(|throttled| throttled.requests >= 2 && throttled.waited_us > 10_000)
    });
    let throttled = throttled.expect("writes wait");

    let fast = Limits { write: Limit { requests: None, bytes: rate(1 << 30, 1 << 30) }, ..Limits::default() };
    let set = |limits| Command::Limit { minor: 0, limits };
    assert_eq!(client.ask(set(fast)).unwrap(), ResultOf::Limit(LimitsInForce { limits: fast }));
    write(100);
    assert_eq!(disk(&mut client).throttled, throttled);
    let nothing = Limits { read: Limit { requests: rate(0, 1), bytes: None }, ..Limits::default() };
    assert_eq!(errno(&client.ask(set(nothing)).unwrap_err()), 22);
    assert_eq!(disk(&mut client).limits, fast);
}

#[test]
fn only_storage_that_was_opened_so_can_be_made_to_fail() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let mut client = host.native(pid);
    let image = aio(&host.raw_image("a.img", 1 << 20));
    let faults = |rules: &str| Command::Faults(Faults { minor: 0, rules: rules.into() });
    client.ask(open(image.clone())).unwrap();
    assert_eq!(errno(&client.ask(faults("write=EIO")).unwrap_err()), 22);
    client.ask(close()).unwrap();

    client.ask(open(format!("fault::{image}"))).unwrap();
    let mut nbd = export::nbd::client::Client::connect_unix(&host.run.nbd_socket(pid, minor("0")), "").unwrap();
    nbd.write(0, &[1; 4096]).unwrap();
    client.ask(faults("write=EIO")).unwrap();
    assert!(nbd.write(0, &[1; 4096]).is_err());
    assert_eq!(errno(&client.ask(faults("write=EWHAT")).unwrap_err()), 22);
    assert!(nbd.write(0, &[1; 4096]).is_err(), "rules that are not understood change nothing");
    client.ask(faults("")).unwrap();
    nbd.write(0, &[1; 4096]).unwrap();
    assert_eq!(errno(&client.ask(open(format!("fault:nonsense:{image}"))).unwrap_err()), 114, "it is open");
    client.ask(close()).unwrap();
    assert_eq!(errno(&client.ask(open(format!("fault:nonsense:{image}"))).unwrap_err()), 22);
}
