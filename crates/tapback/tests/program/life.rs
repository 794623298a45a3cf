//! How the process begins and ends, and what guests notice of it.

use std::{fs, os::unix::fs::PermissionsExt};

use guest::workload::{Pace, Workload};
use test_support::cycles;
use xenbus::Outcome;

use crate::host::{Hosted, LONG, OUR_SCRIPT, disk};

/// Requests between two deaths.
const REQUESTS: u64 = 200;

#[test]
fn a_guest_does_not_notice_that_its_backend_is_killed_under_load() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let image = host.image("xvda");
        let spec = disk("xvda", &format!("aio:{}", image.display()), OUR_SCRIPT);
        host.attach(&spec, &[]).await;
        let device = host.device(&spec).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        let load = {
            let (workload, device) = (workload.clone(), device.clone());
            host.executor.spawn(async move { workload.run(&device, u64::MAX, Pace::default()).await })
        };
        for _ in 0..cycles(5, 100) {
            let done = workload.done().requests();
            workload.until(done + REQUESTS).await;
            host.kill();
            // Nobody is there, and nobody is missed.
            workload.until(done + 2 * REQUESTS).await;
            host.start(&["--auto"]);
        }
        drop(load);
        workload.verify(&device, Pace::default()).await.unwrap();
        // The one that is there now has taken all of it up: it hears the guest, and ends what was started.
        assert_eq!(device.account().connections, 1);
        assert_eq!(device.shutdown(LONG).await, Outcome::AtItsStart);
        assert!(host.toolstack.remove_disk(&spec, false, LONG).await.unwrap());
        host.until_no_tapdisk_is_left().await;
        assert_eq!(host.guest.account().unwrap().used, 0);
    });
    assert_eq!(host.end().code(), Some(0));
    host.place_is_clean();
}

#[test]
fn a_daemon_is_up_when_it_returns_and_leaves_nothing_when_it_is_ended() {
    let host = Hosted::without_backend();
    let pid_file = host.place.scratch().join("tapback.pid");
    let log = host.place.scratch().join("tapback.log");
    let mut command = host.command("tapback");
    command.arg("-p").arg(&pid_file).arg("--log-file").arg(&log);
    assert!(command.status().unwrap().success());
    let pid: u32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    assert_eq!(host.seats(), ["tapback.vbd3"]);
    let second = command.output().unwrap();
    assert_eq!((second.status.code(), fs::read_to_string(&pid_file).unwrap().trim()), (Some(16), &*pid.to_string()));
    assert!(String::from_utf8(second.stderr).unwrap().contains(&format!("serves vbd3 already: {pid}")));
    let daemon = host.process(pid);
    daemon.signal(rustix::process::Signal::TERM).unwrap();
    assert!(daemon.wait_for_end(LONG).unwrap());
    assert!(!pid_file.exists() && host.seats().is_empty());
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("serving vbd3 in domain 0") && log.contains("told to end by signal 15"), "{log}");
}

#[test]
fn a_program_that_never_becomes_a_tapdisk_is_in_nobodys_way() {
    let host = Hosted::without_backend();
    let never = host.place.scratch().join("never");
    fs::write(&never, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&never, fs::Permissions::from_mode(0o755)).unwrap();
    host.start_with(&["--auto", "-v"], &[("TAPDISK", never.as_os_str())]);
    host.run(async {
        let stuck = disk("xvda", &format!("aio:{}", host.image("xvda").display()), OUR_SCRIPT);
        host.attach(&stuck, &[]).await;
        let image = format!("aio:{}", host.image("xvdb").display());
        let opened = host.open(&image);
        let spec = disk("xvdb", &image, "block-tap");
        host.attach(&spec, &[]).await;
        host.device(&spec).await.connected().await.unwrap();
        assert_eq!(host.text(&stuck, "state").await.as_deref(), Some("2"));
        assert!(host.toolstack.remove_disk(&stuck, true, LONG).await.unwrap(), "nobody waits for it at the end");
        assert!(host.toolstack.remove_disk(&spec, true, LONG).await.unwrap());
        host.close(opened);
    });
    // Nor does the end of the process.
    assert_eq!(host.end().code(), Some(0));
}

#[test]
fn an_error_that_was_told_before_the_backend_was_killed_is_taken_back() {
    let host = Hosted::new(&[]);
    host.run(async {
        let image = format!("aio:{}", host.image("xvda").display());
        let spec = disk("xvda", &image, "block-tap");
        host.attach(&spec, &[]).await;
        assert!(host.error(&spec).await.starts_with("2 no tapdisk has aio:"));
        host.kill();
        let opened = host.open(&image);
        host.start(&[]);
        host.device(&spec).await.connected().await.unwrap();
        assert!(host.toolstack.remove_disk(&spec, true, LONG).await.unwrap());
        let errors = "/local/domain/0/error/backend/vbd3/7".parse().unwrap();
        while host.store.directory(&errors).await.unwrap().is_some() {
            host.executor.sleep(std::time::Duration::from_millis(5)).await;
        }
        host.close(opened);
    });
}

#[test]
fn an_error_of_a_device_that_went_unseen_is_taken_back_by_the_next_of_its_name() {
    let host = Hosted::new(&[]);
    host.run(async {
        let image = format!("aio:{}", host.image("xvda").display());
        let spec = disk("xvda", &image, "block-tap");
        host.attach(&spec, &[]).await;
        assert!(host.error(&spec).await.starts_with("2 no tapdisk has aio:"));
        host.kill();
        for directory in [spec.frontend_path().unwrap(), spec.backend_path().unwrap()] {
            host.store.remove(&directory).await.unwrap();
        }
        host.start(&[]);
        let opened = host.open(&image);
        host.attach(&spec, &[]).await;
        host.device(&spec).await.connected().await.unwrap();
        let errors = "/local/domain/0/error/backend/vbd3/7".parse().unwrap();
        while host.store.directory(&errors).await.unwrap().is_some() {
            host.executor.sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(host.toolstack.remove_disk(&spec, true, LONG).await.unwrap());
        host.close(opened);
    });
}

#[test]
fn what_fails_at_the_start_is_told_with_its_number() {
    let host = Hosted::without_backend();
    let mut command = host.command("tapback");
    let output = command.env("OXTAP_XEN", "hosted:/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nonexistent/socket"), "nobody is there");
    assert_eq!(host.seats(), Vec::<String>::new());
}

#[test]
fn a_backend_of_one_guest_serves_no_other_and_ends_with_it() {
    let host = Hosted::new(&["-x", "7"]);
    host.run(async {
        let (ours, others) = (disk("xvda", "aio:/a", "block-tap"), disk("xvdb", "aio:/b", "block-tap"));
        let others = guest::toolstack::DiskSpec { domain: xen::DomainId(8), ..others };
        host.toolstack.add_domain(others.domain, 4096).await.unwrap();
        host.toolstack.add_disk(&others).await.unwrap();
        host.toolstack.add_disk(&ours).await.unwrap();
        host.wait_for(&ours, "2").await;
        assert_eq!(host.text(&others, "state").await.as_deref(), Some("1"));
        assert!(host.toolstack.remove_disk(&ours, true, LONG).await.unwrap());
        host.store.remove(&"/local/domain/0/backend/vbd3/7".parse().unwrap()).await.unwrap();
    });
    assert_eq!(host.ended().code(), Some(0));
}
