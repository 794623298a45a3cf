//! Which images are valid, and what is said of the others.

use std::{collections::BTreeMap, fs, os::unix::fs::FileExt};

use super::place::{FOOTER_SUM, Place, change_footers, change_header, fill_blocks, summed};

/// A disk of 64 MiB with three full blocks, and a child of it without any.
fn chain() -> Place {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    fill_blocks(&place, "a.vhd", 3, 9);
    place.make("snapshot -n b.vhd -p a.vhd");
    place
}

/// What is said of an image that is not valid, and the status.
fn problem(place: &Place, line: &str) -> (i32, String) {
    let (status, stdout, _) = place.fail(line);
    let (problem, rest) = stdout.split_once('\n').unwrap();
    assert!(rest.contains(" appears invalid; dumping metadata\n"), "{stdout}");
    (status, problem.to_owned())
}

#[test]
fn a_valid_chain_is_told_image_by_image() {
    let place = chain();
    assert_eq!(place.ask("check -n b.vhd"), "b.vhd is valid\n");
    let parent = place.path("a.vhd").display().to_string();
    assert_eq!(place.ask("check -p -n b.vhd"), format!("b.vhd is valid\n{parent} is valid\n"));
    let told = "a.vhd: secs allocated: 0x3000 secs written: 0x3000 (100.00%)\n\
                b.vhd: secs allocated: 0x0 secs written: 0x0 (0.00%) secs not in parent: 0x0 (0.00%) \
                secs not in ancestors: 0x0 (0.00%)\n";
    assert_eq!(place.ask("check -p -s -n b.vhd"), told);
    place.make("create -n f.vhd -s 4 -r");
    assert_eq!(place.ask("check -n f.vhd"), "");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let place = chain();
    for line in ["check", "check -n a.vhd -B -s", "check -n a.vhd -B -b", "check -n a.vhd x"] {
        let ended = place.run(line);
        assert!(ended.status == 22 && ended.stdout.starts_with("options: <-n name>"), "{line}");
    }
}

#[test]
fn what_is_no_image_is_told_in_text() {
    let place = Place::new();
    assert_eq!(place.run("check -n no.vhd").stdout, "cannot stat no.vhd: 2\n");
    let mut junk: u32 = 1;
    let mut next = || {
        junk = junk.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        junk.to_be_bytes()
    };
    for bytes in [0, 1, 511, 512, 4096, 70_000] {
        place.write("junk", &(0..bytes / 4 + 1).flat_map(|_| next()).take(bytes).collect::<Vec<_>>());
        // What it says is UTF-8, or this panics.
        let (status, words) = problem(&place, "check -n junk");
        assert!(status == 22 && words.starts_with("primary footer invalid: "), "{words}");
    }
    let (status, _, _) = place.fail("check -n .");
    assert_eq!(status, 22);
}

/// As `read` shows them; of what has none, nothing.
#[test]
fn the_headers_of_what_is_not_valid_are_shown() {
    let place = chain();
    change_header(&place, "b.vhd", |header| header[900] = 1);
    let shown = place.ask("read -p -n b.vhd");
    assert!(shown.contains("decoded name : ./a.vhd") && shown.contains("VHD Batmap Summary:"), "{shown}");
    let words = "header is invalid: invalid reserved bits\nb.vhd appears invalid; dumping metadata\n";
    assert_eq!(place.fail("check -n b.vhd").1, format!("{words}{shown}"));
    assert_eq!(place.fail("check -p -n b.vhd").1, format!("{words}{shown}"));
    place.write("junk", &[7; 9000]);
    let last = "junk appears invalid; dumping metadata\n";
    assert!(place.fail("check -n junk").1.ends_with(last));
}

type Change = fn(&Place);

