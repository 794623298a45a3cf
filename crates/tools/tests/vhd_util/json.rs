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
        json!({"image": "a.vhd", "valid": true, "messages": ["a.vhd is valid"]})
    );
    place.write("b.vhd", &[7; 4096]);
    let ended = place.run("check -n b.vhd --json");
    let said = parsed(&ended);
    assert_eq!((ended.status, &said["error"]["errno"]), (22, &json!(22)));
    assert_eq!((&said["valid"], said["messages"].as_array().unwrap().is_empty()), (&json!(false), false));
}
