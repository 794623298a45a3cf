//! A disk whose storage hangs is told about, can be closed by force in bounded time, and harms no other.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use control_api::native::{Command, ResultOf};
use export::nbd::client;
use rustix::process::Signal;
use test_support::{HangingFile, ProcessGuard};

use crate::host::{Host, LONG, aio, eventually, minor};

fn tap(test: &str, host: &Host) -> Option<HangingFile> {
    HangingFile::new(test, host.place.scratch(), "16M")
}

/// A disk on storage that has just begun to hang, with one write that hangs in it.
fn hung(host: &Host, tap: &HangingFile) -> (String, thread::JoinHandle<bool>) {
    let (pid, minors) = host.attached(1);
    let text = pid.to_string();
    host.ok(&["open", "-p", &text, "-m", &minors[0], "-a", &aio(tap.path())]);
    let mut client = client::Client::connect_unix(&host.run.nbd_socket(pid, minor("0")), "").unwrap();
    client.write(0, &[1; 4096]).unwrap();
    tap.stop();
    let writing = thread::spawn(move || client.write(4096, &[2; 4096]).is_ok());
    eventually("the write is taken", || {
        let text = String::from_utf8(host.client(pid).stats(None).unwrap()).unwrap();
        text.contains("\"reqs_outstanding\": 1")
    });
    (text, writing)
}