#[test]
fn each_rule_that_is_broken_is_told() {
    let stories: [(Change, &str); 10] = [
        (|place| place.patch("a.vhd", place.size("a.vhd") - 512, &[0; 8]), "primary footer invalid: invalid cookie"),
        (|place| place.patch("a.vhd", 100, &[1]), "backup footer invalid: invalid checksum"),
        (
            |place| {
                let mut footer = place.read("a.vhd")[..512].to_vec();
                footer[85] = 1;
                place.patch("a.vhd", 0, &summed(footer, FOOTER_SUM));
            },
            "primary and backup footers do not match",
        ),
        (
            |place| change_footers(place, "a.vhd", |footer| footer[24] = 0xff),
            "primary footer invalid: creation time in future",
        ),
        (|place| place.patch("a.vhd", 600, &[1]), "header is invalid: invalid checksum"),
        (
            |place| change_header(place, "a.vhd", |header| header[70] = 1),
            "header is invalid: a parent's name without a parent",
        ),
        (|place| place.patch("a.vhd", 1536, &4_u32.to_be_bytes()), "block 0 (offset 0x4) clobbers headers"),
        (|place| place.patch("a.vhd", 1540, &9_000_000_u32.to_be_bytes()), "block 1 (offset 0x895440) clobbers footer"),
        (
            |place| {
                let first = u32::from_be_bytes(place.read("a.vhd")[1536..1540].try_into().unwrap());
                place.patch("a.vhd", 1544, &(first + 4096).to_be_bytes());
            },
            "block 2 (offset 0x1007) clobbers block 0 (offset 0x7)",
        ),
        (|place| place.truncate("a.vhd", place.size("a.vhd") - 512), "primary footer invalid: invalid cookie"),
    ];
    for (change, words) in stories {
        let place = chain();
        change(&place);
        assert_eq!(problem(&place, "check -n a.vhd"), (22, words.to_owned()));
    }
}

#[test]
fn rules_can_be_left_out() {
    let place = chain();
    place.truncate("a.vhd", place.size("a.vhd") - 512);
    assert_eq!(place.run("check -n a.vhd").status, 22);
    assert_eq!(place.ask("check -i -n a.vhd"), "a.vhd is valid\n");
    let place = chain();
    change_footers(&place, "a.vhd", |footer| footer[24] = 0xff);
    assert_eq!(place.ask("check -t -n a.vhd"), "a.vhd is valid\n");
    let place = chain();
    place.patch("a.vhd", 1544, &7_u32.to_be_bytes());
    assert_eq!(place.ask("check -B -n a.vhd"), "a.vhd is valid\n");
}

#[test]
fn a_child_needs_the_parent_that_it_was_made_from() {
    let place = chain();
    fs::rename(place.path("a.vhd"), place.path("c.vhd")).unwrap();
    assert_eq!(problem(&place, "check -n b.vhd"), (2, "error resolving ./a.vhd: -2".to_owned()));
    assert_eq!(place.run("check -I -n b.vhd").status, 2);
    place.make("create -n a.vhd -s 64");
    let (status, words) = problem(&place, "check -n b.vhd");
    assert!(status == 22 && words.contains("a.vhd: its uuid is "), "{words}");
    assert_eq!(place.ask("check -I -n b.vhd"), "b.vhd is valid\n");
    place.write("a.vhd", b"no image");
    let (status, words) = problem(&place, "check -n b.vhd");
    assert!(status == 22 && words.starts_with("invalid parent "), "{words}");
    // Below a valid child the parent's own rules count with -p.
    let place = chain();
    place.patch("a.vhd", 1544, &7_u32.to_be_bytes());
    assert_eq!(place.ask("check -n b.vhd"), "b.vhd is valid\n");
    let (status, stdout, _) = place.fail("check -p -n b.vhd");
    assert!(status == 22 && stdout.ends_with("error checking parents: -22\n"), "{stdout}");
}

