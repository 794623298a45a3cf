//! The script that toolstacks run for disks which the backend looks after.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

const DEVICE: &str = "backend/vbd3/7/51712";

/// Runs it in a place where XenStore has a device or not; its status, and what was asked of XenStore.
fn run(action: &str, has_device: bool) -> (Option<i32>, String) {
    let place = tempfile::tempdir().unwrap();
    let asked = place.path().join("asked");
    for (name, status) in [("xenstore-exists", i32::from(!has_device)), ("xenstore-write", 0)] {
        let program = place.path().join(name);
        let text = format!("#!/bin/sh\necho {name} \"$@\" >> {}\nexit {status}\n", asked.display());
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/xen/block-oxtap");
    let path = format!("{}:/usr/bin:/bin", place.path().display());
    let output = Command::new("sh").arg(script).arg(action).env("PATH", path).env("XENBUS_PATH", DEVICE).output();
    (output.unwrap().status.code(), fs::read_to_string(asked).unwrap_or_default())
}

#[test]
fn it_says_that_it_has_run_and_nothing_else() {
    let exists = format!("xenstore-exists {DEVICE}/frontend\n");
    let writes = format!("xenstore-write {DEVICE}/hotplug-status connected\n");
    assert_eq!(run("add", true), (Some(0), exists.clone() + &writes));
    assert_eq!(run("add", false), (Some(1), exists), "a device that has gone does not come back");
    assert_eq!(run("remove", true), (Some(0), String::new()));
    assert_eq!(run("explode", true), (Some(2), String::new()));
}
