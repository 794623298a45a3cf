//! What an image holds, as text and as bytes.

use std::process::Output;

use test_support::target_program;

use super::place::{Place, change_footers, fill_blocks};

fn output(place: &Place, line: &str) -> Output {
    place.command(target_program("vhd-util")).args(line.split_whitespace()).output().unwrap()
}

/// Bytes on stdout, and nothing else.
fn bytes(place: &Place, line: &str) -> Vec<u8> {
    let output = output(place, line);
    assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
    output.stdout
}

/// An image of four blocks: the first and the second are there, the second without its first 16 sectors and its last.
fn image(place: &Place) {
    place.make("create -n a.vhd -s 8");
    fill_blocks(place, "a.vhd", 2, 9);
    let second = entry(place, 1);
    place.patch("a.vhd", second, &[0, 0]);
    place.patch("a.vhd", second + 511, &[0xfe]);
    place.patch("a.vhd", second + 512, &[0; 8192]);
    place.patch("a.vhd", second + 512 + (2 << 20) - 512, &[0; 512]);
}

fn entry(place: &Place, block: usize) -> u64 {
    let image = place.read("a.vhd");
    u64::from(u32::from_be_bytes(image[1536 + block * 4..][..4].try_into().unwrap())) * 512
}

const FOOTER: &str = "\
VHD Footer Summary:
-------------------
Cookie              : conectix
Features            : (0x00000002) <RESV>
File format version : Major: 1, Minor: 0
Data offset         : 512
Timestamp           : Sat Jan  1 00:00:00 2000
Creator Application : 'tap'
Creator version     : Major: 1, Minor: 3
Creator OS          : Unknown!
Original disk size  : 64 MB (67108864 Bytes)
Current disk size   : 64 MB (67108864 Bytes)
Geometry            : Cyl: 963, Hds: 8, Sctrs: 17
                    : = 63 MB (67055616 Bytes)
Disk type           : TYPE
Checksum            : SUM
UUID                : 11111111-1111-1111-1111-111111111111
Saved state         : No
Hidden              : 1

";

#[test]
fn the_headers_of_a_dynamic_image() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    change_footers(&place, "a.vhd", |footer| {
        footer[24..28].fill(0);
        footer[68..84].fill(0x11);
        footer[85] = 1;
    });
    let footer = FOOTER.replace("TYPE", "Dynamic hard disk").replace("SUM", "0xfffff959|0xfffff959 (Good!)");
    let header = "\
VHD Header Summary:
-------------------
Cookie              : cxsparse
Data offset (unusd) : 18446744073709551615
Table offset        : 1536
Header version      : 0x00010000
Max BAT size        : 32
Block size          : 2097152 (2 MB)
Parent name         : 
Parent UUID         : 00000000-0000-0000-0000-000000000000
Parent timestamp    : Sat Jan  1 00:00:00 2000
Checksum            : 0xfffff457|0xfffff457 (Good!)

VHD Batmap Summary:
-------------------
Batmap offset       : 2560
Batmap size (secs)  : 1
Batmap version      : 0x00010002
Checksum            : 0xffffffff|0xffffffff (Good!)


";
    assert_eq!(place.ask("read --debug -p -n a.vhd"), footer + header);
    let hex = place.ask("read -p -x -n a.vhd");
    for line in [
        "Data offset         : 0x200",
        "Original disk size  : 0x40 MB (0x4000000 Bytes)",
        "Block size          : 0x200000 (0x2 MB)",
        "Hidden              : 1",
    ] {
        assert!(hex.lines().any(|told| told == line), "{line} in {hex}");
    }
}

#[test]
fn the_headers_of_a_child_whose_parent_is_away() {
    let place = Place::new();
    place.make("create -n p.vhd -s 64");
    place.make("snapshot -n a.vhd -p p.vhd -e");
    std::fs::remove_file(place.path("p.vhd")).unwrap();
    let told = place.ask("read -p -n a.vhd");
    assert!(told.contains("\nDisk type           : Differencing hard disk\n"), "{told}");
    let locators = "\
VHD Parent Locators:
--------------------
locator:            : 0
       code         : PLAT_CODE_MACX
       data_space   : 512
       data_length  : 14
       data_offset  : 3072
       decoded name : ./p.vhd

locator:            : 1
       code         : PLAT_CODE_W2KU
       data_space   : 512
       data_length  : 14
       data_offset  : 3584
       decoded name : ./p.vhd

locator:            : 2
       code         : PLAT_CODE_W2RU
       data_space   : 512
       data_length  : 14
       data_offset  : 4096
       decoded name : ./p.vhd

VHD Batmap Summary:
";
    assert!(told.contains(locators), "{told}");
    assert!(told.contains("\nParent name         : p.vhd\n"), "{told}");
}

#[test]
fn where_sectors_and_blocks_are() {
    let place = Place::new();
    image(&place);
    let stories = [
        (
            "-t 4095 -c 2",
            "logical sector 4095: block number: 0, sector offset: 4095, file offset: 2100736\n\
             logical sector 4096: block number: 1, sector offset: 0, file offset: 2105344\n",
        ),
        ("-t 16383", "logical sector 16383: block number: 3, sector offset: 4095, file offset: not allocated\n"),
        ("-b 0 -c 3", "block: 0: offset: 3584\nblock: 1: offset: 2104832\nblock: 2: offset: not allocated\n"),
        ("-x -b 0", "block: 0: offset: 0xe00\n"),
        ("-i 4111 -c 2", "block 1: sec: 15: 0\nblock 1: sec: 16: 1\n"),
        ("-i 8192", "block 2: sec: 0: 0\n"),
        ("-e 0 -c 16384", "0 4096\n4112 4079\n"),
        ("-e 4000 -c 96", "4000 96\n"),
        ("-e 8191 -c 100", ""),
        ("-m 2", "block 2 not allocated\n"),
        ("-d 3", "block 3 not allocated\n"),
        ("", ""),
    ];
    for (options, told) in stories {
        assert_eq!(place.ask(&format!("read -n a.vhd {options}")), told, "{options}");
    }
}

