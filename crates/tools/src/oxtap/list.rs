//! `oxtap ls`: every disk of this host, and the devices of guests that have it. Asks each tapdisk, and XenStore; one that
//! does not answer in time is listed as such.

use std::collections::BTreeSet;

use block_core::Result;
use control_api::{
    Minor, Opened, Owner, RunDir,
    native::{DiskStatistics, Limits, RingPages, RingStatistics},
};
use serde_json::{Value, json};
use tapback::survey::Shown;

use super::{
    arguments::Ls,
    common::Common,
    doctor::things::{device_json, device_words},
    host::{self, Process},
    size, text, words, xenstore,
};

/// One line of the list.
#[derive(Debug, Default)]
struct Row {
    pid: Option<u32>,
    minor: Option<u16>,
    state: &'static str,
    bytes: Option<u64>,
    image: Option<String>,
    socket: Option<String>,
    in_flight: Option<u64>,
    waiting: Option<u64>,
    limits: Option<Limits>,
    /// None: its tapdisk does not say.
    guest_pages: Option<RingPages>,
    guests: Vec<RingStatistics>,
    step: Option<String>,
    trouble: Option<String>,
    /// Who looks after it.
    owner: Owner,
    /// Guests' devices that have it, as XenStore shows them.
    devices: Vec<Shown>,
}

pub(super) fn run(arguments: &Ls) -> Result<()> {
    let run = RunDir::from_environment();
    // Devices first: the disk of one that is found is there, or was.
    let devices = xenstore::devices_here(&arguments.kinds);
    let (devices, unknown) = match devices {
        Ok(devices) => (devices, String::new()),
        Err(error) => (Vec::new(), format!("devices of guests are not known: {error}\n")),
    };
    let (mut rows, common) = (rows(&run)?, Common::read(&run));
    join(&mut rows, devices);
    let text = if arguments.json { to_json(&rows, &common) } else { to_table(&rows) + &unknown + &common.words() };
    text::print(&text)
}

/// Puts each device to the disk that it has: by its ring, by what its nodes name, by its image. One without a disk has a
/// line of its own.
fn join(rows: &mut Vec<Row>, devices: Vec<Shown>) {
    for shown in devices {
        let has_ring = |row: &Row| {
            let is_its =
                |guest: &RingStatistics| (guest.domain, guest.device) == (shown.device.domain.0, shown.device.device);
            row.guests.iter().any(is_its)
        };
        let is_named =
            |row: &Row| shown.disk.is_some_and(|disk| (row.pid, row.minor) == (Some(disk.pid), Some(disk.minor)));
        let is_image = |row: &Row| shown.disk.is_none() && row.image.is_some() && row.image == shown.params;
        let place = rows.iter().position(has_ring).or_else(|| rows.iter().position(is_named));
        match place.or_else(|| rows.iter().position(is_image)) {
            Some(place) => rows[place].devices.push(shown),
            None => {
                let (image, trouble) = (shown.params.clone(), shown.error.clone());
                rows.push(Row { state: "no disk", image, trouble, devices: vec![shown], ..Row::default() });
            }
        }
    }
}

fn rows(run: &RunDir) -> Result<Vec<Row>> {
    // Markers first: what is attached in between is then found at its tapdisk, and not taken for unattached.
    let mut unattached: BTreeSet<u16> = run.minors()?.into_iter().map(Minor::number).collect();
    let mut rows: Vec<Row> = host::processes(run)?.iter().flat_map(rows_of).collect();
    for minor in rows.iter().filter_map(|row| row.minor) {
        unattached.remove(&minor);
    }
    rows.extend(unattached.into_iter().filter_map(Minor::new).map(|minor| unattached_row(run, minor)));
    for row in &mut rows {
        let record = row.minor.and_then(Minor::new).map(|minor| run.minor_record(minor));
        row.owner = record.unwrap_or_default().owner;
    }
    Ok(rows)
}

/// A minor that no tapdisk has: not yet, not any more, or since its tapdisk has gone without a word.
fn unattached_row(run: &RunDir, minor: Minor) -> Row {
    let row = Row { minor: Some(minor.number()), state: "unattached", ..Row::default() };
    match run.minor_record(minor).opened {
        Some(Opened { pid, image, .. }) => {
            let trouble = Some(format!("tapdisk {pid} has gone"));
            Row { pid: Some(pid), state: "lost", image: Some(image), trouble, ..row }
        }
        None => row,
    }
}

/// The disks of one tapdisk; silence, and having none, is worth a line.
fn rows_of(process: &Process) -> Vec<Row> {
    let alone = |state| vec![Row { pid: Some(process.pid), state, ..Row::default() }];
    match process.disks() {
        [] if process.is_silent() => alone("silent"),
        [] => alone("idle"),
        disks => disks.iter().map(|statistics| row(process, statistics)).collect(),
    }
}

