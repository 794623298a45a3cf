//! The log of a tapdisk: whatever log daemons do, no request waits for them, and the file tells everything.

use std::{
    env, fs,
    io::Write,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{self, Child, Stdio},
    thread,
};

use control_api::native::{Command, Faults, OpenImages};
use export::nbd::client::Client;
use rustix::process::Signal;
use test_support::{LogReceiver, ProcessGuard};

use crate::host::{Host, LONG, eventually, minor};

/// The line of a request of [`load`] that failed.
const FAILED: &str = ": write 0x0+0x200 failed: ";
/// Connections of a load.
const CONNECTIONS: u64 = 4;

/// A disk whose first half takes no writes.
struct FailingDisk {
    host: Host,
    tapdisk: ProcessGuard,
}

impl FailingDisk {
    fn new(host: Host) -> FailingDisk {
        FailingDisk::with(host, "write@0+512K=EIO")
    }

    fn with(host: Host, faults: &str) -> FailingDisk {
        let image = format!("fault:{faults}:aio:{}", host.raw_image("a.img", 1 << 20).display());
        let pid = host.spawn();
        FailingDisk::opened(host, pid, &image)
    }

    /// One that tells a journal at `socket`.
    fn with_journal(host: Host, socket: &Path) -> FailingDisk {
        let image = format!("fault:write@0+512K=EIO:aio:{}", host.raw_image("a.img", 1 << 20).display());
        let tapdisk = host.command(&["spawn"]).env("OXTAP_JOURNAL", socket).output().unwrap();
        let pid = String::from_utf8(tapdisk.stdout).unwrap().trim().parse().unwrap();
        FailingDisk::opened(host, pid, &image)
    }

    fn opened(host: Host, pid: u32, image: &str) -> FailingDisk {
        let minor = host.attach(pid);
        host.ok(&["open", "-p", &pid.to_string(), "-m", &minor, "-a", image]);
        FailingDisk { host, tapdisk: ProcessGuard::new(pid).unwrap() }
    }

    fn pid(&self) -> u32 {
        self.tapdisk.pid()
    }

    fn client(&self) -> Client {
        Client::connect_unix(&self.host.run.nbd_socket(self.pid(), minor("0")), "").unwrap()
    }

    /// Writes, every second of which fails, until so many have failed. All must be answered.
    fn load(&self, failures: u64) {
        thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                let mut client = self.client();
                scope.spawn(move || {
                    for _ in 0..failures / CONNECTIONS {
                        assert!(client.write(0, &[1; 512]).is_err());
                        client.write(524_288, &[1; 512]).unwrap();
                    }
                });
            }
        });
    }

    /// The lines of the log file so far, without their times.
    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.host.run.log_file(self.pid())).unwrap_or_default();
        text.lines().filter_map(|line| line.split_once("] ")).map(|(_, words)| words.to_owned()).collect()
    }

    /// What became of the messages for the log daemon: produced, delivered, waiting, dropped. They are counted when all
    /// lines of the load are in the file.
    fn messages(&self, failures: u64) -> [u64; 4] {
        let failed = || self.lines().iter().filter(|line| line.contains(FAILED)).count() as u64;
        eventually("every line is in the file", || failed() == failures);
        let head = "tapdisk-syslog: ";
        let dumps = |lines: &[String]| lines.iter().filter(|line| line.starts_with(head)).count();
        let before = dumps(&self.lines());
        self.tapdisk.signal(Signal::USR1).unwrap();
        eventually("the dump", || dumps(&self.lines()) > before);
        let lines = self.lines();
        let line = lines.iter().rfind(|line| line.starts_with(head)).unwrap();
        let numbers = line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect::<Vec<u64>>();
        numbers.try_into().unwrap()
    }

    /// Closes everything; gives the whole log.
    fn end(&self) -> Vec<String> {
        self.host.ok(&["destroy", "-p", &self.pid().to_string(), "-m", "0"]);
        assert!(self.tapdisk.wait_for_end(LONG).unwrap());
        self.lines()
    }
}

