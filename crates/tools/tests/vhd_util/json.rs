//! `--json`: the same facts as in lines, as one value.

use serde_json::{Value, json};

use super::place::{Ended, Place};

fn parsed(ended: &Ended) -> Value {
    assert_eq!(ended.stdout.matches("\n").count(), ended.stdout.lines().count());
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", ended.stdout))
}

#[test]
fn query_says_everything_or_what_is_asked() {
    let place = Place::new();
    place.make("create -n a.vhd -s 4 -S 8");
    place.make("set -n a.vhd -f hidden -v 1");
    place.make("snapshot -n b.vhd -p a.vhd -e");
    let all = parsed(&place.run("query -n b.vhd --json"));
    assert_eq!(all["image"], "b.vhd");
    assert_eq!((&all["virtual_bytes"], &all["largest_bytes"]), (&json!(4 << 20), &json!(4 << 20)));
    assert_eq!((&all["depth"], &all["allocated_blocks"]), (&json!(2), &json!(0)));
    assert_eq!((&all["hidden"], &all["marker"]), (&json!(0), &json!(0)));
    assert_eq!(all["parent"], place.ask("query -n b.vhd -p").trim_end());
    assert_eq!(all["physical_bytes"].to_string(), place.ask("query -n b.vhd -s").trim_end());
    assert_eq!(all.get("errors"), None);
    let asked = parsed(&place.run("query -n a.vhd -vfp --json"));
    assert_eq!(asked, json!({"image": "a.vhd", "virtual_bytes": 4 << 20, "hidden": 1, "parent": null}));
    let stored = parsed(&place.run("query -n b.vhd --json -pu"));
    assert!(stored["parent"].as_str().unwrap().ends_with("a.vhd"));
}

#[test]
fn what_cannot_be_said_is_null_and_has_its_reason() {
    let place = Place::new();
    place.make("create -n a.vhd -s 4");
    place.make("snapshot -n b.vhd -p a.vhd -e");
    std::fs::remove_file(place.path("a.vhd")).unwrap();
    let ended = place.run("query -n b.vhd -vp --json");
    assert_eq!((ended.status, place.run("query -n b.vhd -vp").status), (2, 2));
    let said = parsed(&ended);
    assert_eq!((&said["virtual_bytes"], &said["parent"]), (&json!(4 << 20), &Value::Null));
    assert_eq!((&said["errors"]["parent"]["errno"], &said["errors"]["parent"]["name"]), (&json!(2), &json!("ENOENT")));
    let ended = place.run("query -n c.vhd -v --json");
    assert_eq!((ended.status, &parsed(&ended)["error"]["name"]), (2, &json!("ENOENT")));
}

#[test]
fn a_fixed_image_has_no_blocks_and_that_is_no_failure() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2 -r");
    let all = parsed(&place.run("query -n a.vhd --json"));
    assert_eq!((all.get("allocated_blocks"), all.get("errors")), (None, None));
    let ended = place.run("query -n a.vhd -a --json");
    assert_eq!((ended.status, &parsed(&ended)["errors"]["allocated_blocks"]["errno"]), (22, &json!(22)));
}

#[test]
fn scan_is_an_array_also_of_what_cannot_be_read() {
    let place = Place::new();
    place.make("create -n a.vhd -s 4");
    place.make("snapshot -n b.vhd -p a.vhd -e");
    place.write("c.vhd", b"no image");
    let ended = place.run("scan -c --json -m *.vhd");
    assert_eq!(ended.status, 0);
    let said = parsed(&ended);
    let images: Vec<&str> = said.as_array().unwrap().iter().map(|entry| entry["image"].as_str().unwrap()).collect();
    assert!(images.iter().zip(["a.vhd", "b.vhd", "c.vhd"]).all(|(image, name)| image.ends_with(name)), "{images:?}");
    assert_eq!((&said[0]["parent"], &said[0]["capacity_bytes"]), (&Value::Null, &json!(4 << 20)));
    assert!(said[1]["parent"].as_str().unwrap().ends_with("a.vhd"));
    assert_eq!((&said[2]["error"]["errno"], said[2].get("hidden")), (&json!(22), None));
    let marked = parsed(&place.run("scan -M --json a.vhd"));
    assert_eq!(marked[0]["marker"], 0);
    assert_eq!(parsed(&place.run("scan -p --json a.vhd b.vhd")).as_array().unwrap().len(), 2);
}

#[test]
fn check_says_whether_an_image_is_valid_and_why_not() {
    let place = Place::new();
    place.make("create -n a.vhd -s 4");
    assert_eq!(
        parsed(&place.run("check -n a.vhd --json")),
        json!({"image": "a.vhd", "valid": true, "messages": ["a.vhd is valid"], "problems": []})
    );
    place.write("b.vhd", &[7; 4096]);
    let ended = place.run("check -n b.vhd --json");
    let said = parsed(&ended);
    assert_eq!((ended.status, &said["error"]["errno"]), (22, &json!(22)));
    assert_eq!((&said["valid"], said["messages"].as_array().unwrap().is_empty()), (&json!(false), false));
}

