//! The pages of guests, within the share of one disk.

use std::sync::Arc;

use block_core::Result;

use super::{MapPurpose, Permit, Share};
use crate::{Access, DomainId, GrantCopy, GrantRef, Grants, Mapping};

/// The pages of guests as one disk may use them: what is mapped is taken from its share of the budget, as long as it is.
/// Who copies takes from the [`share`](Grants::share) before, and waits if need be.
#[derive(Debug)]
pub struct BudgetedGrants {
    grants: Arc<dyn Grants>,
    share: Share,
}

impl BudgetedGrants {
    /// These pages, for the disk with this share.
    pub fn new(grants: Arc<dyn Grants>, share: Share) -> BudgetedGrants {
        BudgetedGrants { grants, share }
    }

    fn permit(&self, grants: &[GrantRef], purpose: MapPurpose) -> Result<Permit> {
        self.share.map(u32::try_from(grants.len()).unwrap_or(u32::MAX), purpose)
    }
}

impl Grants for BudgetedGrants {
    fn copy(&self, batch: &mut [GrantCopy<'_>]) -> Result<()> {
        self.grants.copy(batch)
    }

    fn map(&self, domain: DomainId, grants: &[GrantRef], access: Access) -> Result<Mapping> {
        let permit = self.permit(grants, MapPurpose::Data)?;
        Ok(self.grants.map(domain, grants, access)?.with(permit))
    }

    fn map_ring(&self, domain: DomainId, grants: &[GrantRef]) -> Result<Mapping> {
        let permit = self.permit(grants, MapPurpose::Ring)?;
        Ok(self.grants.map_ring(domain, grants)?.with(permit))
    }

    fn share(&self) -> Option<&Share> {
        Some(&self.share)
    }
}