#[test]
fn whoever_waits_is_told_for_what_and_force_ends_it() {
    let host = Host::new();
    let Some(tap) = tap("hung_storage::whoever_waits_is_told_for_what_and_force_ends_it", &host) else { return };
    let (pid, writing) = hung(&host, &tap);
    let slot = ["-p", &pid, "-m", "0"];
    let on_slot = |words: &[&'static str]| [&words[..1], &slot[..], &words[1..]].concat();
    let shown = |state: &str| format!("pid={pid} minor=0 state={state} args={}\n", aio(tap.path()));

    let said = "close has not ended after 1 s: waiting for requests to end (state 0x40, 1 requests outstanding)";
    let timed_out = |line: &str| (110, format!("{line}: Connection timed out"));
    assert_eq!(host.fails(&on_slot(&["destroy", "-t", "1"])), timed_out(&format!("close: {said}")));
    assert_eq!(host.fails(&on_slot(&["close", "-t", "1"])), timed_out(said));
    assert_eq!(host.ok(&["list"]), shown("0x40"));

    let begun = Instant::now();
    let (status, line) = host.fails(&on_slot(&["close", "-f"]));
    assert_eq!(status, 110);
    assert!(line.contains("storage hangs: 1 request in flight: write 0x1000+0x1000"), "{line}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(host.ok(&["list"]), shown("0x41"));
    let (status, line) = host.fails(&on_slot(&["open", "-a", "aio:/dev/null"]));
    assert!(status == 16 && line.contains("is stuck"), "{line}");
    assert_eq!(host.tap_ctl(&on_slot(&["detach"])).status, 22);

    // Others are served meanwhile, by the same process too.
    let other = host.attach(pid.parse().unwrap());
    host.ok(&["open", "-p", &pid, "-m", &other, "-a", &aio(&host.raw_image("a.img", 1 << 20))]);
    host.ok(&["close", "-p", &pid, "-m", &other]);
    host.ok(&["detach", "-p", &pid, "-m", &other]);

    // The client was cut off; when storage comes back, the disk becomes closed by itself.
    assert!(!writing.join().unwrap());
    tap.go_on();
    eventually("the disk is closed", || host.ok(&["list", "-m", "0"]) == format!("pid={pid} minor=0 state=0x2\n"));
    host.ok(&on_slot(&["destroy"]));
    drop(tap);
}

#[test]
fn a_dump_says_what_storage_has_under_way_and_what_the_loops_did() {
    let host = Host::new();
    let test = "hung_storage::a_dump_says_what_storage_has_under_way_and_what_the_loops_did";
    let Some(tap) = tap(test, &host) else { return };
    let (pid, writing) = hung(&host, &tap);
    let tapdisk = ProcessGuard::new(pid.parse().unwrap()).unwrap();
    tapdisk.signal(Signal::USR1).unwrap();
    let log = host.run.log_file(tapdisk.pid());
    let text = || fs::read_to_string(&log).unwrap_or_default();
    eventually("the dump", || text().contains("tapdisk-syslog: "));
    let text = text();
    let has = |words: &str| text.lines().any(|line| line.contains(words));
    assert!(has("minor=0 queue=0 in flight: 1 waiting for retry: 0 "), "{text}");
    assert!(has("minor=0 queue=0 write 0x1000+0x1000 for "), "{text}");
    let file = tap.path().display();
    assert!(text.lines().any(|line| line.contains(" under way for ") && line.contains(&format!("{file}: "))), "{text}");
    assert!(has("loop: minor=0 queue=0: turn 1: idle ") && has("loop: control: answers; its last "), "{text}");

    let ResultOf::Dump(dump) = host.native(tapdisk.pid()).ask(Command::Dump {}).unwrap() else { panic!("a dump") };
    let disk = dump.loops.iter().find(|state| state.minor == Some(0)).unwrap();
    assert!(disk.operations.iter().any(|running| running.what.starts_with(&format!("{file}: "))), "{disk:?}");
    assert!(!disk.turns.is_empty() && dump.loops.iter().any(|state| state.minor.is_none()));
    tap.go_on();
    assert!(writing.join().unwrap());
    host.ok(&["destroy", "-p", &pid, "-m", "0"]);
}

#[test]
fn a_close_that_nobody_waits_for_any_more_is_done_all_the_same() {
    let host = Host::new();
    let test = "hung_storage::a_close_that_nobody_waits_for_any_more_is_done_all_the_same";
    let Some(tap) = tap(test, &host) else { return };
    let (pid, writing) = hung(&host, &tap);
    assert_eq!(host.tap_ctl(&["pause", "-p", &pid, "-m", "0", "-t", "1"]).status, 110);
    assert!(host.ok(&["list"]).contains(" state=0x14 "));
    tap.go_on();
    eventually("the disk is paused", || host.ok(&["list"]).contains(" state=0x2a "));
    assert!(writing.join().unwrap(), "what was written before the pause is answered");
    host.ok(&["destroy", "-p", &pid, "-m", "0"]);
}

#[test]
fn clients_that_gave_up_waiting_take_no_room() {
    let host = Host::new();
    let Some(tap) = tap("hung_storage::clients_that_gave_up_waiting_take_no_room", &host) else { return };
    let (pid, writing) = hung(&host, &tap);
    let pid: u32 = pid.parse().unwrap();
    let impatient = host.client(pid).timeout(Duration::from_millis(1));
    for _ in 0..600 {
        assert!(impatient.close(minor("0")).is_err());
    }
    assert_eq!(host.client(pid).list().unwrap().len(), 1);
    tap.go_on();
    // All of them are carried out: closing again what is closed is nothing.
    eventually("the disk is closed", || host.ok(&["list"]) == format!("pid={pid} minor=0 state=0x2\n"));
    assert!(writing.join().is_ok());
    host.ok(&["destroy", "-p", &pid.to_string(), "-m", "0"]);
}

#[test]
fn told_once_to_end_it_waits_for_a_while_and_then_uses_force() {
    let host = Host::new();
    let test = "hung_storage::told_once_to_end_it_waits_for_a_while_and_then_uses_force";
    let Some(tap) = tap(test, &host) else { return };
    let (pid, writing) = hung(&host, &tap);
    let tapdisk = ProcessGuard::new(pid.parse().unwrap()).unwrap();
    tapdisk.signal(Signal::TERM).unwrap();
    let control = host.run.control_socket(tapdisk.pid());
    eventually("force", || host.ok(&["list"]).contains(" state=0x41 ") || !control.exists());
    eventually("its sockets are gone", || !control.exists());
    let log = host.run.log_file(tapdisk.pid());
    eventually("the log says so", || fs::read_to_string(&log).unwrap().contains("close by force: storage hangs"));
    tap.go_on();
    assert!(tapdisk.wait_for_end(LONG).unwrap());
    assert!(!writing.join().unwrap());
    host.ok(&["free", "-m", "0"]);
}

#[test]
fn a_process_that_is_told_to_end_ends_although_storage_hangs() {
    let host = Host::new();
    let test = "hung_storage::a_process_that_is_told_to_end_ends_although_storage_hangs";
    let Some(tap) = tap(test, &host) else { return };
    let (pid, writing) = hung(&host, &tap);
    let tapdisk = ProcessGuard::new(pid.parse().unwrap()).unwrap();
    tapdisk.signal(Signal::TERM).unwrap();
    eventually("the first is taken", || host.ok(&["list"]).contains(" state=0x4"));
    tapdisk.signal(Signal::TERM).unwrap();
    eventually("its sockets are gone", || !host.run.control_socket(tapdisk.pid()).exists());
    // What the kernel holds keeps the process, and only that.
    tap.go_on();
    let is_answered = writing.join().unwrap();
    assert!(tapdisk.wait_for_end(LONG).unwrap());
    // The sockets go first, the process a moment later: storage that goes on in between may still be quick enough.
    if is_answered {
        assert!(fs::read(tap.path()).unwrap()[4096..8192] == [2; 4096], "what was answered is there");
    }
    host.ok(&["free", "-m", "0"]);
}
