//! The live view on a real terminal.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use test_support::{ProcessGuard, RunDirectory, require_tool};

use crate::tapdisk::{Tapdisk, oxtap};

/// What a terminal is told when a program takes it over.
const SCREEN: &str = "\u{1b}[?1049h";
/// What a terminal is told when a program gives it back: the screen as it was, and the cursor.
const SCREEN_BACK: &str = "\u{1b}[?1049l";
const CURSOR_BACK: &str = "\u{1b}[?25h";

/// A hang limit.
const LIMIT: Duration = Duration::from_secs(60);

/// `oxtap top` on a terminal of 100 columns; `script` is the terminal.
struct Top {
    child: Child,
    keys: ChildStdin,
    terminal: Receiver<String>,
    /// Everything that was written to the terminal.
    written: String,
    pid: u32,
}

impl Top {
    fn start(place: &RunDirectory) -> Top {
        let program = test_support::target_program("oxtap");
        // What the terminal is like afterwards is shown, too.
        let line = format!(
            "stty rows 24 cols 100; sh -c 'echo pid=$$.; exec {} top -i 0.1'; echo ended=$?; stty -a",
            program.display()
        );
        let mut script = place.command(require_tool("script"));
        script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm").env("SHELL", "/bin/sh");
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keys, terminal) = (child.stdin.take().unwrap(), read(child.stdout.take().unwrap()));
        let mut top = Top { child, keys, terminal, written: String::new(), pid: 0 };
        top.wait_until(|top| top.written.contains(SCREEN));
        let pid = top.written.split("pid=").nth(1).and_then(|rest| rest.split('.').next());
        top.pid = pid.unwrap().parse().unwrap();
        top
    }

    /// Reads until these words are on the screen.
    fn wait_for(&mut self, words: &str) {
        self.wait_until(|top| screen(&top.written).iter().any(|line| line.contains(words)));
    }

    fn wait_until(&mut self, condition: impl Fn(&Top) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !condition(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(written) = self.terminal.recv_timeout(left) else {
                panic!("it is not shown: {:#?}", screen(&self.written));
            };
            self.written += &written;
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end; everything that was written.
    fn end(mut self) -> String {
        loop {
            match self.terminal.recv_timeout(LIMIT) {
                Ok(written) => self.written += &written,
                Err(RecvTimeoutError::Disconnected) => return std::mem::take(&mut self.written),
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {:#?}", screen(&self.written)),
            }
        }
    }
}

/// What is read from a terminal, until its end.
fn read(mut terminal: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = terminal.read(&mut bytes) {
            let _ = sender.send(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
    });
    receiver
}

impl Drop for Top {
    fn drop(&mut self) {
        // Where a test fails, the terminal and what runs on it must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of the screen: what stands where after all that was written. Colours do not matter.
fn screen(written: &str) -> Vec<String> {
    let mut cells: BTreeMap<(usize, usize), char> = BTreeMap::new();
    let (mut line, mut column) = (1, 1);
    let mut rest = written.rsplit_once(SCREEN).map_or("", |(_, rest)| rest).chars();
    while let Some(letter) = rest.next() {
        if letter != '\u{1b}' {
            cells.insert((line, column), letter);
            column += 1;
        } else if rest.next() == Some('[') {
            let arguments: String = rest.by_ref().take_while(|letter| !letter.is_ascii_alphabetic()).collect();
            // The letter that ends the sequence is gone; only moves have two plain numbers.
            let numbers: Option<Vec<usize>> = arguments.split(';').map(|number| number.parse().ok()).collect();
            if let Some([to_line, to_column]) = numbers.as_deref() {
                (line, column) = (*to_line, *to_column);
            }
        }
    }
    let line = |number| (1..=100).map(|column| *cells.get(&(number, column)).unwrap_or(&' ')).collect();
    (1..=24).map(line).collect()
}

fn assert_terminal_is_back(shown: &str) {
    let rest = shown.rsplit_once(SCREEN_BACK).expect("the screen is given back").1;
    assert!(shown.contains(CURSOR_BACK), "the cursor is hidden: {shown:?}");
    let settings = rest.split_once("ended=").expect("the shell goes on").1;
    for setting in ["icanon", "echo", "isig"] {
        assert!(settings.split_whitespace().any(|word| word == setting), "{setting} is off: {settings}");
    }
}

#[test]
fn disks_are_shown_live_filtered_and_the_terminal_is_given_back() {
    let place = RunDirectory::new();
    let (one, other) = (Tapdisk::start(&place, "one.vhd"), Tapdisk::start(&place, "other.vhd"));
    let mut top = Top::start(&place);
    top.wait_for("2 disks, 0 IOPS");
    top.wait_for("one.vhd");
    top.press("/other");
    top.wait_for("filter: other_");
    top.press("\r");
    top.wait_for("by load, only \"other\"");
    assert!(!screen(&top.written).iter().any(|line| line.contains("one.vhd")), "the filter does nothing");
    top.press("s");
    top.wait_for("by IOPS");
    top.press("q");
    let shown = top.end();
    assert!(shown.contains("ended=0"), "{shown:?}");
    assert_terminal_is_back(&shown);
    one.destroy();
    other.destroy();
    place.assert_nothing_left();
}

#[test]
fn a_kill_leaves_a_usable_terminal() {
    let place = RunDirectory::new();
    let mut top = Top::start(&place);
    top.wait_for("no disks");
    let guard = ProcessGuard::new(top.pid).unwrap();
    guard.signal(Signal::TERM).unwrap();
    assert!(guard.wait_for_end(LIMIT).unwrap());
    let shown = top.end();
    assert!(shown.contains("ended=143"), "{shown:?}");
    assert_terminal_is_back(&shown);
}

#[test]
fn without_a_terminal_one_table_is_printed() {
    let place = RunDirectory::new();
    let disk = Tapdisk::start(&place, "a.vhd");
    let table = oxtap(&place, &["top", "--interval", "0.1"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("1 disk, 0 IOPS"), "{table}");
    assert!(lines[1].starts_with("DISK"), "{table}");
    assert!(lines[2].starts_with(&disk.name()) && lines[2].ends_with("a.vhd"), "{table}");
    disk.destroy();
    place.assert_nothing_left();
}
