//! Statistics: as text, and in shared memory.

use std::fs;

use crate::host::{Host, Said, aio, names};

const REST: &str = "\"FIXME_enospc_redirect_count\": 0, \"nbd_mirror_failed\": 0, \"reqs_outstanding\": 0, ";

#[test]
fn statistics_read_as_ever() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let slot = ["stats", "-p", &pid.to_string(), "-m", "0"].map(str::to_owned);
    let slot: Vec<&str> = slot.iter().map(String::as_str).collect();
    let nothing = format!(
        "{{ \"name\": \"(null)\", \"secs\": [ 0, 0 ], \"images\": [  ], {REST}\"read_caching\": \"false\" }}\n\n"
    );
    assert_eq!(host.ok(&slot), nothing);

    let path = host.raw_image("a \"b\".img", 1 << 20).display().to_string().replace('"', "\\\"");
    let image = aio(&host.place.scratch().join("a \"b\".img"));
    host.ok(&["open", "-p", slot[2], "-m", "0", "-a", &image, "-D"]);
    let images = format!(
        "{{ \"name\": \"{path}\", \"hits\": [ 0, 0 ], \"fail\": [ 0, 0 ], \"driver\": {{ \"type\": 0, \"name\": \"aio\", \
         \"status\": {{ \"reqs\": {{ \"max\": 352, \"pending\": 0 }} }} }} }}"
    );
    let one = format!(
        "{{ \"name\": \"aio:{path}\", \"secs\": [ 0, 0 ], \"images\": [ {images} ], {REST}\"read_caching\": \"true\" }}"
    );
    assert_eq!(host.ok(&slot), format!("{one}\n\n"));
    assert_eq!(String::from_utf8(host.client(pid).stats(None).unwrap()).unwrap(), format!("[ {one} ]"));
}

#[test]
fn an_unknown_minor_is_an_error() {
    let host = Host::new();
    let pid = host.spawn().to_string();
    let Said { status, stdout, .. } = host.tap_ctl(&["stats", "-p", &pid, "-m", "9"]);
    assert_eq!((status, stdout.as_str()), (19, ""));
    assert_eq!(host.fails(&["stats", "-p", "1073741824", "-m", "9"]).0, 2, "no such tapdisk");
}

#[test]
fn pages_are_there_while_the_disk_is_open() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let (client, minor) = (host.client(pid), crate::host::minor("0"));
    let directory = host.run.shared_memory(pid);
    let open = control_api::OpenRequest::new(aio(&host.raw_image("a.img", 1 << 20))).unwrap();
    assert_eq!(names(&directory), [] as [&str; 0]);
    client.open(minor, &open).unwrap();
    assert_eq!(names(&directory), ["nbd-0", "nbd-old-0", "vdi-0"]);
    assert_eq!(fs::metadata(directory.join("vdi-0")).unwrap().len(), 4096);
    client.pause(minor).unwrap();
    assert_eq!(names(&directory), ["nbd-0", "nbd-old-0"]);
    client.resume(minor, &control_api::OpenRequest::default()).unwrap();
    assert_eq!(names(&directory), ["nbd-0", "nbd-old-0", "vdi-0"]);
    client.close(minor).unwrap();
    assert_eq!(names(&directory), [] as [&str; 0]);
}

#[test]
fn the_size_is_known_also_when_the_disk_is_closed() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let (client, minor) = (host.client(pid), crate::host::minor("0"));
    assert_eq!(client.disk_info(minor).unwrap().sectors, 0);
    let open = control_api::OpenRequest::new(aio(&host.raw_image("a.img", 8 << 20))).unwrap();
    let size = client.open(minor, &open).unwrap();
    assert_eq!((size.sectors, size.sector_size, size.information), (16384, 512, 0));
    client.close(minor).unwrap();
    assert_eq!(client.disk_info(minor).unwrap(), size);
}
