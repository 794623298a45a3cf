//! `oxtap doctor`: ghosts in XenStore are found and cleared away, and nothing else is.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path as FilePath, PathBuf},
    process::{Child, Output, Stdio},
    thread,
};

use serde_json::{Value, json};
use storage_io::{EngineChoice, Executor};
use test_support::RunDirectory;
use wire::xenstore::{Message, MessageReader, Operation, Path, Permission, put_message};
use xen::store::{Address, Store};

use crate::served::text;

const GUEST: &str = "/local/domain/0/backend/vbd3/7";
const GHOST: &str = "/local/domain/0/backend/vbd3/7/51728";
/// What a hotplug script writes that comes too late.
const STATUS: &str = "/local/domain/0/backend/vbd3/7/51728/hotplug-status";
/// Devices: of the same guest, and of another.
const NEIGHBOUR: &str = "/local/domain/0/backend/vbd3/7/51712/frontend";
const DEVICE: &str = "/local/domain/0/backend/vbd3/9/51712/frontend";

/// A XenStore, by the program that hosts without Xen have, and what is said through one of its sockets.
pub(crate) struct Xenstored {
    pub(crate) place: RunDirectory,
    server: Child,
}

impl Xenstored {
    pub(crate) fn start() -> Xenstored {
        let place = RunDirectory::new();
        let mut server = place.program("oxtap-xenstored");
        let mut server = server.arg(place.scratch()).arg("3").stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        Xenstored { place, server }
    }

    /// With a ghost, and a device of another guest.
    fn haunted() -> Xenstored {
        let host = Xenstored::start();
        host.nodes().write(STATUS, "connected");
        host.nodes().write(DEVICE, "/local/domain/9/device/vbd/51712");
        host
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.place.scratch().join("socket")
    }

    pub(crate) fn nodes(&self) -> Nodes {
        Nodes::at(&self.socket())
    }

    fn doctor_at(&self, socket: &FilePath, words: &[&str]) -> Output {
        doctor(&self.place, socket, words)
    }

    /// Runs it as the first domain; what it prints, and its status.
    pub(crate) fn doctor(&self, words: &[&str]) -> (String, Option<i32>) {
        let output = self.doctor_at(&self.socket(), words);
        (text(&output), output.status.code())
    }

    /// Repairs, while somebody else does something just before the removal of a ghost is committed. What has become of
    /// the ghost, and the status.
    fn repair_while(&self, interfere: impl FnOnce(&Nodes) + Send + 'static) -> (Value, Option<i32>) {
        let between = Between::start(self, interfere);
        let output = self.doctor_at(&self.place.scratch().join("between"), &["--repair", "--json"]);
        assert!(between.thread.join().unwrap(), "nobody interfered");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["ghosts"][0]["directory"], GHOST);
        (told["ghosts"][0]["fate"].clone(), output.status.code())
    }
}

impl Drop for Xenstored {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

fn doctor(place: &RunDirectory, socket: &FilePath, words: &[&str]) -> Output {
    place.program("oxtap").arg("doctor").args(words).env("XENSTORED_PATH", socket).output().unwrap()
}

/// Somebody who reads and writes.
pub(crate) struct Nodes {
    executor: Executor,
    store: Store,
}

impl Nodes {
    fn at(socket: &FilePath) -> Nodes {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let store = Store::connect(&executor, Address::Socket(socket.to_owned())).unwrap();
        Nodes { executor, store }
    }

    pub(crate) fn write(&self, path: &str, value: &str) {
        self.executor.block_on(self.store.write(&path.parse().unwrap(), value.as_bytes())).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        self.executor.block_on(self.store.remove(&path.parse().unwrap())).unwrap();
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.executor.block_on(self.store.read(&path.parse().unwrap())).unwrap().is_some()
    }