/// How many messages the notices in a log daemon's lines say are missing.
fn noticed(received: &[String]) -> u64 {
    let notices = received.iter().filter_map(|line| line.split_once("tapdisk-syslog: "));
    notices.map(|(_, words)| words.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn messages_in(received: &[String]) -> u64 {
    received.iter().filter(|line| !line.contains("tapdisk-syslog: ")).count() as u64
}

/// A log daemon in a process of its own, which can be stopped. It writes what it receives to a file.
struct Daemon {
    child: Child,
    guard: ProcessGuard,
    received: PathBuf,
}

const DAEMON_VARIABLE: &str = "OXTAP_TEST_LOG_DAEMON";

impl Daemon {
    fn start(host: &Host) -> Daemon {
        let received = host.place.scratch().join("received");
        let mut command = process::Command::new(env::current_exe().unwrap());
        command.args(["--exact", "logging::a_log_daemon_for_others", "--nocapture"]);
        command.env(DAEMON_VARIABLE, host.place.syslog()).stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.stdout(fs::File::create(&received).unwrap()).spawn().unwrap();
        let guard = ProcessGuard::new(child.id()).unwrap();
        eventually("the log daemon listens", || host.place.syslog().exists());
        Daemon { child, guard, received }
    }

    fn received(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.received).unwrap();
        text.lines().filter(|line| line.contains(" tapdisk[")).map(str::to_owned).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.guard.kill();
        let _ = self.child.wait();
    }
}

/// Not a test, but the program of [`Daemon`]; it ends when it is killed.
#[test]
fn a_log_daemon_for_others() {
    let Some(socket) = env::var_os(DAEMON_VARIABLE) else { return };
    let receiver = LogReceiver::new(Path::new(&socket));
    let mut out = std::io::stdout();
    loop {
        for line in std::iter::from_fn(|| receiver.next_line()) {
            out.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }
}

#[test]
fn a_log_daemon_that_is_stopped_holds_up_nobody_and_gets_later_what_was_kept_for_it() {
    const FAILURES: u64 = 6000;
    let host = Host::new();
    let daemon = Daemon::start(&host);
    let disk = FailingDisk::new(host);
    eventually("it is told", || !daemon.received().is_empty());
    daemon.guard.stop().unwrap();
    disk.load(FAILURES);
    let [produced, delivered, waiting, dropped] = disk.messages(FAILURES);
    assert!(produced >= FAILURES && waiting > 0 && dropped > 0, "{produced} {waiting} {dropped}");
    assert_eq!(delivered + waiting + dropped, produced);

    daemon.guard.signal(Signal::CONT).unwrap();
    let all = || {
        let received = daemon.received();
        messages_in(&received) + noticed(&received)
    };
    eventually("all is told or counted", || all() == produced);
    let [produced, delivered, waiting, dropped] = disk.messages(FAILURES);
    assert_eq!((waiting, delivered + dropped), (0, produced));
    let log = disk.end();
    assert_eq!(log.iter().filter(|line| line.contains(FAILED)).count() as u64, FAILURES);
    eventually("the daemon got the rest", || messages_in(&daemon.received()) > delivered);
}

#[test]
fn a_log_daemon_that_never_reads_holds_up_nobody_either() {
    const FAILURES: u64 = 6000;
    let host = Host::new();
    let receiver = LogReceiver::new(&host.place.syslog());
    let disk = FailingDisk::new(host);
    disk.load(FAILURES);
    let log = disk.end();
    assert_eq!(log.iter().filter(|line| line.contains(FAILED)).count() as u64, FAILURES);
    let cause = log.iter().find(|line| line.starts_with("cause: ")).unwrap();
    assert!(cause.contains(" write: Input/output error (errno 5), at ") && cause.contains(": 6000 failed,"), "{cause}");
    let [.., dropped, end] = &log[..] else { panic!("{log:?}") };
    assert!(end.ends_with(": closing log, 6000 errors"), "{end}");
    let dropped: u64 = dropped.split(' ').nth(1).unwrap().parse().unwrap();
    let received = receiver.read_all();
    // What is in the file but for the first and the last line was meant for the daemon as well.
    let produced = log.iter().filter(|line| line.starts_with("minor=")).count() as u64;
    assert!(messages_in(&received) + dropped >= produced, "{} + {dropped} of {produced}", received.len());
}

#[test]
fn a_journal_that_never_reads_holds_up_nobody_either() {
    const FAILURES: u64 = 6000;
    let host = Host::new();
    let socket = host.place.scratch().join("journal");
    let receiver = LogReceiver::new(&socket);
    let disk = FailingDisk::with_journal(host, &socket);
    disk.load(FAILURES);
    let log = disk.end();
    assert_eq!(log.iter().filter(|line| line.contains(FAILED)).count() as u64, FAILURES);
    let [.., dropped, _] = &log[..] else { panic!("{log:?}") };
    let dropped: u64 = dropped.split(' ').nth(1).unwrap().parse().unwrap();
    let received = receiver.read_all();
    assert!(dropped > 0 && received[0].starts_with("MESSAGE="), "{dropped} dropped, {received:?}");
}

#[test]
fn a_log_daemon_that_is_restarted_misses_nothing() {
    let host = Host::new();
    let receiver = LogReceiver::new(&host.place.syslog());
    let disk = FailingDisk::new(host);
    disk.load(40);
    let mut received = receiver.read_all();
    drop(receiver);
    disk.load(40);
    disk.messages(80);
    let receiver = LogReceiver::new(&disk.host.place.syslog());
    let failed = |received: &[String]| received.iter().filter(|line| line.contains(FAILED)).count();
    eventually("all lines are there", || {
        received.extend(receiver.read_all());
        failed(&received) == 80
    });
    assert_eq!(noticed(&received), 0);
    disk.end();
}

#[test]
fn a_failure_is_told_at_once_with_its_whole_story() {
    let host = Host::new();
    let receiver = LogReceiver::new(&host.place.syslog());
    let disk = FailingDisk::new(host);
    let image = disk.host.place.scratch().join("a.img");
    assert!(disk.client().write(0, &[1; 512]).is_err());
    let line = std::iter::from_fn(|| receiver.next_line()).find(|line| line.contains(FAILED)).unwrap();
    let head = format!(" tapdisk[{}]: tap-err:minor=0 image=fault:", disk.pid());
    assert!(line.starts_with("<27>") && line.contains(&head), "{line}");
    assert!(line.contains(&format!("(errno 5) at {}; attempts 1 in 0.", image.display())), "{line}");
    assert!(line.contains("queue 0: kicks 1 in ") && line.contains("1 requests, 1.0 per kick"), "{line}");
    let words = line.split_once("tap-err:").unwrap().1.to_owned();
    eventually("the file has it too", || disk.lines().contains(&words));

    // Nonsense reaches no storage.
    assert!(disk.client().write(1 << 20, &[1; 512]).is_err());
    let line = std::iter::from_fn(|| receiver.next_line()).find(|line| line.contains(" failed: ")).unwrap();
    assert!(line.contains(", never reached storage; attempts 0 in "), "{line}");
    disk.end();
}

#[test]
fn a_journal_gets_fields() {
    let host = Host::new();
    let socket = host.place.scratch().join("journal");
    let receiver = LogReceiver::new(&socket);
    let tapdisk = host.command(&["spawn"]).env("OXTAP_JOURNAL", &socket).output().unwrap();
    let pid = String::from_utf8(tapdisk.stdout).unwrap().trim().to_owned();
    let image = format!("fault:write=EIO:aio:{}", host.raw_image("a.img", 1 << 20).display());
    let minor = host.attach(pid.parse().unwrap());
    host.ok(&["open", "-p", &pid, "-m", &minor, "-a", &image]);
    let socket = host.run.nbd_socket(pid.parse().unwrap(), crate::host::minor(&minor));
    assert!(Client::connect_unix(&socket, "").unwrap().write(0, &[1; 512]).is_err());
    let message = std::iter::from_fn(|| receiver.next_line()).find(|message| message.contains(FAILED)).unwrap();
    let fields: Vec<&str> = message.lines().collect();
    assert!(fields[0].starts_with("MESSAGE=tap-err:minor=0 image="), "{message}");
    let pid_field = format!("SYSLOG_PID={pid}");
    for field in ["PRIORITY=3", "SYSLOG_IDENTIFIER=tapdisk", &pid_field, "OXTAP_MINOR=0", "OXTAP_ERRNO=5"] {
        assert!(fields.contains(&field), "{field}: {message}");
    }
    host.ok(&["destroy", "-p", &pid, "-m", &minor]);
}

#[test]
fn a_first_attempt_that_failed_is_told_and_keeps_no_file() {
    let host = Host::new();
    let receiver = LogReceiver::new(&host.place.syslog());
    let disk = FailingDisk::with(host, "write@0+512Kx2=EAGAIN");
    disk.client().write(0, &[1; 512]).unwrap();
    let again = ": write 0x0+0x200 is attempted again: ";
    let line = std::iter::from_fn(|| receiver.next_line()).find(|line| line.contains(again)).unwrap();
    assert!(line.starts_with("<28>") && line.contains("(errno 11) at /"), "{line}");
    assert_eq!(receiver.read_all().iter().filter(|line| line.contains(again)).count(), 0, "the second is not news");
    assert!(disk.end().is_empty());
}

#[test]
fn a_request_that_hangs_is_told_once_and_so_is_its_end() {
    let host = Host::new();
    let receiver = LogReceiver::new(&host.place.syslog());
    let pid = host.spawn();
    let number: u16 = host.attach(pid).parse().unwrap();
    let path = host.raw_image("a.img", 1 << 20);
    let (image, faults) = (format!("aio:{}", path.display()), Some("write=hang".to_owned()));
    let mut native = host.native(pid);
    let open = OpenImages { minor: number, image, faults, stuck_after_seconds: Some(1), ..OpenImages::default() };
    native.ask(Command::Open(open)).unwrap();
    let socket = host.run.nbd_socket(pid, minor("0"));
    let writing = thread::spawn(move || Client::connect_unix(&socket, "").unwrap().write(0, &[1; 512]).is_ok());
    let mut line = String::new();
    eventually("it is told", || {
        line = receiver.next_line().unwrap_or_default();
        line.contains(": write 0x0+0x200 stuck for 1.")
    });
    assert!(line.contains("queue 0; images ") && line.contains("; under way: "), "{line}");
    assert_eq!(line.matches(path.to_str().unwrap()).count(), 3, "the disk, its image and the operation: {line}");
    native.ask(Command::Faults(Faults { minor: number, rules: String::new() })).unwrap();
    assert!(writing.join().unwrap());
    let rest = receiver.read_all();
    let ends = rest.iter().filter(|line| line.contains(": write 0x0+0x200 was stuck and has ended after 1.")).count();
    assert_eq!((ends, rest.iter().filter(|line| line.contains(" stuck for ")).count()), (1, 0), "{rest:?}");
    host.ok(&["destroy", "-p", &pid.to_string(), "-m", "0"]);
}

#[test]
fn tools_wait_for_no_log_daemon() {
    let host = Host::new();
    let receiver = LogReceiver::new(&host.place.syslog());
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"noise", receiver.path()).is_ok() {}
    let refused = host.fails(&["close", "-p", "1", "-m", "0"]);
    assert!(receiver.read_all().iter().all(|line| line == "noise"));
    assert_eq!(host.fails(&["close", "-p", "1", "-m", "0"]), refused);
    let line = receiver.next_line().unwrap();
    assert!(line.starts_with("<11>") && line.contains(" tap-ctl[") && line.contains("]: tap-err:close: "), "{line}");
}
