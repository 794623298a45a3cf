//! Our numbers and structures against the headers of the kernel and of Xen on this machine.

use std::{mem::offset_of, path::Path};

use test_support::Facts;

use super::{
    calls::{
        Allocate, BindInterdomain, Copies, CopySegment, DESTINATION_IS_GRANTED, Deallocate, SOURCE_IS_GRANTED, Unmap,
        WRITABLE, number,
    },
    grants::status_of,
};
use crate::CopyStatus;

const KERNEL: &str = "#include <stdint.h>
#include <stddef.h>
#include <sys/ioctl.h>
typedef uint16_t domid_t;
typedef uint32_t grant_ref_t;
#include <xen/gntalloc.h>
#include <xen/gntdev.h>
#include <xen/evtchn.h>
";

const XEN: &str = "#include <stdint.h>
#include <xen/grant_table.h>
";

#[test]
fn calls_of_the_devices_are_those_of_the_kernels_headers() {
    let directory = Path::new("/usr/include");
    if ["xen/gntalloc.h", "xen/gntdev.h", "xen/evtchn.h"].iter().any(|header| !directory.join(header).exists()) {
        test_support::skip("kernel headers", "the headers of linux-libc-dev are not there");
        return;
    }
    let mut facts = Facts::default();
    facts.is("IOCTL_GNTDEV_MAP_GRANT_REF", number::MAP_GRANT_REF);
    facts.is("IOCTL_GNTDEV_UNMAP_GRANT_REF", number::UNMAP_GRANT_REF);
    facts.is("IOCTL_GNTDEV_GRANT_COPY", number::GRANT_COPY);
    facts.is("IOCTL_EVTCHN_BIND_INTERDOMAIN", number::BIND_INTERDOMAIN);
    facts.is("IOCTL_EVTCHN_UNBIND", number::UNBIND_PORT);
    facts.is("IOCTL_EVTCHN_NOTIFY", number::NOTIFY);
    // Words of eight bytes, as they are written: a count, an index, then a domain and a reference for each page.
    let map = "struct ioctl_gntdev_map_grant_ref";
    for (field, at) in [("count", 0), ("index", 8), ("refs", 16)] {
        facts.is(&format!("offsetof({map}, {field})"), at);
    }
    for (field, at) in [("domid", 0), ("ref", 4)] {
        facts.is(&format!("offsetof(struct ioctl_gntdev_grant_ref, {field})"), at);
    }
    facts.is("sizeof(struct ioctl_gntdev_grant_ref)", 8);
    facts.is("sizeof(struct ioctl_gntdev_unmap_grant_ref)", size_of::<Unmap>());
    facts.is("offsetof(struct ioctl_gntdev_unmap_grant_ref, index)", offset_of!(Unmap, index));
    facts.is("offsetof(struct ioctl_gntdev_unmap_grant_ref, count)", offset_of!(Unmap, count));
    facts.is("sizeof(struct ioctl_gntdev_grant_copy)", size_of::<Copies>());
    facts.is("offsetof(struct ioctl_gntdev_grant_copy, count)", offset_of!(Copies, count));
    facts.is("offsetof(struct ioctl_gntdev_grant_copy, segments)", offset_of!(Copies, segments));
    let segment = "struct gntdev_grant_copy_segment";
    facts.is(&format!("sizeof({segment})"), size_of::<CopySegment>());
    for (field, ours) in [
        ("source", offset_of!(CopySegment, source)),
        ("dest", offset_of!(CopySegment, destination)),
        ("len", offset_of!(CopySegment, length)),
        ("flags", offset_of!(CopySegment, flags)),
        ("status", offset_of!(CopySegment, status)),
        // As one side of a copy has them in a word.
        ("source.virt", 0),
        ("source.foreign.ref", 0),
        ("source.foreign.offset", 4),
        ("source.foreign.domid", 6),
    ] {
        facts.is(&format!("offsetof({segment}, {field})"), ours);
    }
    facts.is("sizeof(struct ioctl_evtchn_bind_interdomain)", size_of::<BindInterdomain>());
    let bind = "struct ioctl_evtchn_bind_interdomain";
    facts.is(&format!("offsetof({bind}, remote_domain)"), offset_of!(BindInterdomain, domain));
    facts.is(&format!("offsetof({bind}, remote_port)"), offset_of!(BindInterdomain, port));
    facts.is("sizeof(struct ioctl_evtchn_unbind)", 4);
    facts.is("sizeof(struct ioctl_evtchn_notify)", 4);
    facts.is("IOCTL_EVTCHN_BIND_UNBOUND_PORT", number::BIND_UNBOUND_PORT);
    facts.is("sizeof(struct ioctl_evtchn_bind_unbound_port)", 4);
    own_pages(&mut facts);
    facts.hold(KERNEL, directory, &[]);
}

fn own_pages(facts: &mut Facts) {
    facts.is("IOCTL_GNTALLOC_ALLOC_GREF", number::ALLOC_GREF);
    facts.is("IOCTL_GNTALLOC_DEALLOC_GREF", number::DEALLOC_GREF);
    facts.is("GNTALLOC_FLAG_WRITABLE", WRITABLE);
    let allocate = "struct ioctl_gntalloc_alloc_gref";
    facts.is(&format!("sizeof({allocate})"), size_of::<Allocate>());
    for (field, ours) in [
        ("domid", offset_of!(Allocate, domain)),
        ("flags", offset_of!(Allocate, flags)),
        ("count", offset_of!(Allocate, count)),
        ("index", offset_of!(Allocate, index)),
        ("gref_ids", offset_of!(Allocate, grant)),
    ] {
        facts.is(&format!("offsetof({allocate}, {field})"), ours);
    }
    facts.is("sizeof(struct ioctl_gntalloc_dealloc_gref)", size_of::<Deallocate>());
    facts.is("offsetof(struct ioctl_gntalloc_dealloc_gref, index)", offset_of!(Deallocate, index));
    facts.is("offsetof(struct ioctl_gntalloc_dealloc_gref, count)", offset_of!(Deallocate, count));
}

#[test]
fn flags_and_statuses_of_copies_are_those_of_xens_headers() {
    let Some(root) = test_support::XEN_HEADERS.root("headers of Xen") else { return };
    let mut facts = Facts::default();
    facts.is("GNTCOPY_source_gref", SOURCE_IS_GRANTED);
    facts.is("GNTCOPY_dest_gref", DESTINATION_IS_GRANTED);
    for (name, number, status) in [
        ("okay", 0, CopyStatus::Okay),
        ("general_error", -1, CopyStatus::Failed),
        ("bad_domain", -2, CopyStatus::BadDomain),
        ("bad_gntref", -3, CopyStatus::BadGrant),
        ("permission_denied", -8, CopyStatus::BadGrant),
        ("bad_page", -9, CopyStatus::BadPage),
        ("bad_copy_arg", -10, CopyStatus::Failed),
        ("eagain", -12, CopyStatus::Failed),
    ] {
        facts.is(&format!("GNTST_{name}"), number);
        assert_eq!(status_of(number), status, "{name}");
    }
    facts.hold(XEN, &root.join("usr/include"), &[]);
}
