//! Without privileges, and without memory that may be locked, a tapdisk serves all the same.

use std::{fs, os::unix::fs::PermissionsExt};

use export::nbd::client::Client;
use test_support::require_tool;

use crate::host::{Host, aio, minor};

#[test]
fn memory_that_may_not_be_locked_is_no_obstacle() {
    let host = Host::new();
    let script = host.place.scratch().join("poor");
    // Root may raise any limit, unless that capability is taken from it.
    let setpriv = require_tool("setpriv");
    let drop_all = if rustix::process::geteuid().is_root() { "--bounding-set -all" } else { "" };
    let text = format!("#!/bin/sh\nulimit -l 64\nexec {} {drop_all} tapdisk \"$@\"\n", setpriv.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();

    let image = aio(&host.raw_image("a.img", 16 << 20));
    let created = host.command(&["create", "-a", &image]).env("TAPDISK", &script).output().unwrap();
    assert!(created.status.success(), "{created:?}");
    let pid = host.run.tapdisks().unwrap()[0];
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let locked = limits.lines().find(|line| line.starts_with("Max locked memory")).unwrap();
    assert!(locked.contains("65536"), "the limit was not raised: {locked}");

    // Far more than may be locked goes through.
    let mut client = Client::connect_unix(&host.run.nbd_socket(pid, minor("0")), "").unwrap();
    let bytes = vec![0x5a; 4 << 20];
    client.write(0, &bytes).unwrap();
    let mut read = vec![0; bytes.len()];
    client.read(0, &mut read).unwrap();
    assert!(read == bytes);
    host.ok(&["destroy", "-p", &pid.to_string(), "-m", "0"]);
    host.place.assert_nothing_left();
}
