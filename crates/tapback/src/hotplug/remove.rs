//! A device goes: so does its disk, if it is nobody else's.

use block_core::Result;
use control_api::native::{Command, ResultOf};

use super::Script;
use crate::Disk;

impl Script {
    /// Ends what scripts have made for the device. What was done before is as good.
    pub(super) async fn remove(&self) -> Result<()> {
        // First it is none of those who name the disk, then it looks for others: so the last of several that go at the
        // same time finds nobody.
        let had = self.unclaim().await?;
        // Markers first: a disk that is there when they are known is the one that they are of.
        let owned = self.owned().await?;
        let had = match had {
            Some(disk) => self.holds(disk).await.then_some(disk),
            None => None,
        };
        for (marker, owner) in owned {
            let pid = had.filter(|disk| disk.minor == marker.minor().number()).map(|disk| disk.pid);
            let is_its = owner == self.device || pid.is_some();
            if is_its && self.other_users(marker.minor().number(), pid).await?.is_empty() {
                self.end(marker).await?;
            }
        }
        Ok(())
    }

    /// Whether a process has a disk.
    async fn holds(&self, disk: Disk) -> bool {
        match self.tapdisks.ask(disk.pid, Command::List {}).await {
            Ok(Some(ResultOf::List(list))) => list.disks.iter().any(|held| held.minor == disk.minor),
            _ => false,
        }
    }
}
