//! The script that toolstacks run, as they run it: for many devices at once, twice, too late, and killed on the way.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Child, Output, Stdio},
};

use control_api::{
    Client, Minor,
    native::{State, WriteAccess},
};
use guest::{
    toolstack::DiskSpec,
    workload::{Pace, Workload},
};
use test_support::cycles;
use xen::DomainId;
use xenbus::Outcome;

use crate::host::{Hosted, LONG, OUR_SCRIPT, disk};

const SCRIPT: &str = "/etc/xen/scripts/block-tapdisk";
const OTHER: DomainId = DomainId(8);

impl Hosted {
    fn begin_script(&self, name: &str, action: &str, spec: &DiskSpec, variables: &[(&str, &str)]) -> Child {
        let mut command = self.command("block-tapdisk");
        // As toolstacks say it: below the domain that they run in.
        let device = spec.backend_path().unwrap().as_str().replace("/local/domain/0/", "");
        command.arg0(name).arg(action).env("XENBUS_PATH", device).envs(variables.iter().copied());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn script(&self, action: &str, spec: &DiskSpec) -> Result<(), String> {
        told(self.begin_script(SCRIPT, action, spec, &[]).wait_with_output().unwrap())
    }

    async fn status(&self, spec: &DiskSpec) -> (Option<String>, Option<String>) {
        (self.text(spec, "hotplug-status").await, self.text(spec, "hotplug-error").await)
    }

    /// The disk that a device names.
    async fn named(&self, spec: &DiskSpec) -> (u32, Minor) {
        let number = |text: Option<String>| text.unwrap().parse::<u32>().unwrap();
        let minor = number(self.text(spec, "minor").await);
        (number(self.text(spec, "pid").await), Minor::new(u16::try_from(minor).unwrap()).unwrap())
    }

    fn nothing_runs(&self) {
        assert_eq!((self.run.tapdisks().unwrap(), self.run.minors().unwrap()), (vec![], vec![]));
    }
}

fn told(output: Output) -> Result<(), String> {
    assert!(output.stdout.is_empty(), "nobody reads what it says there");
    let words = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { Ok(()) } else { Err(words.trim_end().to_owned()) }
}

fn raw(host: &Hosted, name: &str) -> DiskSpec {
    disk(name, &format!("aio:{}", host.image(name).display()), SCRIPT)
}

#[test]
fn a_disk_comes_and_goes_with_its_device() {
    let host = Hosted::new(&[]);
    host.run(async {
        for by_force in [false, true] {
            let spec = raw(&host, "xvda");
            host.toolstack.add_disk(&spec).await.unwrap();
            host.wait_for(&spec, "2").await;
            host.script("add", &spec).unwrap();
            assert_eq!(host.status(&spec).await, (Some("connected".into()), None));
            let (pid, minor) = host.named(&spec).await;
            let socket = host.run.nbd_socket(pid, minor).display().to_string();
            assert_eq!(host.text(&spec, "physical-device-path").await, Some(socket));
            let owner = format!("hotplug:{}", spec.backend_path().unwrap());
            assert_eq!(host.run.minor_owner(minor).unwrap(), Some(owner));
            assert_eq!(host.disks(pid)[0].write_access, WriteAccess::Later, "who moves here still writes elsewhere");
            let device = host.device(&spec).await;
            let workload = Workload::new(7, &device.connected().await.unwrap());
            workload.run(&device, 100, Pace::default()).await.unwrap();
            if !by_force {
                assert_eq!(device.shutdown(LONG).await, Outcome::AtItsStart);
            }
            // The directory has gone before the script is run: it knows its disk nevertheless.
            assert!(host.toolstack.remove_disk(&spec, by_force, LONG).await.unwrap());
            host.script("remove", &spec).unwrap();
            host.nothing_runs();
            host.script("remove", &spec).unwrap();
            assert_eq!(host.store.read(&spec.backend_path().unwrap()).await.unwrap(), None, "what has gone stays so");
        }
    });
    assert!(host.end().success());
    host.place_is_clean();
}

#[test]
fn twenty_devices_come_and_go_at_the_same_time() {
    let host = Hosted::without_backend();
    host.run(async {
        let names = (0..20_u8).map(|index| format!("xvd{}", char::from(b'a' + index)));
        let specs: Vec<DiskSpec> = names.map(|name| raw(&host, &name)).collect();
        for spec in &specs {
            host.toolstack.add_disk(spec).await.unwrap();
        }
        for action in ["add", "remove"] {
            let scripts: Vec<Child> = specs.iter().map(|spec| host.begin_script(SCRIPT, action, spec, &[])).collect();
            for script in scripts {
                told(script.wait_with_output().unwrap()).unwrap();
            }
            if action == "add" {
                let mut minors = Vec::new();
                for spec in &specs {
                    let (pid, minor) = host.named(spec).await;
                    assert_eq!(host.disks(pid)[0].image.as_deref(), Some(&*spec.image));
                    minors.push(minor);
                }
                minors.sort_unstable();
                assert_eq!(minors, host.run.minors().unwrap(), "each has its own, and no more are taken");
            }
        }
        host.nothing_runs();
        for spec in &specs {
            assert_eq!(host.text(spec, "minor").await, None);
        }
    });
}

#[test]
fn what_was_killed_is_taken_up() {
    let host = Hosted::without_backend();
    host.run(async {
        let spec = raw(&host, "xvda");
        host.toolstack.add_disk(&spec).await.unwrap();
        let device = spec.backend_path().unwrap();
        let owner = format!("hotplug:{device}");
        let spawn = || {
            let spawned = host.command("tap-ctl").arg("spawn").output().unwrap();
            String::from_utf8(spawned.stdout).unwrap().trim().parse::<u32>().unwrap()
        };
        for steps in ["reserve", "reserve attach", "reserve attach open", "reserve attach open say"] {
            // So far came the one that was killed.
            let minor = host.run.allocate_minor_for(&owner).unwrap();
            let mut pid = None;
            for step in steps.split(' ').skip(1) {
                let client = Client::new(&host.run, *pid.get_or_insert_with(spawn));
                match step {
                    "attach" => client.attach(minor).unwrap(),
                    "open" => drop(client.open(minor, &control_api::OpenRequest::new(&*spec.image).unwrap()).unwrap()),
                    _ => host.store.write(&host.node(&spec, "hotplug-status"), b"connected").await.unwrap(),
                }
            }
            host.script("add", &spec).unwrap();
            let (named, _) = host.named(&spec).await;
            assert_eq!(host.run.tapdisks().unwrap(), [named], "{steps}");
            assert_ne!(pid, Some(named), "{steps}: nobody knows how far it was");
            // And once more, as a person does who is not sure.
            host.script("add", &spec).unwrap();
            assert_eq!(host.named(&spec).await.0, named);
            host.script("remove", &spec).unwrap();
            host.nothing_runs();
        }
    });
}

#[test]
fn what_cannot_be_opened_is_told_and_leaves_nothing() {
    let host = Hosted::without_backend();
    host.run(async {
        for (params, words) in [
            ("vhd:/nonexistent/a.vhd", "/nonexistent/a.vhd"),
            ("/images/a.img", "params is '/images/a.img', not type:path"),
            ("cow:/images/a", "cow"),
        ] {
            let spec = disk("xvda", params, SCRIPT);
            host.toolstack.add_disk(&spec).await.unwrap();
            let error = host.script("add", &spec).unwrap_err();
            assert!(error.starts_with("block-tapdisk: ") && error.contains(words), "{error}");
            let (status, node) = host.status(&spec).await;
            assert_eq!(status.as_deref(), Some("error"));
            assert_eq!(Some(error.trim_start_matches("block-tapdisk: ")), node.as_deref());
            assert_eq!(host.text(&spec, "minor").await, None);
            host.nothing_runs();
            host.store.remove(&spec.backend_path().unwrap()).await.unwrap();
            host.store.remove(&spec.frontend_path().unwrap()).await.unwrap();
        }
        // What was told is not told any more when it has come to be right.
        let spec = disk("xvda", &format!("aio:{}", host.place.scratch().join("late").display()), SCRIPT);
        host.toolstack.add_disk(&spec).await.unwrap();
        host.script("add", &spec).unwrap_err();
        host.image("late");
        host.script("add", &spec).unwrap();
        assert_eq!(host.status(&spec).await, (Some("connected".into()), None));
        host.script("remove", &spec).unwrap();
    });
    host.nothing_runs();
}

#[test]
fn a_device_that_has_gone_does_not_come_back() {
    let host = Hosted::without_backend();
    host.run(async {
        let spec = raw(&host, "xvda");
        let gone = |error: &str| assert!(error.ends_with("the device has gone"), "{error}");
        gone(&host.script("add", &spec).unwrap_err());
        let left = host.begin_script(OUR_SCRIPT, "add", &spec, &[]).wait_with_output().unwrap();
        gone(&told(left).unwrap_err());
        // It goes while the tapdisk is started.
        host.toolstack.add_disk(&spec).await.unwrap();
        let (starting, go) = (host.place.scratch().join("starting"), host.place.scratch().join("go"));
        let slow = slow_tapdisk(&host, &starting, &go);
        let script = host.begin_script(SCRIPT, "add", &spec, &[("TAPDISK", slow.to_str().unwrap())]);
        while !starting.exists() {
            host.executor.sleep(std::time::Duration::from_millis(5)).await;
        }
        host.store.remove(&spec.backend_path().unwrap()).await.unwrap();
        fs::write(&go, "").unwrap();
        gone(&told(script.wait_with_output().unwrap()).unwrap_err());
        assert_eq!(host.store.read(&spec.backend_path().unwrap()).await.unwrap(), None);
    });
    host.nothing_runs();
}

/// A tapdisk that says when it is started, and waits until it may.
fn slow_tapdisk(host: &Hosted, starting: &std::path::Path, go: &std::path::Path) -> PathBuf {
    let program = host.command("tapdisk").get_program().to_owned();
    let path = host.place.scratch().join("slow-tapdisk");
    let (starting, go) = (starting.display(), go.display());
    let text = format!(
        "#!/bin/sh\n: >{starting}\nwhile [ ! -e {go} ]; do sleep 0.02; done\nexec {} \"$@\"\n",
        program.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_disk_is_shared_by_one_machine_only_and_ends_with_its_last_device() {
    let host = Hosted::without_backend();
    host.run(async {
        host.toolstack.add_domain(OTHER, 4096).await.unwrap();
        let vm = |domain: u16| format!("/local/domain/{domain}/vm").parse().unwrap();
        host.store.write(&vm(7), b"/vm/a").await.unwrap();
        host.store.write(&vm(8), b"/vm/b").await.unwrap();
        let spec = raw(&host, "xvda");
        host.toolstack.add_disk(&spec).await.unwrap();
        host.script("add", &spec).unwrap();
        let moved = DiskSpec { domain: OTHER, ..spec.clone() };
        host.toolstack.add_disk(&moved).await.unwrap();
        let refused = host.script("add", &moved).unwrap_err();
        let words = format!("{} is in use by domain 7", spec.image);
        assert!(refused.contains(&words), "{refused}");
        assert_eq!(host.status(&moved).await.0.as_deref(), Some("busy"));
        host.store.write(&host.node(&moved, "mode"), b"w!").await.unwrap();
        host.script("add", &moved).unwrap();
        assert_eq!(host.named(&moved).await, host.named(&spec).await);
        host.script("remove", &moved).unwrap();
        // A guest that moves within its host is another domain, and the same machine.
        host.store.write(&host.node(&moved, "mode"), b"w").await.unwrap();
        host.store.write(&vm(8), b"/vm/a").await.unwrap();
        host.script("add", &moved).unwrap();
        let named = host.named(&spec).await;
        assert_eq!(host.named(&moved).await, named);
        host.script("remove", &spec).unwrap();
        assert_eq!(host.disks(named.0)[0].state, State::Running, "it is the other one's, too");
        // The same again with the roles exchanged, and then both go at the same time.
        host.script("add", &spec).unwrap();
        assert_eq!(host.named(&spec).await, named);
        let both = [&spec, &moved].map(|spec| host.begin_script(SCRIPT, "remove", spec, &[]));
        both.into_iter().for_each(|script| told(script.wait_with_output().unwrap()).unwrap());
    });
    host.nothing_runs();
}

#[test]
fn one_device_comes_while_the_other_of_its_disk_goes() {
    let host = Hosted::without_backend();
    host.run(async {
        host.toolstack.add_domain(OTHER, 4096).await.unwrap();
        for domain in [7, 8] {
            host.store.write(&format!("/local/domain/{domain}/vm").parse().unwrap(), b"/vm/a").await.unwrap();
        }
        let spec = raw(&host, "xvda");
        let specs = [spec.clone(), DiskSpec { domain: OTHER, ..spec }];
        for spec in &specs {
            host.toolstack.add_disk(spec).await.unwrap();
        }
        host.script("add", &specs[0]).unwrap();
        for round in 0..cycles(10, 200) {
            let (goes, comes) = if round % 2 == 0 { (&specs[0], &specs[1]) } else { (&specs[1], &specs[0]) };
            let (going, coming) =
                (host.begin_script(SCRIPT, "remove", goes, &[]), host.begin_script(SCRIPT, "add", comes, &[]));
            told(going.wait_with_output().unwrap()).unwrap();
            told(coming.wait_with_output().unwrap()).unwrap();
            let (pid, minor) = host.named(comes).await;
            assert_eq!(host.run.tapdisks().unwrap(), [pid], "round {round}");
            assert_eq!((host.disks(pid)[0].state, host.disks(pid)[0].minor), (State::Running, minor.number()));
            assert_eq!(host.text(goes, "minor").await, None);
        }
        for spec in &specs {
            host.script("remove", spec).unwrap();
        }
    });
    host.nothing_runs();
}

#[test]
fn a_disk_of_a_storage_manager_is_used_and_stays() {
    let host = Hosted::without_backend();
    host.run(async {
        let spec = raw(&host, "xvda");
        let opened = host.open(&spec.image);
        host.toolstack.add_disk(&spec).await.unwrap();
        host.script("add", &spec).unwrap();
        assert_eq!(host.named(&spec).await, opened);
        host.script("remove", &spec).unwrap();
        assert_eq!((host.disks(opened.0)[0].state, host.text(&spec, "minor").await), (State::Running, None));
        host.close(opened);
    });
    host.nothing_runs();
}

#[test]
fn a_disk_that_may_only_be_read_is_opened_like_that_by_the_script() {
    let host = Hosted::without_backend();
    host.run(async {
        let spec = DiskSpec { read_only: true, ..raw(&host, "xvda") };
        host.toolstack.add_disk(&spec).await.unwrap();
        host.script("add", &spec).unwrap();
        let (pid, _) = host.named(&spec).await;
        let disk = &host.disks(pid)[0];
        assert!(disk.geometry.unwrap().read_only && disk.write_access == WriteAccess::None);
        host.script("remove", &spec).unwrap();
    });
    host.nothing_runs();
}

#[test]
fn by_its_other_name_it_leaves_the_disk_to_the_backend() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let spec = disk("xvda", &format!("aio:{}", host.image("xvda").display()), OUR_SCRIPT);
        host.toolstack.add_disk(&spec).await.unwrap();
        host.wait_for(&spec, "2").await;
        let run = |action| host.begin_script(OUR_SCRIPT, action, &spec, &[]).wait_with_output().unwrap();
        told(run("add")).unwrap();
        host.device(&spec).await.connected().await.unwrap();
        assert!(host.toolstack.remove_disk(&spec, true, LONG).await.unwrap());
        told(run("remove")).unwrap();
        host.until_no_tapdisk_is_left().await;
    });
}