fn row(process: &Process, statistics: &DiskStatistics) -> Row {
    let disk = &statistics.disk;
    Row {
        pid: Some(process.pid),
        minor: Some(disk.minor),
        state: words::state(disk.state),
        bytes: disk.geometry.map(|geometry| geometry.bytes),
        image: disk.image.clone(),
        socket: disk.nbd.clone(),
        in_flight: Some(disk.in_flight),
        waiting: process.is_native.then_some(disk.waiting),
        limits: process.is_native.then_some(statistics.limits),
        guest_pages: process.is_native.then_some(disk.ring_pages),
        guests: disk.rings.clone(),
        step: disk.step.clone(),
        trouble: disk.trouble.clone(),
        ..Row::default()
    }
}

fn to_table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no disks\n".to_owned();
    }
    let head = ["PID", "MINOR", "STATE", "SIZE", "BUSY", "PAGES", "LIMITS", "IMAGE"].map(str::to_owned);
    let table = text::columns(&std::iter::once(head).chain(rows.iter().map(cells)).collect::<Vec<_>>());
    let mut lines = table.lines();
    let mut told = lines.next().map(|head| format!("{head}\n")).unwrap_or_default();
    for (line, row) in lines.zip(rows) {
        told += &format!("{line}\n");
        row.devices.iter().for_each(|shown| told += &format!("     {}\n", device_words(shown)));
        row.guests.iter().for_each(|guest| told += &format!("     guest {}\n", words::guest(guest)));
        let owner = (row.owner != Owner::Storage).then(|| row.owner.to_string());
        let remarks = [("owner", &owner), ("doing", &row.step), ("trouble", &row.trouble)];
        for (what, words) in remarks.into_iter().filter_map(|(what, words)| Some((what, words.as_ref()?))) {
            told += &format!("     {what}: {words}\n");
        }
    }
    told
}

fn cells(row: &Row) -> [String; 8] {
    let or_dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
    let waiting = row.waiting.filter(|waiting| *waiting > 0).map(|waiting| format!("+{waiting}")).unwrap_or_default();
    [
        or_dash(row.pid.map(|pid| pid.to_string())),
        or_dash(row.minor.map(|minor| minor.to_string())),
        row.state.to_owned(),
        or_dash(row.bytes.map(size::describe)),
        or_dash(row.in_flight.map(|count| format!("{count}{waiting}"))),
        or_dash(row.guest_pages.as_ref().map(words::pages_short)),
        or_dash(row.limits.as_ref().and_then(words::limits)),
        or_dash(row.image.clone()),
    ]
}

