//! What all guests of this host have in common: the budget of grants, and the memory of the domain that serves them.

use control_api::RunDir;
use serde_json::{Value, json};
use xen::budget::BudgetAccount;

use super::{size, xen_memory::XenMemory};

/// What all guests of this host have in common.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Common {
    /// None on a host without Xen.
    pub(super) memory: Option<XenMemory>,
    /// None if no guest was ever served here, or nobody may look.
    pub(super) budget: Option<BudgetAccount>,
}

impl Common {
    /// As it is now.
    pub(super) fn read(run: &RunDir) -> Common {
        Common { memory: XenMemory::read(), budget: budget(run) }
    }

    /// In words for people, a line for each.
    pub(super) fn words(&self) -> String {
        let budget = self.budget.as_ref().map(|budget| describe(budget) + "\n").unwrap_or_default();
        let Some(XenMemory { current, target, .. }) = self.memory else { return budget };
        let target = target.map(|target| format!(", and shall have {}", size::describe(target))).unwrap_or_default();
        budget + &format!("this domain has {}{target}\n", size::describe(current))
    }

    /// The memory as programs get it.
    pub(super) fn memory_json(&self) -> Value {
        let bytes = |memory: XenMemory| memory.parts().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect();
        self.memory.map_or(Value::Null, |memory| Value::Object(bytes(memory)))
    }

    /// The budget as programs get it.
    pub(super) fn budget_json(&self) -> Value {
        let told = |budget: BudgetAccount| {
            let BudgetAccount { limits, copied, mapped, shares, waiting, waits, waited } = budget;
            let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
            json!({ "copies_limit": limits.copies, "copied": copied, "mapped_limit": limits.mapped, "mapped": mapped,
                    "disks": shares, "waiting": waiting, "waits": waits, "waited_us": waited_us })
        };
        self.budget.map_or(Value::Null, told)
    }
}

/// The budget of grants as it is now.
pub(super) fn budget(run: &RunDir) -> Option<BudgetAccount> {
    BudgetAccount::read(&run.grant_budget()).ok().flatten()
}

/// `grant budget: 0 of 65536 pages copied, 4 of 65536 mapped, 2 disks, 0 waiting, 3 waits so far (1.02 ms)`.
pub(super) fn describe(budget: &BudgetAccount) -> String {
    let BudgetAccount { limits, copied, mapped, shares, waiting, waits, waited } = budget;
    let waited = size::describe_microseconds(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
    let (disks, waits) = (size::count(*shares as u64, "disk"), size::count(*waits, "wait"));
    format!(
        "grant budget: {copied} of {} pages copied, {mapped} of {} mapped, {disks}, {waiting} waiting, \
         {waits} so far ({waited})",
        limits.copies, limits.mapped
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::time::Duration;
    use xen::budget::{Budget, Limits, MapPurpose};

    pub(in super::super) fn account() -> BudgetAccount {
        let waited = Duration::from_micros(1020);
        let limits = Limits { copies: 300, mapped: 400 };
        BudgetAccount { limits, copied: 264, mapped: 4, shares: 2, waiting: 1, waits: 3, waited }
    }

    #[test]
    fn the_budget_is_told_to_people_and_to_programs() {
        let common = Common { memory: None, budget: Some(account()) };
        assert_eq!(
            common.words(),
            "grant budget: 264 of 300 pages copied, 4 of 400 mapped, 2 disks, 1 waiting, 3 waits so far (1.02 ms)\n"
        );
        let expected = json!({ "copies_limit": 300, "copied": 264, "mapped_limit": 400, "mapped": 4, "disks": 2,
                               "waiting": 1, "waits": 3, "waited_us": 1020 });
        assert_eq!(common.budget_json(), expected);
        assert_eq!((Common::default().words().as_str(), Common::default().budget_json()), ("", Value::Null));
    }

    #[test]
    fn the_budget_is_that_of_the_run_directory() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        assert_eq!(budget(&run), None);
        let opened = Budget::open(&run.grant_budget(), Some(Limits::new(300).unwrap())).unwrap();
        let share = opened.share().unwrap();
        let _ring = share.map(16, MapPurpose::Ring).unwrap();
        let seen = budget(&run).unwrap();
        assert_eq!((seen.limits.mapped, seen.mapped, seen.shares, seen.waits), (300, 16, 1, 0));
    }

    #[test]
    fn the_memory_of_the_domain_is_told_as_xen_does() {
        let place = tempfile::tempdir().unwrap();
        let common = || Common { memory: XenMemory::read_in(place.path()), budget: None };
        assert_eq!((common().words().as_str(), common().memory_json()), ("", Value::Null));
        std::fs::create_dir(place.path().join("info")).unwrap();
        std::fs::write(place.path().join("info/current_kb"), "2048\n").unwrap();
        assert_eq!(common().words(), "this domain has 2 MiB\n");
        std::fs::write(place.path().join("target_kb"), "4096\n").unwrap();
        assert_eq!(common().words(), "this domain has 2 MiB, and shall have 4 MiB\n");
        assert_eq!(common().memory_json(), json!({ "current": 2 << 20, "target": 4 << 20 }));
    }
}