#[test]
fn tables_and_data_are_bytes() {
    let place = Place::new();
    image(&place);
    assert_eq!(bytes(&place, "read -n a.vhd -B"), [0xc0]);
    assert_eq!(bytes(&place, "read -n a.vhd -a"), [0; 512]);
    let mut bitmap = vec![0xff; 512];
    (bitmap[0], bitmap[1], bitmap[511]) = (0, 0, 0xfe);
    assert_eq!(bytes(&place, "read -n a.vhd -m 0 -c 2"), [vec![0xff; 512], bitmap].concat());
    assert!(bytes(&place, "read -n a.vhd -d 0") == vec![9; 2 << 20]);
    let sectors = bytes(&place, "read -n a.vhd -r 4095 -c 18");
    assert_eq!(sectors, [vec![9; 512], vec![0; 16 * 512], vec![9; 512]].concat());
    assert_eq!(bytes(&place, "read -n a.vhd -R 2097152 -c 512"), [0; 512]);
    let ended = output(&place, "read -n a.vhd -j 0 -c 2");
    assert!(ended.status.success() && ended.stdout.is_empty());
    assert_eq!(ended.stderr, b"batmap for block 0: 0\nbatmap for block 1: 0\n");
}

/// The disk's bytes come through the chain, wherever it lies.
#[test]
fn data_comes_through_the_parents() {
    let place = Place::new();
    image(&place);
    std::fs::create_dir(place.path("d\u{e9}j\u{e0}")).unwrap();
    place.make("snapshot -n d\u{e9}j\u{e0}/b.vhd -p a.vhd");
    place.make("snapshot -n c.vhd -p d\u{e9}j\u{e0}/b.vhd -e");
    let own = bytes(&place, "read -n a.vhd -r 0 -c 16384");
    assert!(own.len() == 8 << 20 && bytes(&place, "read -n c.vhd -r 0 -c 16384") == own);
    place.write("raw", &[7; 1 << 20]);
    place.make("snapshot -n d.vhd -p raw -m");
    assert_eq!(bytes(&place, "read -n d.vhd -R 1048064 -c 512"), [7; 512]);
}

#[test]
fn what_lies_behind_the_end_is_told_by_status_34() {
    let place = Place::new();
    image(&place);
    let stories = [
        ("-t 16384", "", "sector 16385 past end of file"),
        ("-t 16380 -c 5", "", "sector 16385 past end of file"),
        ("-b 4", "", "block 5 past end of file"),
        ("-m 4", "", "block 5 past end of file"),
        ("-d 4", "", "block 5 past end of file"),
        ("-j 4", "", "block 5 past end of file"),
        ("-i 16384", "sector 16384 past end of file\n", "sector 16384 past end of file"),
        ("-e 16384", "sector 16384 past end of file\n", "sector 16384 past end of file"),
        ("-r 16384", "", "past end of file"),
        ("-R 8388608 -c 512", "", "past end of file"),
        ("-t -1", "", "past end of file"),
        ("-r 1 -c 9223372036854775807", "", "past end of file"),
    ];
    for (options, told, words) in stories {
        let (status, stdout, stderr) = place.fail(&format!("read -n a.vhd {options}"));
        assert_eq!((status, stdout.as_str()), (34, told), "{options}");
        assert!(stderr.contains(words), "{options}: {stderr}");
    }
    let (status, stdout, _) = place.fail("read -n a.vhd -R 0 -c 4");
    assert_eq!((status, stdout.as_str()), (22, ""));
}

#[test]
fn images_without_a_table_and_what_is_no_image() {
    let place = Place::new();
    place.make("create -n f.vhd -s 2 -r");
    let (status, stdout, _) = place.fail("read -n f.vhd -p");
    assert_eq!((status, stdout.as_str()), (22, "Failed to get bat for f.vhd: -22\n"));
    let (status, stdout, _) = place.fail("read -n none.vhd -p");
    let told = "Failed to open none.vhd: -2\n\nnone.vhd appears invalid; dumping headers\n\n";
    assert_eq!((status, stdout.as_str()), (2, told));
    // Whatever a file holds, what comes out can be read.
    let junk: Vec<u8> = (0..2048_u32).flat_map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    place.write("junk", &junk);
    let (status, stdout, _) = place.fail("read -n junk -p");
    assert_eq!(status, 22);
    assert!(stdout.contains("junk appears invalid; dumping headers\n\nVHD Footer Summary:\n"), "{stdout}");
    assert!(stdout.contains("(Bad!)") && stdout.chars().all(|character| character == '\n' || !character.is_control()));
}

#[test]
fn a_table_that_leads_behind_the_end_of_the_file_is_not_followed() {
    let place = Place::new();
    image(&place);
    place.patch("a.vhd", 1536 + 8, &0x00ff_ffff_u32.to_be_bytes());
    for options in ["-m 2", "-d 2", "-i 8192", "-e 8192", "-r 8192"] {
        let (status, stdout, _) = place.fail(&format!("read -n a.vhd {options}"));
        assert!(status != 0 && stdout.is_empty(), "{options}: {status} {stdout}");
    }
    assert_eq!(place.ask("read -n a.vhd -b 2"), format!("block: 2: offset: {}\n", 0x00ff_ffff_u64 * 512));
}
