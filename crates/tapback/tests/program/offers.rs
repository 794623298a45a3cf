//! What a guest is offered, by the options of the program and the nodes of its toolstack.

use crate::host::{Hosted, LONG, OUR_SCRIPT, disk};

/// What is there when the state is 4.
const NODES: [&str; 14] = [
    "sectors",
    "sector-size",
    "physical-sector-size",
    "info",
    "feature-barrier",
    "feature-flush-cache",
    "feature-discard",
    "discard-granularity",
    "discard-alignment",
    "discard-secure",
    "feature-persistent",
    "feature-max-indirect-segments",
    "multi-queue-max-queues",
    "max-ring-page-order",
];

/// A guest has a disk whose toolstack wrote this besides: the values of some nodes, and whether the page cache is used.
fn offered(arguments: &[&str], written: &[(&str, &str)], nodes: &[&str]) -> (Vec<String>, bool) {
    let host = Hosted::new(&[&["--auto"], arguments].concat());
    host.run(async {
        let spec = disk("xvda", &format!("aio:{}", host.image("xvda").display()), OUR_SCRIPT);
        host.attach(&spec, written).await;
        host.device(&spec).await.connected().await.unwrap();
        let mut values = Vec::new();
        for node in nodes {
            values.push(host.text(&spec, node).await.unwrap_or_else(|| "-".to_owned()));
        }
        let pid = host.text(&spec, "pid").await.unwrap().parse().unwrap();
        let is_buffered = host.disks(pid)[0].buffered;
        assert!(host.toolstack.remove_disk(&spec, true, LONG).await.unwrap());
        host.until_no_tapdisk_is_left().await;
        (values, is_buffered)
    })
}

#[test]
fn a_guest_is_told_all_that_it_may_ask_for() {
    let (values, is_buffered) = offered(&[], &[], &NODES);
    assert!(!values.contains(&"-".to_owned()) && !is_buffered, "{values:?}");
    assert_eq!(values[..3], ["8192", "512", values[2].as_str()]);
}

#[test]
fn without_barriers_guests_flush_instead() {
    let nodes = ["feature-barrier", "feature-flush-cache"];
    assert_eq!(offered(&[], &[], &nodes).0, ["1", "1"]);
    assert_eq!(offered(&["-b"], &[], &nodes).0, ["0", "1"]);
}

#[test]
fn what_is_not_safe_for_direct_io_goes_through_the_page_cache() {
    assert!(offered(&[], &[("direct-io-safe", "0")], &[]).1);
    assert!(!offered(&[], &[("direct-io-safe", "1")], &[]).1);
}

#[test]
fn a_toolstack_may_forbid_discards() {
    let nodes = ["feature-discard", "discard-granularity"];
    assert_eq!(offered(&[], &[("discard-enable", "0")], &nodes).0, ["0", "-"]);
    assert_eq!(offered(&[], &[], &nodes).0[0], "1");
}
