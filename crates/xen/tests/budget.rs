//! The budget that processes share: limits, the line, and what the dead leave behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    task::{Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use block_core::ErrorKind;
use test_support::ProcessGuard;
use xen::budget::{Budget, Limits, MapPurpose, Permit, REQUEST_PAGES_MAX, Share, Waiter};

/// Longer than anything here takes; a test that hangs fails.
const HANG: Duration = Duration::from_secs(10);

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn open(&self, pages: u32) -> Budget {
        Budget::open(&self.directory.path().join("budget"), Some(Limits::new(pages).unwrap())).unwrap()
    }
}

/// Wakes whoever receives.
struct Bell(mpsc::Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

fn bell() -> (Waker, mpsc::Receiver<()>) {
    let (send, receive) = mpsc::channel();
    (Waker::from(Arc::new(Bell(send))), receive)
}

/// Waits until the pages are there.
fn take(waiter: &mut Waiter, pages: u32) -> Permit {
    let (waker, woken) = bell();
    let begun = Instant::now();
    loop {
        match waiter.poll(pages, &waker) {
            Poll::Ready(permit) => return permit,
            Poll::Pending => woken.recv_timeout(HANG).expect("nobody is forgotten"),
        }
        assert!(begun.elapsed() < HANG, "called again and again, and never first");
    }
}

fn take_now(share: &Share, pages: u32) -> Option<Permit> {
    match share.waiter().poll(pages, Waker::noop()) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

#[test]
fn the_limit_holds_for_all_together() {
    let place = Place::new();
    let (one, other) = (place.open(600), place.open(600));
    let (first, second) = (one.share().unwrap(), other.share().unwrap());
    let permit = take_now(&first, 264).unwrap();
    assert!(take_now(&second, 264).is_some(), "given back at once");
    let whole = [permit, take_now(&second, 264).unwrap()];
    assert!(take_now(&first, 80).is_none(), "72 are left");
    let rest = take_now(&second, 72);
    assert!(rest.is_none(), "a disk has one batch under way");
    assert_eq!((one.account().copied, one.account().waiting, one.account().shares), (528, 0, 2));
    drop(whole);
    assert_eq!(other.account().copied, 0);
}

#[test]
fn a_limit_is_at_least_one_request() {
    for pages in [0, REQUEST_PAGES_MAX - 1, 1 << 20, u32::MAX] {
        assert_eq!(Limits::new(pages).unwrap_err().kind(), ErrorKind::Invalid, "{pages}");
    }
    let place = Place::new();
    let budget = place.open(REQUEST_PAGES_MAX);
    assert!(take_now(&budget.share().unwrap(), REQUEST_PAGES_MAX).is_some());
}

#[test]
fn nobody_is_let_past_who_came_later() {
    let place = Place::new();
    let budgets = [place.open(264), place.open(264), place.open(264)];
    let [holder, large, small] = budgets.each_ref().map(|budget| budget.share().unwrap());
    let held = take_now(&holder, 10).unwrap();
    let (mut first, mut second) = (large.waiter(), small.waiter());
    let (waker, woken) = bell();
    assert!(first.poll(264, &waker).is_pending());
    assert!(second.poll(1, Waker::noop()).is_pending(), "there is room for it, and it came later");
    assert_eq!(budgets[0].account().waiting, 2);
    drop(held);
    woken.recv_timeout(HANG).unwrap();
    let Poll::Ready(permit) = first.poll(264, &waker) else { panic!("it is the first") };
    assert!(second.poll(1, Waker::noop()).is_pending());
    drop(permit);
    assert_eq!(take(&mut second, 1).pages(), 1);
    assert_eq!(budgets[0].account().waiting, 0);
}

#[test]
fn who_gives_up_lets_the_next_one_pass() {
    let place = Place::new();
    let budgets = [place.open(264), place.open(264), place.open(264)];
    let [holder, large, small] = budgets.each_ref().map(|budget| budget.share().unwrap());
    let _held = take_now(&holder, 10).unwrap();
    let (mut first, mut second) = (large.waiter(), small.waiter());
    assert!(first.poll(264, Waker::noop()).is_pending());
    assert!(second.poll(1, Waker::noop()).is_pending());
    drop(first);
    assert_eq!(take(&mut second, 1).pages(), 1);
}

#[test]
fn rings_of_one_disk_stand_in_line_once() {
    let place = Place::new();
    let (one, other) = (place.open(264), place.open(264));
    let (disk, holder) = (one.share().unwrap(), other.share().unwrap());
    let held = take_now(&holder, 264).unwrap();
    let mut rings: Vec<Waiter> = (0..3).map(|_| disk.waiter()).collect();
    assert!(rings.iter_mut().all(|ring| ring.poll(100, Waker::noop()).is_pending()));
    assert_eq!(one.account().waiting, 1);
    drop(held);
    let permits: Vec<Permit> = rings.iter_mut().take(2).map(|ring| take(ring, 100)).collect();
    assert!(rings[2].poll(100, Waker::noop()).is_pending(), "64 are left");
    drop(permits);
    assert_eq!(take(&mut rings[2], 100).pages(), 100);
}

#[test]
fn threads_that_fight_for_pages_all_get_theirs() {
    let place = Place::new();
    let (under_way, most) = (AtomicU32::new(0), AtomicU32::new(0));
    let rounds = test_support::cycles(300, 30_000);
    thread::scope(|scope| {
        for number in 0..6_u32 {
            let budget = place.open(400);
            let (under_way, most) = (&under_way, &most);
            scope.spawn(move || {
                let share = budget.share().unwrap();
                let mut waiter = share.waiter();
                for round in 0..rounds {
                    let pages = 1 + (number * 97 + u32::try_from(round % 1000).unwrap() * 31) % 264;
                    let permit = take(&mut waiter, pages);
                    let now = under_way.fetch_add(permit.pages(), Ordering::SeqCst) + permit.pages();
                    most.fetch_max(now, Ordering::SeqCst);
                    assert!(now <= 400, "{now} pages at once");
                    thread::yield_now();
                    under_way.fetch_sub(permit.pages(), Ordering::SeqCst);
                }
            });
        }
    });
    let account = place.open(400).account();
    assert_eq!((account.copied, account.waiting, account.shares), (0, 0, 0));
    assert!(most.into_inner() > 264, "several were under way");
}

#[test]
fn data_leaves_room_for_rings_to_be_mapped() {
    let place = Place::new();
    let budget = place.open(800);
    let share = budget.share().unwrap();
    let disks: Vec<Share> = (0..3).map(|_| budget.share().unwrap()).collect();
    assert_eq!(
        disks[0].map(265, MapPurpose::Data).unwrap_err().kind(),
        ErrorKind::LimitReached,
        "others want some, too"
    );
    let data: Vec<Permit> =
        disks.iter().zip([264, 264, 172]).map(|(disk, pages)| disk.map(pages, MapPurpose::Data).unwrap()).collect();
    assert_eq!(share.map(1, MapPurpose::Data).unwrap_err().kind(), ErrorKind::LimitReached);
    let ring = share.map(100, MapPurpose::Ring).unwrap();
    let refused = share.map(1, MapPurpose::Ring).unwrap_err().to_string();
    assert!(refused.contains("800 of 800"), "{refused}");
    drop(data);
    assert_eq!(budget.account().mapped, ring.pages());
    assert!(share.map(1, MapPurpose::Data).is_ok());
}

#[test]
fn limits_that_are_raised_let_those_pass_who_wait() {
    let place = Place::new();
    let budget = place.open(264);
    let shares = [budget.share().unwrap(), budget.share().unwrap()];
    let _held = take_now(&shares[0], 264).unwrap();
    let mut waiter = shares[1].waiter();
    let (waker, woken) = bell();
    assert!(waiter.poll(264, &waker).is_pending());
    place.open(528);
    woken.recv_timeout(HANG).unwrap();
    assert_eq!(take(&mut waiter, 264).pages(), 264);
}

#[test]
fn what_is_no_budget_is_refused() {
    let place = Place::new();
    let path = place.directory.path().join("other");
    std::fs::write(&path, b"something else").unwrap();
    assert_eq!(Budget::open(&path, None).unwrap_err().kind(), ErrorKind::Invalid);
    let link = place.directory.path().join("link");
    std::os::unix::fs::symlink(place.directory.path().join("nowhere"), &link).unwrap();
    assert!(Budget::open(&link, None).is_err());
}

/// Says to a test program that it is the other process, and what it is to do.
const OTHER: &str = "OXTAP_TEST_BUDGET";

/// Another process, which has taken pages, or stands in line for them.
struct Other {
    child: Child,
    guard: ProcessGuard,
}

impl Other {
    fn start(place: &Path, what: &str) -> Other {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "in_another_process", "--nocapture"])
            .env(OTHER, format!("{what} {}", place.display()));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("it is so")), "it began");
        let guard = ProcessGuard::new(child.id()).unwrap();
        Other { child, guard }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does nothing, unless another test has started it.
