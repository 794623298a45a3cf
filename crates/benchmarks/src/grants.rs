//! What it costs to reach the pages of one request: copied, mapped and given back, and copied by way of pages that stay
//! mapped. On a host without Xen: no hypercall is in it, but page tables are.

use std::time::Duration;

use block_core::{Error, ErrorKind, Result};
use xen::{
    Access, CopyStatus, DomainId, GrantCopy, GrantRef, Grants, Local, Mapping, PAGE_BYTES,
    hosted::{EndAccess, Guest, HostedGrants},
};

use crate::{Effort, figures::Report, frontends::HOST, hosted::Host, usage::own_cpu};

/// How often, before the time is looked at.
const AT_ONCE: u32 = 64;

/// The pages of one request.
struct Pages {
    guest: Guest,
    grants: HostedGrants,
    domain: DomainId,
    numbers: Vec<u32>,
    references: Vec<GrantRef>,
    buffer: Vec<u8>,
}

/// Measures all ways, for requests of 4 and of 128 KiB.
pub(crate) fn measure(effort: &Effort, host: &Host, report: &mut Report) -> Result<()> {
    // There is little that could disturb it.
    let time = effort.duration / 10;
    for (name, count) in [("4 KiB", 1), ("128 KiB", 32)] {
        let mut pages = Pages::new(host, count)?;
        let mut add = |way: &str, cost: f64| report.add(format!("pages of {name}, {way}: CPU"), "us/request", cost);
        add("copied", cost(time, || pages.copy())?);
        add("mapped and given back", cost(time, || pages.map()?.unmap())?);
        add(
            "mapped, copied and given back",
            cost(time, || {
                let mapping = pages.map()?;
                mapping.copy_out(0, &mut pages.buffer);
                mapping.unmap()
            })?,
        );
        let kept = pages.map()?;
        let copy_kept = || {
            kept.copy_out(0, &mut pages.buffer);
            Ok(())
        };
        add("copied, and always mapped", cost(time, copy_kept)?);
        kept.unmap()?;
        pages.release()?;
    }
    Ok(())
}

/// Microseconds of CPU time of each of many.
fn cost(time: Duration, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let began = own_cpu();
    let mut count = 0;
    loop {
        for _ in 0..AT_ONCE {
            once()?;
        }
        count += AT_ONCE;
        let used = own_cpu() - began;
        if used >= time {
            return Ok(used.as_secs_f64() * 1e6 / f64::from(count));
        }
    }
}

impl Pages {
    fn new(host: &Host, count: usize) -> Result<Pages> {
        let (guest, grants) = (host.guest.clone(), host.grants()?);
        let numbers = (0..count).map(|_| guest.allocate_page()).collect::<Result<Vec<_>>>()?;
        let granted = numbers.iter().map(|page| guest.grant(*page, HOST, Access::Write));
        let references = granted.collect::<Result<Vec<_>>>()?;
        let domain = guest.domain();
        Ok(Pages { guest, grants, domain, numbers, references, buffer: vec![0; count * PAGE_BYTES] })
    }

    /// From the guest, in one call.
    fn copy(&mut self) -> Result<()> {
        let parts = self.references.iter().zip(self.buffer.chunks_mut(PAGE_BYTES));
        let copies = parts.map(|(grant, bytes)| GrantCopy::new(self.domain, *grant, 0, Local::To(bytes)));
        let mut batch: Vec<_> = copies.collect();
        self.grants.copy(&mut batch)?;
        let is_whole = batch.iter().all(|copy| copy.status == CopyStatus::Okay);
        is_whole.then_some(()).ok_or_else(|| Error::new(ErrorKind::Invalid, "a page was not copied"))
    }

    fn map(&self) -> Result<Mapping> {
        self.grants.map(self.domain, &self.references, Access::Write)
    }

    fn release(self) -> Result<()> {
        for (page, grant) in self.numbers.iter().zip(&self.references) {
            match self.guest.end_access(*grant)? {
                EndAccess::Ended => self.guest.free_page(*page),
                EndAccess::InUse => return Err(Error::new(ErrorKind::Invalid, "a page is still in use")),
            }
        }
        Ok(())
    }
}
