//! What a storage manager writes on an image while a tapdisk serves it is still there afterwards.

use crate::served::Host;

#[test]
fn marks_that_are_set_on_a_served_image_stay() {
    let host = Host::new();
    host.vhd_util("create -n a.vhd -s 32");
    let disk = host.serve(&host.image("vhd", "a.vhd"));
    disk.io(&["write -P 7 0 4M", "flush"]);
    host.vhd_util("set -n a.vhd -f hidden -v 1");
    host.vhd_util("set -n a.vhd -f marker -v 9");
    assert_eq!(host.vhd_util("query -n a.vhd -vfma"), "32\nhidden: 1\nmarker: 9\n2\n");
    disk.io(&["write -P 8 8M 4M", "discard 0 2M", "flush"]);
    disk.close();
    assert_eq!(host.vhd_util("query -n a.vhd -vfma"), "32\nhidden: 1\nmarker: 9\n3\n");
    let disk = host.serve(&host.image("vhd", "a.vhd"));
    disk.io(&["read -P 0 0 2M", "read -P 7 2M 2M", "read -P 8 8M 4M"]);
    disk.close();
}