#[test]
fn check_tells_what_is_wrong_where_and_whether_repair_helps() {
    let place = Place::new();
    place.make("create -n a.vhd -s 4");
    place.make("snapshot -n b.vhd -p a.vhd -e");
    let problems = |line: &str| parsed(&place.run(line))["problems"].clone();
    let only = |problems: Value| {
        let [problem] = &problems.as_array().unwrap()[..] else { panic!("{problems}") };
        (problem["image"].clone(), problem["kind"].clone(), problem["repairable"].clone())
    };
    // The footer at the end, which repair writes anew; the text is that of the lines.
    let end = place.read("a.vhd").len() as u64 - 512;
    place.patch("a.vhd", end, &[0; 8]);
    let said = parsed(&place.run("check -n a.vhd --json"));
    assert_eq!(only(said["problems"].clone()), (json!("a.vhd"), json!("primary_footer"), json!(true)));
    assert_eq!(said["problems"][0]["text"], said["messages"][0]);
    place.make("repair -n a.vhd");
    assert_eq!(problems("check -n a.vhd --json"), json!([]));
    // A map that nobody believes breaks nothing, and is told all the same.
    place.patch("a.vhd", 2048 + 512, &[0x80]);
    let said = parsed(&place.run("check -n a.vhd --json"));
    assert_eq!((said["valid"].clone(), only(said["problems"].clone()).1), (json!(true), json!("batmap")));
    // A block that lies on the headers is beyond repair.
    place.make("repair -n a.vhd");
    place.patch("a.vhd", 1536, &[0, 0, 0, 1]);
    let problem = only(problems("check -n a.vhd --json"));
    assert_eq!(problem, (json!("a.vhd"), json!("table"), json!(false)));
    // Nor is an image right when only the first of two problems is mended.
    place.make("create -n c.vhd -s 4");
    super::disks::give(&place, "c.vhd", &[(0, 2, 1)]);
    place.patch("c.vhd", 3584, &[0x80]);
    let end = place.read("c.vhd").len() as u64 - 512;
    place.patch("c.vhd", end, &[0; 8]);
    let problem = only(problems("check -n c.vhd -b --json"));
    assert_eq!(problem, (json!("c.vhd"), json!("primary_footer"), json!(false)));
    assert_eq!(only(problems("check -n c.vhd --json")).2, json!(true));
    // Through a chain each problem says whose it is; and what is not there is one, too.
    let (image, kind, _) = only(problems("check -n b.vhd -p --json"));
    assert!(image.as_str().unwrap().ends_with("/a.vhd") && kind == "table", "{image} {kind}");
    std::fs::remove_file(place.path("a.vhd")).unwrap();
    assert_eq!(only(problems("check -n b.vhd --json")), (json!("b.vhd"), json!("parent"), json!(false)));
    assert_eq!(only(problems("check -n a.vhd --json")), (json!("a.vhd"), json!("file"), json!(false)));
}

#[test]
fn read_tells_headers_and_places_as_values() {
    let place = Place::new();
    place.make("create -n a.vhd -s 8");
    super::disks::give(&place, "a.vhd", &[(0, 2, 1), (4096 + 8, 16, 2), (4096 + 100, 1, 3)]);
    let said = parsed(&place.run("read -n a.vhd -p -t 4095 -c 2 --json"));
    let footer = &said["headers"]["footer"];
    assert_eq!((&footer["cookie"], &footer["current_bytes"]), (&json!("conectix"), &json!(8 << 20)));
    assert_eq!((&footer["creator_version"], &footer["checksum_valid"]), (&json!("1.3"), &json!(true)));
    assert_eq!(said["headers"]["header"]["table_entries"], json!(4));
    assert_eq!((&said["headers"]["parent_locators"], &said["headers"]["batmap"]["key"]), (&json!([]), &Value::Null));
    let second = u64::from(u32::from_be_bytes(place.read("a.vhd")[1540..1544].try_into().unwrap())) * 512;
    assert_eq!(
        said["sectors"],
        json!([{"sector": 4095, "block": 0, "sector_in_block": 4095, "file_offset": 3584 + 2_097_152},
               {"sector": 4096, "block": 1, "sector_in_block": 0, "file_offset": second + 512}])
    );
    let said = parsed(&place.run("read -n a.vhd -b 1 -m 0 -i 4103 -c 2 -B -a -j 0 --json"));
    assert_eq!(said["blocks"], json!([{"block": 1, "file_offset": second}, {"block": 2, "file_offset": null}]));
    assert_eq!(said["allocated"], json!([{"first": 0, "count": 2}]));
    let run = |first: u64, count: u64| json!({"first": first, "count": count});
    let bitmaps = json!([{"block": 0, "present": [run(0, 2)]}, {"block": 1, "present": [run(8, 16), run(100, 1)]}]);
    assert_eq!(said["bitmaps"], bitmaps);
    assert_eq!(said["present"], json!([{"sector": 4103, "present": false}, {"sector": 4104, "present": true}]));
    assert_eq!(said["batmap"], json!([]));
    assert_eq!(said["in_batmap"], json!([{"block": 0, "full": false}, {"block": 1, "full": false}]));
    let said = parsed(&place.run("read -n a.vhd -e 0 -c 16384 --json"));
    assert_eq!(said, json!({"image": "a.vhd", "extents": [run(0, 2), run(4104, 16), run(4196, 1)]}));
}

#[test]
fn what_read_cannot_tell_is_an_error_beside_what_it_can() {
    let place = Place::new();
    place.make("create -n a.vhd -s 4");
    let ended = place.run("read -n a.vhd -p -b 7 --json");
    let said = parsed(&ended);
    assert_eq!((ended.status, &said["error"]["name"], said.get("blocks")), (34, &json!("ERANGE"), None));
    assert_eq!(said["headers"]["footer"]["hidden"], json!(0));
    // Bytes of the disk are no value.
    assert_eq!(place.run("read -n a.vhd -r 0 --json").status, 22);
    place.write("b.vhd", &[7; 4096]);
    let ended = place.run("read -n b.vhd -p --json");
    let said = parsed(&ended);
    assert_eq!((ended.status, &said["error"]["errno"]), (22, &json!(22)));
    assert_eq!(said["headers"]["footer"]["checksum_valid"], json!(false));
    assert_eq!(parsed(&place.run("read -n c.vhd -p --json"))["error"]["name"], json!("ENOENT"));
}