#[test]
fn a_chain_that_leads_back_to_itself_is_no_chain() {
    let place = Place::new();
    place.make("create -n two.vhd -s 64");
    place.make("snapshot -n one.vhd -p two.vhd");
    place.make("snapshot -e -n next.vhd -p one.vhd");
    fs::rename(place.path("next.vhd"), place.path("two.vhd")).unwrap();
    let uuid = place.read("two.vhd")[68..84].to_vec();
    change_header(&place, "one.vhd", |header| header[40..56].copy_from_slice(&uuid));
    for line in ["check -n one.vhd", "check -n two.vhd", "check -p -n one.vhd"] {
        let (status, words) = problem(&place, line);
        assert!(
            status == 40 && words.ends_with("the chain leads back to it: Too many levels of symbolic links"),
            "{words}"
        );
    }
    assert_eq!(place.run("check -I -p -n one.vhd").status, 40);
}

#[test]
fn locators_lead_to_the_parent_that_the_header_names() {
    let place = chain();
    place.patch("b.vhd", 3072 + 9, b"z");
    let (status, words) = problem(&place, "check -n b.vhd");
    assert_eq!((status, words.as_str()), (22, "parent locator 0 name (z.vhd) does not match header name (a.vhd)"));
    let place = chain();
    change_header(&place, "b.vhd", |header| header.copy_within(576..600, 600));
    assert_eq!(problem(&place, "check -n b.vhd"), (22, "duplicate platform code in locator 1: 0x4d616358".to_owned()));
    let place = chain();
    change_header(&place, "b.vhd", |header| header[592..600].fill(0));
    assert_eq!(problem(&place, "check -n b.vhd"), (22, "invalid parent locator 0: it is empty".to_owned()));
}

#[test]
fn what_is_not_there_is_zero() {
    let place = chain();
    assert_eq!(place.ask("check -b -n a.vhd"), "a.vhd is valid\n");
    // Sector 0x14 of block 1 is not there, and its first byte alone is not zero.
    let block = u64::from(u32::from_be_bytes(place.read("a.vhd")[1540..1544].try_into().unwrap())) * 512;
    place.patch("a.vhd", block + 2, &[0xf7]);
    place.patch("a.vhd", block + 512 + 0x14 * 512, &[[5].as_slice(), &[0; 511]].concat());
    let words = "sector 0x14 of block 0x1 has data where bitmap is clear";
    assert_eq!(problem(&place, "check -b -n a.vhd"), (22, words.to_owned()));
    assert_eq!(place.ask("check -n a.vhd"), "a.vhd is valid\n");
}

#[test]
fn a_batmap_that_nobody_can_believe_is_taken_for_absent() {
    let stories: [(Change, &str); 3] = [
        (|place| place.patch("a.vhd", 2048, b"x"), "batmap is invalid: invalid cookie"),
        (|place| place.patch("a.vhd", 2560, &[0x80]), "batmap is invalid: invalid checksum"),
        (
            |place| {
                // A block that is not there is full, and the sum says that this was meant.
                place.patch("a.vhd", 2560, &[0, 1]);
                place.patch("a.vhd", 2048 + 24, &(!1_u32).to_be_bytes());
            },
            "batmap shows unallocated block 15 full",
        ),
    ];
    for (change, words) in stories {
        let place = chain();
        change(&place);
        let ended = place.run("check -n a.vhd");
        assert_eq!((ended.status, ended.stdout.as_str()), (0, "a.vhd is valid\n"));
        let expected = format!("vhd-util: a.vhd: {words}: taken for absent, `repair` makes it anew\n");
        assert_eq!(ended.stderr, expected);
        place.make("repair -n a.vhd");
        assert_eq!(place.ask("check -n a.vhd"), "a.vhd is valid\n");
        assert_eq!(place.read("a.vhd")[2560], 0xe0);
    }
}

