//! Requests that fail with what may pass are tried again, as long as was asked for; their failures are nobody else's.

use control_api::native::{Client, Command, DiskStatistics, Faults, OpenImages, RequestPhase, State};
use export::nbd;

use crate::host::{Host, aio, minor};

fn connect(host: &Host, pid: u32, disk: &str) -> nbd::client::Client {
    nbd::client::Client::connect_unix(&host.run.nbd_socket(pid, minor(disk)), "").unwrap()
}

fn statistics(client: &mut Client, minor: u16) -> DiskStatistics {
    client.stats(Some(minor)).unwrap().disks.remove(0)
}

#[test]
fn a_request_is_tried_again_until_its_time_is_up_and_then_fails_once() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let image = format!("fault:write@0x1000+0x1000=EAGAIN:{}", aio(&host.raw_image("a.img", 1 << 20)));
    host.ok(&["open", "-p", &pid.to_string(), "-m", "0", "-t", "1", "-a", &image]);
    let mut failing = connect(&host, pid, "0");
    let failing = std::thread::spawn(move || {
        let begun = std::time::Instant::now();
        (failing.write(0x1000, &[1; 4096]).is_err(), begun.elapsed())
    });
    // Others are not held up.
    let mut other = connect(&host, pid, "0");
    while !failing.is_finished() {
        other.write(0x8000, &[2; 4096]).unwrap();
        other.read(0x1000, &mut [0; 4096]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let (has_failed, lasted) = failing.join().unwrap();
    assert!(has_failed && lasted >= std::time::Duration::from_secs(1), "{lasted:?}");
    let statistics = statistics(&mut host.native(pid), 0);
    let errors: Vec<_> = statistics.errors.iter().map(|error| (error.errno, &*error.name, error.count)).collect();
    assert_eq!(errors, [(11, "EAGAIN", 1)]);
    assert_eq!(statistics.requests["write"].errors, 1);
    assert!(statistics.retries >= 2, "{}", statistics.retries);
    let cause = &statistics.failures[0];
    assert_eq!((cause.errno, cause.kind.as_str(), cause.count), (11, "write", 1));
    assert!(cause.place.as_deref().unwrap().ends_with("a.img"), "{cause:?}");
}

#[test]
fn what_waits_for_its_next_attempt_and_what_takes_too_long_is_told() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let mut client = host.native(pid);
    let image = aio(&host.raw_image("a.img", 1 << 20));
    let faults = Some("write@0+4096=EBUSY,write@4096+4096=hang".into());
    let stuck_after_seconds = Some(1);
    let open = OpenImages { minor: 0, image, faults, stuck_after_seconds, ..OpenImages::default() };
    client.ask(Command::Open(open)).unwrap();
    let writing = [0, 4096].map(|offset| {
        let mut nbd = connect(&host, pid, "0");
        std::thread::spawn(move || nbd.write(offset, &[1; 4096]).is_ok())
    });
    let requests = |client: &mut Client| {
        let mut running = statistics(client, 0).running;
        running.sort_by_key(|request| request.offset);
        running
    };
    crate::host::eventually("one waits for its fourth attempt, one hangs in its first", || {
        let requests = requests(&mut client);
        let told: Vec<_> = requests.iter().map(|request| (request.offset, request.phase)).collect();
        let is_so = told == [(0, RequestPhase::Waiting), (4096, RequestPhase::Running)];
        is_so && requests[0].attempts >= 3 && requests[1].attempts == 1
    });
    assert_eq!(statistics(&mut client, 0).disk.waiting, 1);
    // Both take longer than a second, the one in many attempts and the other in one.
    crate::host::eventually("each is reported", || statistics(&mut client, 0).stuck == 2);
    client.ask(Command::Faults(Faults { minor: 0, rules: String::new() })).unwrap();
    assert!(writing.into_iter().all(|writing| writing.join().unwrap()), "both are done in the end");
    assert_eq!((requests(&mut client), statistics(&mut client, 0).stuck), (vec![], 2));
}

#[test]
fn whether_an_input_output_error_may_pass_is_told_at_the_start_or_when_opening() {
    for (variable, asked, passes) in
        [(None, None, false), (Some("1"), None, true), (None, Some(true), true), (Some("1"), Some(false), false)]
    {
        let host = Host::new();
        let minor = host.run.allocate_minor().unwrap().number();
        let mut spawn = host.command(&["spawn"]);
        spawn.env_remove("OXTAP_RETRY_EIO").envs(variable.map(|value| ("OXTAP_RETRY_EIO", value)));
        let pid: u32 = crate::host::said(spawn.output().unwrap()).stdout.trim().parse().unwrap();
        let mut client = host.native(pid);
        client.ask(Command::Attach { minor }).unwrap();
        let image = aio(&host.raw_image("a.img", 1 << 20));
        let faults = Some("writex2=EIO".into());
        client
            .ask(Command::Open(OpenImages { minor, image, faults, retry_eio: asked, ..OpenImages::default() }))
            .unwrap();
        let written = connect(&host, pid, "0").write(0, &[1; 4096]);
        assert_eq!(written.is_ok(), passes, "{variable:?} {asked:?}");
        assert_eq!(statistics(&mut client, minor).retries, if passes { 2 } else { 0 });
    }
}

#[test]
fn disks_of_one_process_fail_each_for_itself() {
    let host = Host::new();
    let (pid, minors) = host.attached(3);
    let mut client = host.native(pid);
    for (minor, faults) in [(0, Some("any/50=hang")), (1, Some("write=EIO")), (2, None)] {
        let image = aio(&host.raw_image(&format!("{minor}.img"), 1 << 20));
        let faults = faults.map(str::to_owned);
        client.ask(Command::Open(OpenImages { minor, image, faults, ..OpenImages::default() })).unwrap();
    }
    let mut hanging = connect(&host, pid, &minors[0]);
    let hanging = std::thread::spawn(move || (0..1000).all(|_| hanging.write(0, &[1; 4096]).is_ok()));
    // One that has run for so long hangs, however loaded the machine is: the others took microseconds.
    let is_old = |disk: DiskStatistics| disk.running.iter().any(|request| request.age_us > 500_000);
    crate::host::eventually("the first hangs", || is_old(statistics(&mut client, 0)));
    let (mut failing, mut fine) = (connect(&host, pid, &minors[1]), connect(&host, pid, &minors[2]));
    for number in 0..20 {
        assert!(failing.write(number << 12, &[1; 4096]).is_err());
        fine.write(number << 12, &[1; 4096]).unwrap();
    }
    let pause = |minor| Command::Pause { minor, deadline_ms: Some(60_000) };
    for minor in [1, 2] {
        client.ask(pause(minor)).unwrap();
        client.ask(Command::Resume { minor, image: None }).unwrap();
    }
    let errors = |client: &mut Client, minor| statistics(client, minor).requests["write"].errors;
    assert_eq!([0, 1, 2].map(|minor| errors(&mut client, minor)), [0, 20, 0]);
    // The hung one is closed by force, which hurts nobody either.
    let error = client.ask(Command::Close { minor: 0, force: true, deadline_ms: None }).unwrap_err();
    assert!(error.to_string().contains("storage hangs"), "{error}");
    assert!(!hanging.join().unwrap());
    fine.read(0, &mut [0; 4096]).unwrap();
    let release = Faults { minor: 0, rules: String::new() };
    client.ask(Command::Faults(release)).unwrap();
    crate::host::eventually("it is closed", || statistics(&mut client, 0).disk.state == State::Closed);
}