#[test]
fn in_another_process() {
    let Ok(told) = env::var(OTHER) else { return };
    let (what, path) = told.split_once(' ').unwrap();
    let budget = Budget::open(&Path::new(path).join("budget"), None).unwrap();
    let share = budget.share().unwrap();
    let mut waiter = share.waiter();
    let (waker, woken) = bell();
    let permits = match what {
        "has-most" => (take_now(&share, 264), Some(share.map(500, MapPurpose::Ring).unwrap())),
        _ => {
            assert!(waiter.poll(264, &waker).is_pending());
            (None, None)
        }
    };
    println!("\nit is so");
    // Until it is killed; whoever stands in line takes what it can get, and gives it back.
    while woken.recv().is_ok() {
        drop(waiter.poll(264, &waker));
    }
    drop(permits);
}

#[test]
fn a_killed_process_gives_back_what_it_had() {
    let place = Place::new();
    let budget = place.open(600);
    let share = budget.share().unwrap();
    let mut other = Other::start(place.directory.path(), "has-most");
    assert_eq!((budget.account().copied, budget.account().mapped), (264, 500));
    let (mine, second) = (take_now(&share, 264).unwrap(), budget.share().unwrap());
    let mut waiter = second.waiter();
    let (waker, woken) = bell();
    assert!(waiter.poll(264, &waker).is_pending());
    assert!(share.map(200, MapPurpose::Data).is_err(), "a ring would look who has died");
    other.child.kill().unwrap();
    other.child.wait().unwrap();
    woken.recv_timeout(HANG).expect("its share comes back");
    assert_eq!(take(&mut waiter, 264).pages(), 264);
    assert!(share.map(200, MapPurpose::Data).is_ok());
    drop(mine);
    assert_eq!((budget.account().copied, budget.account().shares), (0, 2));
}

