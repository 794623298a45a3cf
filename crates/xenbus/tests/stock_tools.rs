//! Xen's own tools against our XenStore server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use test_support::{XEN_TOOLS, target_program, unpacked_program};

/// A server and the stock tools that talk to it.
struct Host {
    directory: tempfile::TempDir,
    root: PathBuf,
    server: Child,
}

impl Host {
    fn start(test: &str, domains: &[&str]) -> Option<Host> {
        let root = XEN_TOOLS.root(test)?;
        let directory = tempfile::tempdir().unwrap();
        let mut server = Command::new(target_program("oxtap-xenstored"));
        let mut server = server.arg(directory.path()).args(domains).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), directory.path().join("socket").display().to_string());
        Some(Host { directory, root, server })
    }

    fn tool_at(&self, socket: &str, name: &str) -> Command {
        let mut command = unpacked_program(&self.root, name);
        command.env("XENSTORED_PATH", self.directory.path().join(socket));
        command
    }

    /// What a tool prints; its status must be this.
    fn run_at(&self, socket: &str, status: i32, words: &[&str]) -> String {
        let output = self.tool_at(socket, words[0]).args(&words[1..]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    fn run(&self, words: &[&str]) -> String {
        self.run_at("socket", 0, words)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

#[test]
fn nodes_are_written_listed_read_and_removed() {
    let Some(host) = Host::start("stock xenstore tools", &[]) else { return };
    host.run(&["xenstore-write", "/vm/name", "one", "/vm/empty", ""]);
    assert_eq!(host.run(&["xenstore-read", "/vm/name"]), "one\n");
    assert_eq!(host.run(&["xenstore-list", "/vm"]), "empty\nname\n");
    assert_eq!(host.run(&["xenstore-ls", "-f"]), "/vm = \"\"\n/vm/empty = \"\"\n/vm/name = \"one\"\n");
    host.run(&["xenstore-rm", "/vm/name"]);
    host.run_at("socket", 1, &["xenstore-read", "/vm/name"]);
    host.run_at("socket", 1, &["xenstore-exists", "/vm/name"]);
    host.run(&["xenstore-exists", "/vm/empty"]);
}

#[test]
fn permissions_are_set_and_hold() {
    let Some(host) = Host::start("stock xenstore tools: permissions", &["5"]) else { return };
    host.run(&["xenstore-write", "/local/domain/5/name", "guest", "/secret", "x"]);
    host.run(&["xenstore-chmod", "/secret", "n0"]);
    host.run(&["xenstore-chmod", "-r", "/local/domain/5", "n5"]);
    assert!(host.run(&["xenstore-ls", "-p", "-f", "/local/domain/5"]).contains("name = \"guest\"   (n5)"));
    assert_eq!(host.run_at("socket.5", 0, &["xenstore-read", "name"]), "guest\n");
    host.run_at("socket.5", 0, &["xenstore-write", "device/x", "1"]);
    host.run_at("socket.5", 1, &["xenstore-read", "/secret"]);
    host.run_at("socket.5", 1, &["xenstore-write", "/mine", "1"]);
}

#[test]
fn somebody_who_watches_is_told() {
    let Some(host) = Host::start("stock xenstore tools: watches", &[]) else { return };
    let watch = host.tool_at("socket", "xenstore-watch").args(["-n", "3", "/a"]).stdout(Stdio::piped()).spawn();
    let mut watch = watch.unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("/a"), "a watch begins with an event");
    host.run(&["xenstore-write", "/a/b", "1"]);
    assert_eq!(lines.next().as_deref(), Some("/a/b"));
    host.run(&["xenstore-rm", "/a"]);
    assert_eq!(lines.next().as_deref(), Some("/a"));
    assert!(watch.wait().unwrap().success());
}

#[test]
fn xens_own_test_of_servers_passes() {
    let Some(host) = Host::start("test-xenstore", &[]) else { return };
    let text = host.run(&["test-xenstore", "-i", "200"]);
    assert_eq!(text.lines().count(), 12, "{text}");
    assert!(!text.contains("failed"), "{text}");
}
