//! Chains are opened as their images say, and refused with one line that names the file and the cause.

#![allow(clippy::unwrap_used, reason = "a test that panics has told its story")]

mod support;

use block_core::ErrorKind;
use image_chain::{ChainSpec, ImageKind};
use storage_io::{Access, LockPolicy};
use support::{BLOCK, Host, identity, kinds, name};

/// The kind and the text of the error that opening `leaf` gives; nothing may have changed.
fn refusal(host: &Host, leaf: &str, others: &[&str]) -> (ErrorKind, String) {
    let all = || others.iter().map(|path| host.bytes(path)).collect::<Vec<_>>();
    let before = all();
    let error = host.open(leaf).err().expect("it is refused");
    assert!(all() == before, "a refused chain is left as it was");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    (error.kind(), text)
}

#[test]
fn a_chain_of_vhds_over_a_raw_base_reads_through() {
    let host = Host::new();
    host.raw("/sr/base.raw", vec![1; 4096]);
    host.child_of_raw("/sr/middle.vhd", "/sr/base.raw", 2);
    host.child("/sr/leaf.vhd", "/sr/middle.vhd", 2);
    host.write("vhd:/sr/middle.vhd", 512, &[2; 512]);
    let disk = host.open("vhd:/sr/leaf.vhd").unwrap();
    assert_eq!(kinds(&disk.home), [ImageKind::Vhd, ImageKind::Vhd, ImageKind::Raw]);
    assert_eq!(disk.home.size(), 2 * BLOCK, "the size is the leaf's");
    disk.write(1024, &[3; 512]);
    let expected = [[1; 512], [2; 512], [3; 512], [1; 512]].concat();
    assert_eq!(disk.read(0, 2048), expected);
    assert_eq!(disk.read(4096, 512), [0; 512], "behind the end of a smaller parent are zeroes");
    disk.close();
}

#[test]
fn parents_are_never_written_and_never_locked() {
    let host = Host::new();
    host.vhd("/sr/base.vhd", 2);
    host.child("/sr/leaf.vhd", "/sr/base.vhd", 2);
    let before = host.bytes("/sr/base.vhd");
    host.files.wrap_opened(|path, options, storage| {
        if path.ends_with("base.vhd") {
            assert_eq!((options.access, options.lock), (Access::Read, LockPolicy::None));
        }
        storage
    });
    host.write("vhd:/sr/leaf.vhd", 700, &[7; 5000]);
    assert!(host.bytes("/sr/base.vhd") == before);
}

#[test]
fn a_reader_takes_no_lock_and_refuses_to_write() {
    let host = Host::new();
    host.vhd("/sr/a.vhd", 1);
    host.files.wrap_opened(|_, options, storage| {
        assert_eq!((options.access, options.lock), (Access::Read, LockPolicy::None));
        storage
    });
    let disk = host.open_spec(&ChainSpec::new(name("vhd:/sr/a.vhd"), Access::Read)).unwrap();
    assert!(disk.home.is_read_only());
    let write = disk.queue.write(support::range(0, 512), storage_io::Buffer::zeroed(512), false);
    assert_eq!(disk.run(write).1.unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(disk.run(disk.queue.discard(support::range(0, 512))).unwrap_err().kind(), ErrorKind::ReadOnly);
    disk.run(disk.queue.flush()).unwrap();
    disk.close();
}

#[test]
fn a_parent_with_another_identity_is_refused_with_both() {
    let host = Host::new();
    host.vhd("/sr/base.vhd", 1);
    host.child_of("/sr/leaf.vhd", "/sr/base.vhd", 1, Some(identity("another")));
    let (kind, text) = refusal(&host, "vhd:/sr/leaf.vhd", &["/sr/leaf.vhd", "/sr/base.vhd"]);
    assert_eq!(kind, ErrorKind::Mismatch);
    let (recorded, is) = (identity("another"), identity("/sr/base.vhd"));
    assert_eq!(text, format!("/sr/leaf.vhd: was made from {recorded}, but its parent /sr/base.vhd is {is}"));
}

#[test]
fn a_missing_parent_is_named_with_its_child() {
    let host = Host::new();
    host.vhd("/sr/base.vhd", 1);
    host.child("/sr/leaf.vhd", "/sr/base.vhd", 1);
    host.files.remove("/sr/base.vhd");
    let (kind, text) = refusal(&host, "vhd:/sr/leaf.vhd", &["/sr/leaf.vhd"]);
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.starts_with("/sr/leaf.vhd: its parent: /sr/base.vhd: "), "{text}");
}