    fn permit(&self, path: &str, permissions: &[&str]) {
        let permissions: Vec<Permission> = permissions.iter().map(|text| text.parse().unwrap()).collect();
        let path: Path = path.parse().unwrap();
        self.executor.block_on(self.store.set_permissions(&path, &permissions)).unwrap();
    }
}

/// Stands between a client and the server, and knows when a removal is about to be committed.
struct Between {
    /// Says whether it came to that, and the server then refused the commit.
    thread: thread::JoinHandle<bool>,
}

impl Between {
    fn start(host: &Xenstored, interfere: impl FnOnce(&Nodes) + Send + 'static) -> Between {
        let listener = UnixListener::bind(host.place.scratch().join("between")).unwrap();
        let server = host.socket();
        let thread = thread::spawn(move || {
            let mut interfere = Some(interfere);
            let (mut client, mut upstream) = (listener.accept().unwrap().0, UnixStream::connect(&server).unwrap());
            let (mut removes, mut was_refused) = (false, false);
            while let Some(request) = next_message(&mut client) {
                removes |= request.operation == Operation::Remove;
                let commits = request.operation == Operation::TransactionEnd && removes && request.payload == b"T\0";
                let interferes = commits && interfere.is_some();
                if interferes {
                    interfere.take().unwrap()(&Nodes::at(&server));
                }
                pass(&request, &mut upstream);
                let reply = next_message(&mut upstream).unwrap();
                was_refused |= interferes && reply.payload == b"EAGAIN\0";
                pass(&reply, &mut client);
            }
            was_refused
        });
        Between { thread }
    }
}

/// The next message; none at the end.
fn next_message(stream: &mut UnixStream) -> Option<Message> {
    let mut reader = MessageReader::new();
    let mut byte = [0];
    loop {
        if stream.read(&mut byte).unwrap() == 0 {
            return None;
        }
        if let (_, Some(message)) = reader.feed(&byte).unwrap() {
            return Some(message);
        }
    }
}

fn pass(message: &Message, to: &mut UnixStream) {
    let mut bytes = Vec::new();
    put_message(&mut bytes, message.operation, message.request, message.transaction, &[&message.payload]);
    to.write_all(&bytes).unwrap();
}

#[test]
fn a_ghost_is_named_with_what_is_in_it_and_stays() {
    let host = Xenstored::haunted();
    host.nodes().write(&format!("{GHOST}/deep/er"), "2");
    let (told, status) = host.doctor(&[]);
    assert_eq!(status, Some(1));
    let lines = told.split_once("guest has gone, no disk named\n").unwrap().1;
    assert_eq!(
        lines,
        format!(
            "{GHOST}: a ghost, no frontend belongs to it\n     deep = \"\"\n     deep/er = \"2\"\n     \
             hotplug-status = \"connected\"\n1 ghost; oxtap doctor --repair removes what still is so\n"
        )
    );
    assert!(host.nodes().has(STATUS));
}

#[test]
fn repair_removes_the_ghost_and_the_guest_that_has_nothing_else() {
    let host = Xenstored::haunted();
    let (told, status) = host.doctor(&["--repair"]);
    assert_eq!((told.contains(": removed\n"), status), (true, Some(0)), "{told}");
    assert!(!host.nodes().has(GHOST) && !host.nodes().has(GUEST));
    assert!(host.nodes().has(DEVICE));
    let (told, status) = host.doctor(&["--repair"]);
    assert_eq!((told.ends_with("\nnothing to repair\n"), status), (true, Some(0)));
}

#[test]
fn the_directory_of_a_kind_stays_when_its_last_ghost_goes() {
    let host = Xenstored::start();
    host.nodes().write(STATUS, "");
    assert_eq!(host.doctor(&["--repair"]).1, Some(0));
    assert!(!host.nodes().has(GUEST));
    assert!(host.nodes().has("/local/domain/0/backend/vbd3"));
}

#[test]
fn a_guest_that_has_a_device_keeps_its_directory() {
    let host = Xenstored::haunted();
    host.nodes().write(NEIGHBOUR, "");
    assert_eq!(host.doctor(&["--repair"]).1, Some(0));
    assert!(!host.nodes().has(GHOST));
    assert!(host.nodes().has(NEIGHBOUR), "a frontend that is not told yet is one");
}

#[test]
fn what_is_not_named_like_a_device_is_left_alone() {
    let host = Xenstored::start();
    let nodes = ["/local/domain/0/backend/vbd3/x/1/a", "/local/domain/0/backend/vbd3/7/x/a"];
    nodes.iter().for_each(|node| host.nodes().write(node, ""));
    assert_eq!(host.doctor(&["--repair"]), ("nothing to repair\n".to_owned(), Some(0)));
    assert!(nodes.iter().all(|node| host.nodes().has(node)));
}

#[test]
fn only_kinds_that_are_asked_for_are_looked_at() {
    let host = Xenstored::haunted();
    let other = "/local/domain/0/backend/vbd/7/51728";
    host.nodes().write(&format!("{other}/a"), "");
    assert!(!host.doctor(&[]).0.contains(other));
    assert_eq!(host.doctor(&["--kind", "qdisk", "--repair"]), ("nothing to repair\n".to_owned(), Some(0)));
    assert_eq!(host.doctor(&["--kind", "vbd3,vbd", "--repair"]).1, Some(0));
    assert!(!host.nodes().has(other) && !host.nodes().has(GHOST));
    assert_eq!(host.doctor(&["--kind", "vbd3/7"]).1, Some(2), "that is no kind");
}

#[test]
fn programs_are_told_the_same() {
    let host = Xenstored::haunted();
    let told = |words: &[&str]| serde_json::from_str::<Value>(&host.doctor(words).0).unwrap();
    let expected = |fate: Value| {
        json!({ "xenstore": host.socket(),
                "ghosts": [{ "directory": GHOST, "nodes": { "hotplug-status": "connected" }, "fate": fate, "error": null }],
                "disks": [], "orphans": [], "backends": [], "processes": [], "minors": [], "devices": [{ "device": "vbd3/9/51712",
                "domain": 9, "number": 51712, "state": "Unknown", "frontend_state": "Unknown", "online": true,
                "guest": false, "pid": null, "minor": null, "params": null, "error": null }] })
    };
    assert_eq!(told(&["--json"]), expected(Value::Null));
    assert_eq!(told(&["--json", "--repair"]), expected("removed".into()));
    assert_eq!(told(&["--json"])["ghosts"], json!([]));
}

#[test]
fn a_ghost_that_gets_a_frontend_in_between_is_spared() {
    let host = Xenstored::haunted();
    let (fate, status) = host.repair_while(|nodes| nodes.write(&format!("{GHOST}/frontend"), ""));
    assert_eq!((fate, status), ("has-frontend".into(), Some(0)));
    assert!(host.nodes().has(STATUS));
}

#[test]
fn a_ghost_at_which_somebody_is_at_work_is_spared_and_told() {
    let host = Xenstored::haunted();
    let (fate, status) = host.repair_while(|nodes| nodes.write(STATUS, "error"));
    assert_eq!((fate, status), ("changed".into(), Some(1)));
    assert!(host.nodes().has(STATUS));
}

#[test]
fn a_ghost_that_somebody_else_removes_is_gone() {
    let host = Xenstored::haunted();
    let (fate, status) = host.repair_while(|nodes| nodes.remove(GHOST));
    assert_eq!((fate, status), ("gone".into(), Some(0)));
}

#[test]
fn a_device_that_comes_beside_the_ghost_in_between_stays() {
    let host = Xenstored::haunted();
    let (fate, status) = host.repair_while(|nodes| nodes.write(NEIGHBOUR, ""));
    assert_eq!((fate, status), ("removed".into(), Some(0)));
    assert!(!host.nodes().has(GHOST));
    assert!(host.nodes().has(NEIGHBOUR));
}

#[test]
fn a_driver_domain_looks_at_its_own_backends() {
    let host = Xenstored::haunted();
    let nodes = host.nodes();
    nodes.write("/local/domain/3", "");
    nodes.permit("/local/domain/3", &["n3"]);
    let ghost = "/local/domain/3/backend/vbd3/7/51712";
    for (node, value) in [("/local/domain/3/domid", "3"), (&format!("{ghost}/a"), "1")] {
        nodes.write(node, value);
    }
    let own = host.place.scratch().join("socket.3");
    let output = host.doctor_at(&own, &["--repair"]);
    assert_eq!(text(&output), format!("{ghost}: a ghost, no frontend belongs to it: removed\n     a = \"1\"\n"));
    assert_eq!(output.status.code(), Some(0));
    assert!(!nodes.has(ghost) && nodes.has(GHOST));
}

#[test]
fn a_ghost_that_may_not_be_removed_does_not_hide_the_others() {
    let host = Xenstored::start();
    let nodes = host.nodes();
    let guest = "/local/domain/3/backend/vbd3/7";
    nodes.write("/local/domain/3/domid", "3");
    for device in ["51712", "51728"] {
        nodes.write(&format!("{guest}/{device}/a"), "");
    }
    // Whose nodes they are, and what the domain may do with them.
    for (node, may) in [("/domid", "r3"), ("/backend/vbd3", "r3"), ("/backend/vbd3/7", "b3")] {
        nodes.permit(&format!("/local/domain/3{node}"), &["n0", may]);
    }
    for (node, may) in [("51712", "r3"), ("51712/a", "r3"), ("51728", "b3"), ("51728/a", "b3")] {
        nodes.permit(&format!("{guest}/{node}"), &["n0", may]);
    }
    let output = host.doctor_at(&host.place.scratch().join("socket.3"), &["--repair"]);
    let told = text(&output);
    assert!(told.contains(&format!("{guest}/51712: a ghost, no frontend belongs to it: not removed: ")), "{told}");
    assert!(told.contains(&format!("{guest}/51728: a ghost, no frontend belongs to it: removed\n")), "{told}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_host_without_xenstore_has_nothing_to_repair() {
    let place = RunDirectory::new();
    let socket = place.scratch().join("socket");
    let well = |words: &[&str]| {
        let output = doctor(&place, &socket, words);
        assert_eq!(output.status.code(), Some(0));
        text(&output)
    };
    assert!(well(&["--repair"]).ends_with(": nothing to repair\n"));
    let told: Value = serde_json::from_str(&well(&["--json"])).unwrap();
    assert_eq!((&told["xenstore"], &told["orphans"]), (&Value::Null, &json!([])));
    // A server that was killed leaves its socket.
    drop(UnixListener::bind(&socket).unwrap());
    assert!(well(&[]).starts_with("no XenStore here ("));
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let place = RunDirectory::new();
    let socket = place.scratch().join("socket");
    let _silent = UnixListener::bind(&socket).unwrap();
    let output = doctor(&place, &socket, &["--patience", "0.2"]);
    assert_eq!(output.status.code(), Some(rustix::io::Errno::TIMEDOUT.raw_os_error()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("XenStore does not answer"));
}

#[test]
fn what_was_told_of_a_device_that_is_no_more_is_found_and_taken_back() {
    let host = Xenstored::start();
    let nodes = host.nodes();
    let errors = "/local/domain/0/error/backend/vbd3";
    nodes.write(DEVICE, "/local/domain/9/device/vbd/51712");
    // Of a device that is there, of two that are not, and of another kind.
    let [there, gone, other] = ["9/51712", "7/51712", "9/51728"].map(|device| format!("{errors}/{device}/error"));
    let kind = "/local/domain/0/error/backend/vif/7/0/error";
    for node in [&there, &gone, &other, kind] {
        nodes.write(node, "5 its tapdisk has gone");
    }
    let words =
        |device| format!("vbd vbd3/{device}: it is no more, and its error is still told: 5 its tapdisk has gone");
    let (told, status) = host.doctor(&[]);
    assert!(["7/51712", "9/51728"].iter().all(|device| told.contains(&words(device))), "{told}");
    assert!(!told.contains(&words(&"9/51712")) && status == Some(1), "{told}");
    assert!(nodes.has(&gone) && nodes.has(&other), "it was asked to look only");
    let (told, status) = host.doctor(&["--repair"]);
    assert_eq!((told.matches(": cleared away").count(), status), (2, Some(0)), "{told}");
    assert!(nodes.has(&there) && nodes.has(kind) && !nodes.has(&other));
    assert!(!nodes.has(&format!("{errors}/7")), "nothing is left of the guest");
    assert_eq!(host.doctor(&[]).1, Some(0));
}
