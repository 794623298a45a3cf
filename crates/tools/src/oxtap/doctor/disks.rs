//! Disks that hotplug scripts have made, whose devices have gone: a toolstack that removes a device by force runs no script.

use block_core::{Error, Result};
use control_api::RunDir;
use serde_json::{Value, json};
use storage_io::Executor;
use tapback::owners::{Ended, Ownerless, end_disk, ownerless};
use xen::store::Store;

use super::super::xenstore::own_domain;

/// A disk that nobody looks after, and what has become of it if it was to be ended.
#[derive(Debug)]
pub(super) struct Leftover {
    disk: Ownerless,
    end: Option<Result<Ended>>,
}

/// Finds them.
pub(super) async fn find(executor: &Executor, store: &Store, run: &RunDir) -> Result<Vec<Ownerless>> {
    ownerless(executor, store, own_domain(store).await?, run).await
}

/// Ends those that were found, if that is wanted.
pub(super) async fn examine(executor: &Executor, run: &RunDir, found: Vec<Ownerless>, repair: bool) -> Vec<Leftover> {
    let mut leftovers = Vec::new();
    for disk in found {
        let end = match repair {
            true => Some(end_disk(executor, run, disk.minor, &|_| {}).await),
            false => None,
        };
        leftovers.push(Leftover { disk, end });
    }
    leftovers
}

impl Leftover {
    /// Nothing is left to repair. One that serves a guest is not nobody's.
    pub(super) fn is_well(&self) -> bool {
        matches!(self.end, Some(Ok(_)))
    }

    pub(super) fn to_text(&self) -> String {
        let Ownerless { minor, device } = &self.disk;
        let end = match &self.end {
            None => "; oxtap doctor --repair ends it".to_owned(),
            Some(Ok(Ended::Freed)) => ": ended".to_owned(),
            Some(Ok(Ended::InUse)) => ": spared, it serves a guest".to_owned(),
            Some(Err(error)) => format!(": not ended: {error}"),
        };
        format!("minor {minor}: its device {device} has gone, and its script has not ended it{end}\n")
    }

    pub(super) fn to_json(&self) -> Value {
        let (fate, error) = match &self.end {
            None => (None, None),
            Some(Ok(Ended::Freed)) => (Some("removed"), None),
            Some(Ok(Ended::InUse)) => (Some("in-use"), None),
            Some(Err(error)) => (Some("failed"), Some(Error::to_string(error))),
        };
        json!({ "minor": self.disk.minor.number(), "device": self.disk.device.to_string(), "fate": fate, "error": error })
    }
}

#[cfg(test)]
mod tests {
    use control_api::Minor;
    use tapback::DeviceName;
    use xen::DomainId;

    use super::*;

    #[test]
    fn what_became_of_a_disk_is_told() {
        let disk =
            Ownerless { minor: Minor::new(4).unwrap(), device: DeviceName::new(&"vbd3".into(), DomainId(7), 51712) };
        let busy = || Err(Error::from_os("free", rustix::io::Errno::BUSY.into()));
        let ends = [None, Some(Ok(Ended::Freed)), Some(Ok(Ended::InUse)), Some(busy())];
        let told = ends.map(|end| {
            let leftover = Leftover { disk: disk.clone(), end };
            assert!(leftover.to_text().starts_with("minor 4: its device vbd3/7/51712 has gone"));
            (leftover.is_well(), leftover.to_json()["fate"].clone())
        });
        let expected =
            [(false, Value::Null), (true, "removed".into()), (true, "in-use".into()), (false, "failed".into())];
        assert_eq!(told, expected);
    }
}
