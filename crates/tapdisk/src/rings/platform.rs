//! Where guests and their pages are.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use block_core::Result;
use xen::{
    DomainId, EventChannels, Grants,
    hosted::{HostedChannels, HostedGrants},
    linux::{LinuxChannels, LinuxGrants},
};

/// Says which platform there is: nothing for the devices of Xen, or `hosted:DIRECTORY`.
pub(crate) const PLATFORM_VARIABLE: &str = "OXTAP_XEN";
/// This process acts for the domain that it runs in: the first, as far as the hosted platform goes.
const OWN_DOMAIN: DomainId = DomainId(0);

/// Where guests and their pages are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Platform {
    /// The devices of a Linux domain.
    #[default]
    Xen,
    /// Processes of a host without Xen; the broker's socket is in this directory.
    Hosted(PathBuf),
}

impl Platform {
    /// `xen` or `hosted:DIRECTORY`.
    pub(crate) fn parse(value: OsString) -> Option<Platform> {
        match value.to_str()?.split_once(':') {
            Some(("hosted", directory)) if !directory.is_empty() => Some(Platform::Hosted(directory.into())),
            None if value == "xen" => Some(Platform::Xen),
            _ => None,
        }
    }

    /// Whether there is one.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn look(&self) -> Result<()> {
        self.grants().map(drop)
    }

    /// What all queues of a disk use.
    pub(super) fn grants(&self) -> Result<Arc<dyn Grants>> {
        Ok(match self {
            Platform::Xen => Arc::new(LinuxGrants::open()?),
            Platform::Hosted(directory) => Arc::new(HostedGrants::connect(directory, OWN_DOMAIN)?),
        })
    }

    /// What one queue uses, on its own thread.
    pub(super) fn channels(&self) -> Result<Box<dyn EventChannels>> {
        Ok(match self {
            Platform::Xen => Box::new(LinuxChannels::new()),
            Platform::Hosted(directory) => Box::new(HostedChannels::connect(directory, OWN_DOMAIN)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_by_their_names() {
        let parse = |text: &str| Platform::parse(text.into());
        assert_eq!(parse("xen").unwrap(), Platform::Xen);
        assert_eq!(parse("hosted:/run/x").unwrap(), Platform::Hosted("/run/x".into()));
        for wrong in ["", "hosted", "hosted:", "kvm", "x:y"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
