//! Our numbers and structures against the kernel's headers on this machine, as a C compiler reads them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

const PROGRAM: &str = r#"
#include <stdio.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
typedef uint16_t domid_t;
typedef uint32_t grant_ref_t;
#include <xen/gntdev.h>
#include <xen/evtchn.h>
#define SHOW(x) printf("%s %#lx\n", #x, (unsigned long)(x))
int main(void) {
    SHOW(IOCTL_GNTDEV_MAP_GRANT_REF); SHOW(IOCTL_GNTDEV_UNMAP_GRANT_REF); SHOW(IOCTL_GNTDEV_GRANT_COPY);
    SHOW(IOCTL_EVTCHN_BIND_INTERDOMAIN); SHOW(IOCTL_EVTCHN_UNBIND); SHOW(IOCTL_EVTCHN_NOTIFY);
    SHOW(sizeof(struct gntdev_grant_copy_segment));
    SHOW(offsetof(struct gntdev_grant_copy_segment, dest));
    SHOW(offsetof(struct gntdev_grant_copy_segment, len));
    SHOW(offsetof(struct gntdev_grant_copy_segment, flags));
    SHOW(offsetof(struct gntdev_grant_copy_segment, status));
    SHOW(offsetof(struct gntdev_grant_copy_segment, source.foreign.offset));
    SHOW(offsetof(struct gntdev_grant_copy_segment, source.foreign.domid));
    SHOW(sizeof(struct ioctl_gntdev_grant_copy)); SHOW(offsetof(struct ioctl_gntdev_grant_copy, segments));
    SHOW(offsetof(struct ioctl_gntdev_map_grant_ref, index)); SHOW(offsetof(struct ioctl_gntdev_map_grant_ref, refs));
    SHOW(sizeof(struct ioctl_gntdev_grant_ref)); SHOW(sizeof(struct ioctl_gntdev_unmap_grant_ref));
    return 0;
}
"#;

/// As the platform has them, in the order in which the program shows them.
const EXPECTED: [u64; 19] =
    [0x18_4700, 0x10_4701, 0x10_4708, 0x8_4501, 0x4_4503, 0x4_4504, 24, 8, 16, 18, 20, 4, 6, 16, 8, 8, 16, 8, 16];

#[test]
fn numbers_and_structures_are_those_of_the_kernels_headers() {
    let directory = tempfile::tempdir().unwrap();
    let (source, program) = (directory.path().join("headers.c"), directory.path().join("headers"));
    let headers = ["/usr/include/xen/gntdev.h", "/usr/include/xen/evtchn.h"];
    if !headers.iter().all(|header| std::path::Path::new(header).exists()) {
        test_support::skip("kernel headers", "the headers of linux-libc-dev are not there");
        return;
    }
    std::fs::write(&source, PROGRAM).unwrap();
    let compiled = Command::new("cc").arg(&source).arg("-o").arg(&program).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let shown = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
    let numbers = shown.lines().map(|line| line.rsplit(' ').next().unwrap().trim_start_matches("0x"));
    let numbers: Vec<u64> = numbers.map(|hex| u64::from_str_radix(hex, 16).unwrap()).collect();
    assert_eq!(numbers, EXPECTED, "{shown}");
}
