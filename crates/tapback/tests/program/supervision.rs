//! What `--on-death` says is done about tapdisks that go, by the program itself.

use std::time::Duration;

use guest::workload::{Pace, Workload};
use storage_io::Task;

use crate::host::{Hosted, LONG, OUR_SCRIPT, disk};

const REQUESTS: u64 = 200;

/// The process that has the disk, as its nodes say.
async fn pid(host: &Hosted, spec: &guest::toolstack::DiskSpec) -> u32 {
    host.text(spec, "pid").await.unwrap().parse().unwrap()
}

#[test]
fn a_guest_under_load_is_answered_by_errors_and_nothing_is_left_of_its_disk() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let image = host.image("xvda");
        let spec = disk("xvda", &format!("aio:{}", image.display()), OUR_SCRIPT);
        host.attach(&spec, &[]).await;
        let device = host.device(&spec).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        let load: Task<_> = {
            let (workload, device) = (workload.clone(), device.clone());
            host.executor.spawn(async move { workload.run(&device, u64::MAX, Pace::default()).await })
        };
        workload.until(REQUESTS).await;
        let process = host.process(pid(&host, &spec).await);
        process.kill().unwrap();
        load.await.unwrap();
        assert!(host.error(&spec).await.contains("has gone"));
        device.left().await;
        assert!(host.toolstack.remove_disk(&spec, false, LONG).await.unwrap());
        while !host.run.minors().unwrap().is_empty() {
            host.executor.sleep(Duration::from_millis(5)).await;
        }
        process.release();
    });
    host.end();
    // The sockets of a killed process go with the next, or by hand.
    let doctor = host.command("oxtap").args(["doctor", "--repair"]).output().unwrap();
    assert!(doctor.status.success(), "{doctor:?}");
    host.place_is_clean();
}

#[test]
fn with_restart_a_guest_at_rest_does_not_notice() {
    let host = Hosted::new(&["--auto", "--on-death", "restart"]);
    host.run(async {
        let image = host.image("xvda");
        let spec = disk("xvda", &format!("aio:{}", image.display()), OUR_SCRIPT);
        host.attach(&spec, &[]).await;
        let device = host.device(&spec).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        workload.run(&device, REQUESTS, Pace::default()).await.unwrap();
        let before = pid(&host, &spec).await;
        let process = host.process(before);
        process.kill().unwrap();
        while pid(&host, &spec).await == before {}
        // Before that, what it asks is asked of somebody who has gone.
        host.until_no_error(&spec).await;
        workload.verify(&device, Pace::default()).await.unwrap();
        assert_eq!(device.account().connections, 1);
        device.shutdown(LONG).await;
        assert!(host.toolstack.remove_disk(&spec, false, LONG).await.unwrap());
        host.until_no_tapdisk_is_left().await;
        process.release();
    });
    host.end();
    host.place_is_clean();
}