#[test]
fn a_leaf_that_needs_mending_is_not_mended_before_its_parents_are_found() {
    let host = Host::new();
    host.vhd("/sr/base.vhd", 1);
    host.child("/sr/leaf.vhd", "/sr/base.vhd", 1);
    let whole = host.bytes("/sr/leaf.vhd");
    // Its end is missing, as after a copy that was broken off.
    host.raw("/sr/leaf.vhd", whole[..2048].to_vec());
    refusal(&host, "vhd:/sr/leaf.vhd", &["/sr/leaf.vhd", "/sr/base.vhd"]);
}

#[test]
fn a_chain_that_comes_back_to_itself_is_refused() {
    let host = Host::new();
    host.child("/sr/a.vhd", "/sr/b.vhd", 1);
    host.child("/sr/b.vhd", "/sr/a.vhd", 1);
    let (kind, text) = refusal(&host, "vhd:/sr/a.vhd", &["/sr/a.vhd", "/sr/b.vhd"]);
    assert_eq!(kind, ErrorKind::Corrupt);
    assert_eq!(text, "/sr/b.vhd: its parent is /sr/a.vhd, which is in the chain already");
}

#[test]
fn a_loop_under_another_name_is_a_loop() {
    let host = Host::new();
    host.child("/sr/a.vhd", "/sr/b.vhd", 1);
    host.files.put("/sr/b.vhd", host.files.get("/sr/a.vhd").unwrap());
    assert_eq!(refusal(&host, "vhd:/sr/a.vhd", &["/sr/a.vhd"]).0, ErrorKind::Corrupt);
}

#[test]
fn a_chain_may_not_be_deeper_than_it_was_told() {
    let host = Host::new();
    host.vhd("/sr/0.vhd", 1);
    (1..4).for_each(|depth| host.child(&format!("/sr/{depth}.vhd"), &format!("/sr/{}.vhd", depth - 1), 1));
    let spec = |depth_max| ChainSpec { depth_max, ..ChainSpec::new(name("vhd:/sr/3.vhd"), Access::Write) };
    host.open_spec(&spec(4)).unwrap().close();
    let error = host.open_spec(&spec(3)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().starts_with("/sr/1.vhd: "), "{error}");
}

#[test]
fn what_is_not_an_image_is_named() {
    let host = Host::new();
    host.raw("/sr/text", vec![b'x'; 100_000]);
    host.raw("/sr/short", vec![0; 100]);
    for (leaf, path) in [("vhd:/sr/text", "/sr/text"), ("vhd:/sr/short", "/sr/short")] {
        let (kind, text) = refusal(&host, leaf, &[path]);
        assert!(kind == ErrorKind::Corrupt && text.starts_with(path), "{text}");
    }
    let (kind, text) = refusal(&host, "aio:/sr/nothing", &[]);
    assert!(kind == ErrorKind::NotFound && text.starts_with("/sr/nothing: "), "{text}");
}

#[test]
fn a_vhd_named_raw_is_its_bytes() {
    let host = Host::new();
    host.vhd("/sr/a.vhd", 1);
    let disk = host.open("aio:/sr/a.vhd").unwrap();
    assert_eq!(disk.home.size(), host.files.get("/sr/a.vhd").unwrap().length());
    assert_eq!(disk.read(0, 8), b"conectix");
    disk.close();
}