#[test]
fn whoever_dies_in_line_is_not_waited_for() {
    let place = Place::new();
    let budget = place.open(264);
    let shares = [budget.share().unwrap(), budget.share().unwrap()];
    let held = take_now(&shares[0], 10).unwrap();
    let other = Other::start(place.directory.path(), "waits");
    let mut waiter = shares[1].waiter();
    let (waker, woken) = bell();
    assert!(waiter.poll(10, &waker).is_pending(), "behind the other one");
    drop(other);
    woken.recv_timeout(HANG).expect("the dead do not stand in line");
    assert_eq!(take(&mut waiter, 10).pages(), 10);
    drop(held);
}

#[test]
fn whoever_is_stopped_in_line_is_passed_over_and_comes_later() {
    let place = Place::new();
    let budget = place.open(264);
    let shares = [budget.share().unwrap(), budget.share().unwrap()];
    let held = take_now(&shares[0], 10).unwrap();
    let other = Other::start(place.directory.path(), "waits");
    let mut waiter = shares[1].waiter();
    let (waker, woken) = bell();
    assert!(waiter.poll(10, &waker).is_pending(), "behind the other one");
    other.guard.stop().unwrap();
    drop(held);
    woken.recv_timeout(HANG).expect("nobody waits for one that is stopped");
    drop(take(&mut waiter, 10));
    other.guard.signal(rustix::process::Signal::CONT).unwrap();
    let mut again = shares[1].waiter();
    drop(take(&mut again, 264));
}