/// The sectors in which two files differ, as the plan tells them; and the new length if it is another.
fn difference(before: &[u8], after: &[u8]) -> BTreeMap<u64, u64> {
    let sector = |bytes: &[u8], index: usize| bytes.get(index * 512..(index + 1) * 512).map(<[u8]>::to_vec);
    let mut runs: BTreeMap<u64, u64> = BTreeMap::new();
    for index in 0..after.len() / 512 {
        if sector(before, index) == sector(after, index) {
            continue;
        }
        let start = index as u64 * 512;
        match runs.last_entry().filter(|run| run.key() + run.get() == start) {
            Some(mut run) => *run.get_mut() += 512,
            None => {
                runs.insert(start, 512);
            }
        }
    }
    runs
}

#[test]
fn a_plan_says_what_repair_then_does() {
    let damages: [Change; 6] = [
        |_| (),
        |place| place.truncate("a.vhd", place.size("a.vhd") - 512),
        |place| place.patch("a.vhd", 0, &[0; 512]),
        |place| place.patch("a.vhd", 2560, &[0x80]),
        |place| {
            let end = place.size("a.vhd");
            place.patch("a.vhd", end - 512, &[0xc7; 2 << 20]);
        },
        |place| change_footers(place, "a.vhd", |footer| footer[68..84].fill(0)),
    ];
    for (index, damage) in damages.into_iter().enumerate() {
        let place = Place::new();
        place.make("create -n a.vhd -s 64");
        fill_blocks(&place, "a.vhd", 3, 9);
        place.make("repair -n a.vhd");
        damage(&place);
        let before = place.read("a.vhd");
        let told = place.run("check --repair-plan -n a.vhd").stdout;
        assert!(place.read("a.vhd") == before, "damage {index}: a plan writes nothing");
        place.make("repair -n a.vhd");
        let after = place.read("a.vhd");
        let steps: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("repair: would ")).collect();
        let writes = steps.iter().filter_map(|step| {
            let (bytes, place) = step.split_once(": ")?.1.split_once(" bytes at 0x")?;
            Some((u64::from_str_radix(place, 16).ok()?, bytes.parse().ok()?))
        });
        assert_eq!(writes.collect::<BTreeMap<u64, u64>>(), difference(&before, &after), "damage {index}: {told}");
        let length = format!("the file to {} bytes", after.len());
        assert_eq!(
            steps.iter().any(|step| step.ends_with(&length)),
            before.len() != after.len(),
            "damage {index}: {told}"
        );
        assert_eq!(steps == ["change nothing"], before == after, "damage {index}: {told}");
    }
    let place = chain();
    place.patch("a.vhd", 600, &[1]);
    let told = place.run("check --repair-plan -n a.vhd").stdout;
    assert!(told.starts_with("repair: cannot help: header: invalid checksum\n"), "{told}");
}

#[test]
fn a_table_of_a_million_blocks_is_no_matter_of_minutes() {
    const BLOCKS: u32 = 1_000_000;
    let place = Place::new();
    place.make("create -n a.vhd -s 2000000");
    let footer = place.read("a.vhd")[..512].to_vec();
    // Room for all blocks, which costs nothing in a file with holes; the last one comes first.
    let first = 8 * 1100 + 7;
    let entry = |block: u32| first + (BLOCKS - 1 - block) * 4104;
    let table: Vec<u8> = (0..BLOCKS).flat_map(|block| entry(block).to_be_bytes()).collect();
    place.patch("a.vhd", 1536, &table);
    let end = u64::from(entry(0) + 4097) * 512;
    let file = fs::OpenOptions::new().write(true).open(place.path("a.vhd")).unwrap();
    if file.set_len(end + 512).is_err() {
        test_support::skip("check::a_table_of_a_million_blocks", "files of 2 TiB are not for this file system");
        return;
    }
    file.write_all_at(&footer, end).unwrap();
    assert_eq!(place.ask("check -n a.vhd"), "a.vhd is valid\n");
    place.patch("a.vhd", 1536 + 4 * 500_000, &(entry(499_999) + 1).to_be_bytes());
    let (status, words) = problem(&place, "check -n a.vhd");
    assert!(
        status == 22 && words.starts_with("block 500000 (offset 0x") && words.contains("clobbers block 499999 ("),
        "{words}"
    );
}
