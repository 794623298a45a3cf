//! `oxtap lease`: who holds the lease of an image, and how it is broken.

use std::thread;

use block_core::Result;
use serde_json::{Value, json};
use storage_io::{LEASE_BREAK_PAUSE, LeaseRecord};

use super::{arguments::Lease, text};

pub(super) fn run(arguments: &Lease) -> Result<()> {
    let records = LeaseRecord::all_of(&arguments.image)?;
    if arguments.json {
        return text::print_json(&records.iter().map(to_json).collect::<Vec<_>>());
    }
    if records.is_empty() {
        return text::print(&format!("{}: nobody has a lease\n", arguments.image.display()));
    }
    for record in &records {
        let fate = if arguments.force {
            record.remove()?;
            ": broken"
        } else {
            ""
        };
        text::print(&format!("{}: {}{fate}\n", record.path.display(), describe(record)))?;
    }
    if arguments.force && records.iter().any(|record| !record.is_dead) {
        // By now whoever had it may write without having looked.
        thread::sleep(LEASE_BREAK_PAUSE);
    }
    Ok(())
}

fn describe(record: &LeaseRecord) -> String {
    let end = if record.is_dead { ", which is no more" } else { "" };
    record.holder.as_ref().map_or_else(|| format!("nobody is named{end}"), |holder| format!("{holder}{end}"))
}

fn to_json(record: &LeaseRecord) -> Value {
    let holder = record.holder.as_ref();
    json!({
        "record": record.path,
        "host": holder.map(|holder| &holder.host),
        "process": holder.map(|holder| holder.process),
        "is_dead": record.is_dead,
    })
}
