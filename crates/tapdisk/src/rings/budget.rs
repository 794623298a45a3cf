//! The host's budget of grants, as this process takes part in it.

use std::{cell::OnceCell, ffi::OsString, path::PathBuf, sync::Arc};

use block_core::{Result, ResultExt};
use xen::{
    Grants,
    budget::{Budget, BudgetedGrants, Limits},
};

/// Says how many pages of guests the processes of this host use together: a number, or `off`.
pub(crate) const BUDGET_VARIABLE: &str = "OXTAP_GRANT_BUDGET";

/// What was said of the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BudgetChoice {
    /// Nothing: what holds already on this host, or what is usual.
    #[default]
    Usual,
    /// So many, from now on, for all.
    Pages(Limits),
    /// This process takes what it needs.
    Off,
}

impl BudgetChoice {
    /// A number of pages, or `off`.
    pub(crate) fn parse(value: OsString) -> Option<BudgetChoice> {
        match value.to_str()? {
            "off" => Some(BudgetChoice::Off),
            pages => Limits::new(pages.parse().ok()?).ok().map(BudgetChoice::Pages),
        }
    }
}

/// The budget of this host; opened when the first guest comes.
#[derive(Debug)]
pub(crate) struct HostBudget {
    choice: BudgetChoice,
    path: PathBuf,
    opened: OnceCell<Budget>,
}

impl HostBudget {
    /// The budget in this file.
    pub(crate) fn new(choice: BudgetChoice, path: PathBuf) -> HostBudget {
        HostBudget { choice, path, opened: OnceCell::new() }
    }

    /// The pages of guests, as one device may use them.
    pub(super) fn limit(&self, grants: &Arc<dyn Grants>) -> Result<Arc<dyn Grants>> {
        let limits = match self.choice {
            BudgetChoice::Off => return Ok(grants.clone()),
            BudgetChoice::Pages(limits) => Some(limits),
            BudgetChoice::Usual => None,
        };
        let budget = match self.opened.get() {
            Some(budget) => budget,
            None => {
                let opened = Budget::open(&self.path, limits).context("the grant budget")?;
                self.opened.get_or_init(|| opened)
            }
        };
        Ok(Arc::new(BudgetedGrants::new(grants.clone(), budget.share()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_by_their_words() {
        let parse = |text: &str| BudgetChoice::parse(text.into());
        assert_eq!(parse("off").unwrap(), BudgetChoice::Off);
        assert_eq!(parse("264").unwrap(), BudgetChoice::Pages(Limits { copies: 264, mapped: 264 }));
        for wrong in ["", "on", "0", "263", "-1", "1048576", "4096 pages"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
