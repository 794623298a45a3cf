//! Images on block devices: the footer is in the last sector, and a device is never removed.

use test_support::LoopDevice;

use super::place::{Place, exists};

#[test]
fn an_image_on_a_device_ends_with_the_device() {
    let place = Place::new();
    let bytes = 8 << 20;
    place.write("disk", &vec![0x55; bytes]);
    let Some(device) = LoopDevice::attach("an_image_on_a_device_ends_with_the_device", &place.path("disk")) else {
        return;
    };
    let name = device.path().to_str().unwrap();
    place.make(&format!("create -n {name} -s 64"));
    let image = place.read("disk");
    assert_eq!(image.len(), bytes);
    assert_eq!(image[..512], image[bytes - 512..]);
    assert!(image[3072..bytes - 512].iter().all(|byte| *byte == 0x55), "only headers and footer are written");
    assert_eq!(place.ask(&format!("query -n {name} -vsp")), format!("64\n3584\n{name} has no parent\n"));
    place.make(&format!("set -n {name} -f hidden -v 1"));
    let image = place.read("disk");
    assert_eq!((image[85], image[bytes - 512 + 85]), (1, 1));
}

#[test]
fn a_device_that_is_too_small_stays_as_it_is() {
    let place = Place::new();
    place.write("disk", &[0x55; 4096]);
    let Some(device) = LoopDevice::attach("a_device_that_is_too_small_stays_as_it_is", &place.path("disk")) else {
        return;
    };
    let name = device.path().to_str().unwrap();
    let ended = place.run(&format!("create -n {name} -s 4096"));
    assert_eq!((ended.status, ended.stdout.as_str()), (28, ""));
    assert_eq!(ended.stderr.lines().next(), Some(format!("{name}: failed to create: -28").as_str()));
    assert!(exists(device.path()));
    assert_eq!(place.read("disk"), [0x55; 4096]);
}

#[test]
fn a_device_of_large_sectors_holds_an_image_all_the_same() {
    let place = Place::new();
    place.write("disk", &vec![0; 8 << 20]);
    let test = "a_device_of_large_sectors_holds_an_image_all_the_same";
    let Some(device) = LoopDevice::attach_with(test, &place.path("disk"), &["--sector-size=4096"]) else {
        return;
    };
    let name = device.path().to_str().unwrap();
    place.make(&format!("create -n {name} -s 64"));
    place.make(&format!("set -n {name} -f marker -v 5"));
    place.make(&format!("set -n {name} -f hidden -v 1"));
    assert_eq!(place.ask(&format!("query -n {name} -vsfm")), "64\n3584\nhidden: 1\nmarker: 5\n");
    let child = place.path("b.vhd");
    place.make(&format!("snapshot -n b.vhd -p {name}"));
    assert_eq!(place.ask("query -n b.vhd -pd"), format!("{name}\nchain depth: 2\n"));
    assert!(exists(&child));
}