/// What all guests have in common stands with each disk: it is the same for all.
fn to_json(rows: &[Row], common: &Common) -> String {
    let (memory, budget) = (common.memory_json(), common.budget_json());
    let list: Vec<Value> = rows
        .iter()
        .map(|row| {
            let devices: Vec<Value> = row.devices.iter().map(device_json).collect();
            json!({ "pid": row.pid, "minor": row.minor, "state": row.state, "bytes": row.bytes, "image": row.image,
                    "nbd_socket": row.socket, "in_flight": row.in_flight, "waiting": row.waiting,
                    "limits": row.limits, "guest_pages": row.guest_pages, "guests": row.guests,
                    "domain_memory": memory, "grant_budget": budget, "owner": row.owner, "step": row.step,
                    "trouble": row.trouble, "devices": devices })
        })
        .collect();
    format!("{:#}\n", Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{common::tests::account, host::tests::process},
        *,
    };
    use control_api::native::{Handover, Limit, Rate, RingQueueStatistics, State};

    #[test]
    fn a_host_without_disks_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let rows = rows(&RunDir::at(directory.path())).unwrap();
        assert_eq!((to_table(&rows).as_str(), to_json(&rows, &Common::default()).as_str()), ("no disks\n", "[]\n"));
    }

    #[test]
    fn a_minor_without_a_tapdisk_is_listed() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        run.allocate_minor().unwrap();
        assert_eq!(
            to_table(&rows(&run).unwrap()),
            "PID  MINOR  STATE       SIZE  BUSY  PAGES  LIMITS  IMAGE\n-    0      unattached  -     -     -      -       -\n"
        );
    }

    #[test]
    fn a_disk_whose_tapdisk_has_gone_is_listed_with_it_and_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        let minor = run.allocate_minor_for("hotplug:/local/domain/0/backend/vbd3/7/51712").unwrap();
        let opened = Opened { pid: 70, image: "vhd:/a.vhd".into(), ..Opened::default() };
        run.change_minor_record(minor, |record| record.opened = Some(opened)).unwrap();
        let rows = rows(&run).unwrap();
        assert_eq!(
            to_table(&rows),
            "PID  MINOR  STATE  SIZE  BUSY  PAGES  LIMITS  IMAGE\n\
             70   0      lost   -     -     -      -       vhd:/a.vhd\n     \
             owner: hotplug:/local/domain/0/backend/vbd3/7/51712\n     trouble: tapdisk 70 has gone\n"
        );
        let json: Value = serde_json::from_str(&to_json(&rows, &Common::default())).unwrap();
        assert_eq!(json[0]["owner"], "hotplug:/local/domain/0/backend/vbd3/7/51712");
    }

    #[test]
    fn limits_and_trouble_are_told() {
        let mut process = process(70, &[(3, "vhd:/a.vhd")]);
        let statistics = &mut process.statistics.as_mut().unwrap().disks[0];
        statistics.disk.state = State::ResumeFailed;
        statistics.disk.trouble = Some("/a.vhd: No such file or directory".into());
        (statistics.disk.in_flight, statistics.disk.waiting) = (2, 1);
        statistics.limits.total = Limit { requests: Some(Rate { per_second: 500, burst: None }), bytes: None };
        let rows = rows_of(&process);
        assert_eq!(
            to_table(&rows),
            "PID  MINOR  STATE          SIZE  BUSY  PAGES    LIMITS    IMAGE\n\
             70   3      resume failed  -     2+1   0/0/0/0  500 IOPS  vhd:/a.vhd\n     \
             trouble: /a.vhd: No such file or directory\n"
        );
        let json: Value = serde_json::from_str(&to_json(&rows, &Common::default())).unwrap();
        assert_eq!(json[0]["limits"]["total"]["requests"]["per_second"], 500);
        assert_eq!(json[0]["trouble"], "/a.vhd: No such file or directory");
    }

    #[test]
    fn guests_are_told_with_their_pages() {
        let mut process = process(70, &[(3, "vhd:/a.vhd")]);
        let pages = RingPages { granted: 22, mapped: 4, peak: 9, leaked: 0 };
        let disk = &mut process.statistics.as_mut().unwrap().disks[0].disk;
        let mut guest = RingStatistics { domain: 7, device: 51712, pages, ..RingStatistics::default() };
        guest.queues.push(RingQueueStatistics::default());
        (guest.counters.requests, guest.broken) = (12, Some("nonsense".into()));
        (disk.rings, disk.ring_pages) = (vec![guest], RingPages { leaked: 1, ..pages });
        let rows = rows_of(&process);
        assert_eq!(
            to_table(&rows),
            "PID  MINOR  STATE    SIZE  BUSY  PAGES     LIMITS  IMAGE\n\
             70   3      running  -     0     22/4/9/1  -       vhd:/a.vhd\n     \
             guest 7-51712: 1 ring, 12 requests, pages: 22 granted, 4 mapped, 9 at most, 0 lost, broken: nonsense\n"
        );
        let json: Value = serde_json::from_str(&to_json(&rows, &Common::default())).unwrap();
        assert_eq!((&json[0]["guest_pages"]["peak"], &json[0]["guests"][0]["domain"]), (&json!(9), &json!(7)));
    }

    #[test]
    fn a_guest_that_has_come_in_the_place_of_another_is_told_with_the_blackout() {
        let mut process = process(70, &[(3, "vhd:/a.vhd")]);
        let mut told = |blackout_us| {
            let handover = Some(Handover { domain: 6, device: 51712, blackout_us });
            let guest = RingStatistics { domain: 7, device: 51712, handover, ..RingStatistics::default() };
            process.statistics.as_mut().unwrap().disks[0].disk.rings = vec![guest];
            to_table(&rows_of(&process))
        };
        assert!(told(Some(4100)).contains("0 lost, in the place of 6-51712: nobody was served for 4.10 ms\n"));
        assert!(told(None).contains("in the place of 6-51712: it has asked for nothing yet\n"));
    }

    #[test]
    fn what_all_guests_have_in_common_stands_with_each_disk() {
        let rows = rows_of(&process(70, &[(3, "vhd:/a.vhd")]));
        let json = |common| serde_json::from_str::<Value>(&to_json(&rows, common)).unwrap()[0].clone();
        let common = Common { budget: Some(account()), ..Common::default() };
        assert_eq!(json(&common)["grant_budget"]["waits"], 3);
        assert_eq!(
            (&json(&Common::default())["grant_budget"], &json(&common)["domain_memory"]),
            (&Value::Null, &Value::Null)
        );
    }

    #[test]
    fn accounts_of_nothing_are_accounts_and_what_is_not_known_is_none() {
        let mut process = process(70, &[(3, "vhd:/a.vhd")]);
        let json = |process: &Process| {
            let text = to_json(&rows_of(process), &Common::default());
            serde_json::from_str::<Value>(&text).unwrap()[0]["guest_pages"].clone()
        };
        assert_eq!(json(&process), json!({ "granted": 0, "mapped": 0, "peak": 0, "leaked": 0 }));
        process.is_native = false;
        assert_eq!(json(&process), Value::Null);
    }

    #[test]
    fn one_who_does_not_answer_and_one_without_disks_have_their_lines() {
        let silent = Process { pid: 72, is_native: true, statistics: None };
        assert_eq!(rows_of(&silent)[0].state, "silent");
        assert_eq!(rows_of(&process(73, &[]))[0].state, "idle");
    }
}
