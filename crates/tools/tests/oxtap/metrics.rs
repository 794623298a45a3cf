//! The numbers of real tapdisks, as a scraper gets them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use control_api::RunDir;
use rustix::process::Signal;
use test_support::{ProcessGuard, RunDirectory};
use xen::budget::{Budget, Limits, MapPurpose};

use crate::{
    openmetrics::Page,
    tapdisk::{Tapdisk, oxtap, refused, succeed},
};

/// A hang limit.
const LIMIT: Duration = Duration::from_secs(60);

/// `oxtap metrics --listen`, and what it said.
struct Scraped {
    child: Child,
    guard: ProcessGuard,
    said: String,
}

impl Scraped {
    fn start(place: &RunDirectory, words: &[&str]) -> Scraped {
        let mut command = place.program("oxtap");
        command.args(["metrics", "--listen"]).args(words).current_dir(place.scratch()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let guard = ProcessGuard::new(child.id()).unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        Scraped { child, guard, said: said.trim().to_owned() }
    }

    fn connect(&self) -> TcpStream {
        let address = self.said.strip_prefix("metrics on http://").and_then(|rest| rest.strip_suffix("/metrics"));
        let stream = TcpStream::connect(address.unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn end(mut self) {
        self.guard.signal(Signal::TERM).unwrap();
        assert!(self.guard.wait_for_end(LIMIT).unwrap(), "it does not end");
        assert!(self.child.wait().unwrap().success());
    }
}

/// Asks for the page.
fn scrape(mut stream: impl Read + Write) -> Page {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let kind = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.lines().any(|line| line == kind), "{head}");
    Page::read(body)
}

#[test]
fn what_all_guests_of_the_host_use_is_told_by_every_view() {
    let place = RunDirectory::new();
    let path = RunDir::at(place.path()).grant_budget();
    let budget = Budget::open(&path, Some(Limits::new(300).unwrap())).unwrap();
    let share = budget.share().unwrap();
    let _ring = share.map(16, MapPurpose::Ring).unwrap();
    share.count_wait(Duration::from_millis(1500));
    let page = Page::read(&oxtap(&place, &["metrics"]));
    let pages = |name, what| page.value(name, &[("use", what)]);
    let used = ["copy", "map"].map(|what| pages("oxtap_grant_budget_used_pages", what));
    assert_eq!((used, pages("oxtap_grant_budget_limit_pages", "map")), ([0.0, 16.0], 300.0));
    assert_eq!(page.value("oxtap_grant_budget_waited_seconds_total", &[]), 1.5);
    let line = "grant budget: 0 of 300 pages copied, 16 of 300 mapped, 1 disk, 0 waiting, 1 wait so far (1.50 s)";
    for words in [&["ls"][..], &["top", "--once", "--guests", "-i", "0.1"]] {
        let told = oxtap(&place, words);
        assert!(told.lines().any(|told| told == line), "{told}");
    }
}

#[test]
fn requests_of_all_disks_are_counted_timed_and_well_formed() {
    let place = RunDirectory::new();
    let (one, other) = (Tapdisk::start(&place, "a.vhd"), Tapdisk::start(&place, "odd \"name\"\\.vhd"));
    succeed(&mut one.qemu_io(&["write -P 1 0 1M", "read 0 64k", "read 0 64k", "flush"]));
    let page = Page::read(&oxtap(&place, &["metrics"]));
    let (pid, minor) = (one.pid.to_string(), one.minor.to_string());
    let labels = [("pid", pid.as_str()), ("minor", minor.as_str()), ("kind", "read")];
    assert_eq!(page.value("oxtap_disk_completed_requests_total", &labels), 2.0);
    assert_eq!(page.value("oxtap_disk_request_bytes_total", &labels), 131_072.0);
    assert_eq!(page.value("oxtap_disk_served_seconds_count", &labels), 2.0);
    assert!(page.value("oxtap_disk_served_seconds_sum", &labels) > 0.0);
    let odd = format!("vhd:{}", place.scratch().join("odd \"name\"\\.vhd").display());
    let labels = [("pid", &*other.pid.to_string()), ("image", &odd), ("read_only", "false")];
    assert_eq!(page.value("oxtap_disk_info", &labels), 1.0);
    for (family, kind, unit) in [
        ("oxtap_tapdisk_up", "gauge", ""),
        ("oxtap_disk", "info", ""),
        ("oxtap_disk_state", "stateset", ""),
        ("oxtap_disk_size_bytes", "gauge", "bytes"),
        ("oxtap_disk_completed_requests", "counter", ""),
        ("oxtap_disk_request_bytes", "counter", "bytes"),
        ("oxtap_disk_served_seconds", "histogram", "seconds"),
    ] {
        let family = page.family(family);
        assert_eq!((family.kind.as_str(), family.unit.as_str()), (kind, unit), "{}", family.name);
        assert!(!family.samples.is_empty(), "{}", family.name);
    }
    one.destroy();
    other.destroy();
    place.assert_nothing_left();
}

#[test]
fn a_tapdisk_that_hangs_is_down_and_delays_nobody() {
    let place = RunDirectory::new();
    let (fine, hung) = (Tapdisk::start(&place, "a.vhd"), Tapdisk::start(&place, "b.vhd"));
    let scraped = Scraped::start(&place, &["127.0.0.1:0", "--patience", "1"]);
    let guard = ProcessGuard::new(hung.pid).unwrap();
    guard.stop().unwrap();
    let up = |page: &Page, pid: u32| page.value("oxtap_tapdisk_up", &[("pid", &pid.to_string())]);
    let begun = Instant::now();
    let page = loop {
        let page = scrape(scraped.connect());
        assert_eq!(up(&page, hung.pid), 0.0);
        // On a busy machine also a healthy one may once take longer than we want to wait for the other.
        if up(&page, fine.pid) == 1.0 {
            break page;
        }
        assert!(begun.elapsed() < LIMIT, "the healthy one is never up");
    };
    assert!(page.value("oxtap_disk_size_bytes", &[("pid", &fine.pid.to_string())]) > 0.0);
    guard.signal(Signal::CONT).unwrap();
    guard.release();
    fine.destroy();
    hung.destroy();
    scraped.end();
    place.assert_nothing_left();
}

#[test]
fn a_scraper_may_come_over_a_unix_socket_which_goes_with_the_server() {
    let place = RunDirectory::new();
    let scraped = Scraped::start(&place, &["unix:here"]);
    assert_eq!(scraped.said, "metrics on unix:here");
    let socket = place.scratch().join("here");
    scrape(UnixStream::connect(&socket).unwrap());
    scraped.end();
    assert!(!socket.exists());
}

#[test]
fn strangers_who_hang_about_keep_nobody_else_away() {
    let place = RunDirectory::new();
    let scraped = Scraped::start(&place, &["127.0.0.1:0"]);
    let silent: Vec<TcpStream> = (0..20).map(|_| scraped.connect()).collect();
    let mut rude = scraped.connect();
    // He does not read the answer, and sends what nobody asked for until he is refused.
    let _ = rude.write_all(&vec![b'x'; 1 << 20]);
    let gone = scraped.connect();
    gone.shutdown(Shutdown::Both).unwrap();
    scrape(scraped.connect());
    drop(silent);
    scraped.end();
}

#[test]
fn other_hosts_cannot_connect_by_accident() {
    let place = RunDirectory::new();
    let (status, said) = refused(&place, &["metrics", "--listen", "0.0.0.0:0"]);
    assert_eq!(status, 22);
    assert!(said.contains("--allow-remote"), "{said}");
}
