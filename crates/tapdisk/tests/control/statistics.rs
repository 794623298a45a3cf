//! Statistics: as text, and in shared memory.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
    ptr,
};

use export::nbd::client::Client;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::host::{Host, Said, aio, eventually, names};

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
    let (directory, metrics) = (host.run.shared_memory(pid), host.run.metrics());
    let open = control_api::OpenRequest::new(aio(&host.raw_image("a.img", 1 << 20))).unwrap();
    assert_eq!(names(&directory), [] as [&str; 0]);
    let all_there = || {
        assert_eq!(names(&directory), ["nbd-0", "nbd-old-0", "vdi-0"]);
        assert_eq!(names(&metrics), [format!("tap-{pid}-0")]);
    };
    client.open(minor, &open).unwrap();
    all_there();
    for page in [directory.join("vdi-0"), directory.join("nbd-0"), host.run.metrics_page(pid, minor)] {
        let file = fs::metadata(&page).unwrap();
        assert_eq!((file.len(), file.mode() & 0o777), (4096, 0o600), "{}", page.display());
    }
    assert_eq!(fs::metadata(&metrics).unwrap().mode() & 0o077, 0, "nobody else may enter");
    client.pause(minor).unwrap();
    assert_eq!(names(&directory), ["nbd-0", "nbd-old-0"]);
    assert_eq!(names(&metrics), [] as [&str; 0]);
    client.resume(minor, &control_api::OpenRequest::default()).unwrap();
    all_there();
    client.close(minor).unwrap();
    assert_eq!(names(&directory), [] as [&str; 0]);
    assert_eq!(names(&metrics), [] as [&str; 0]);
}

/// A page as a client sees it that has mapped it once.
struct Mapped(*const u8);

impl Mapped {
    fn new(path: &Path) -> Mapped {
        let file = File::open(path).unwrap();
        // SAFETY: a mapping at a place of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap(ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, &file, 0) };
        Mapped(start.unwrap().cast_const().cast())
    }

    fn value(&self, offset: usize) -> u64 {
        assert!(offset + 8 <= 4096);
        // SAFETY: within the page, which stays mapped, and aligned; the file keeps its length while it is there.
        u64::from_le(unsafe { self.0.add(offset).cast::<u64>().read_volatile() })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nobody refers to it any more.
        unsafe { munmap(self.0.cast_mut().cast(), 4096) }.unwrap();
    }
}

#[test]
fn a_client_that_maps_a_page_sees_it_grow() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let minor = crate::host::minor("0");
    let open = control_api::OpenRequest::new(aio(&host.raw_image("a.img", 1 << 20))).unwrap();
    host.client(pid).open(minor, &open).unwrap();
    let directory = host.run.shared_memory(pid);
    let (vdi, nbd) = (Mapped::new(&directory.join("vdi-0")), Mapped::new(&directory.join("nbd-0")));
    assert_eq!(vdi.value(48), 0);

    let mut client = Client::connect_unix(&host.run.nbd_socket(pid, minor), "").unwrap();
    client.write(0, &[7; 8192]).unwrap();
    client.read(4096, &mut [0; 4096]).unwrap();
    eventually("the page is written", || vdi.value(24) == 1 && vdi.value(56) == 1);
    assert_eq!([16, 24, 32, 48, 56, 64, 80].map(|at| vdi.value(at)), [1, 1, 8, 1, 1, 16, 0]);
    assert!(vdi.value(40) > 0 && vdi.value(72) > 0, "both took some time");
    eventually("so is that of NBD", || nbd.value(56) == 1);
    assert_eq!((vdi.value(0), vdi.value(8), vdi.value(88)), (0, 0, 0), "version, what is never counted, flags");
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
