//! What all devices of a backend share.

use std::rc::Rc;

use storage_io::Executor;
use xen::{DomainId, store::Store};

use crate::{DeviceName, Offer, OnDeath, Opener, Worker};

/// What all devices of a backend share.
#[derive(Clone)]
pub struct Host {
    /// The one that all of it runs on.
    pub executor: Executor,
    /// XenStore.
    pub store: Store,
    /// The domain that this is.
    pub domain: DomainId,
    /// Who serves rings.
    pub worker: Rc<dyn Worker>,
    /// Who knows which disk is meant.
    pub opener: Rc<dyn Opener>,
    /// Who is told what people may want to know.
    pub log: Rc<dyn Log>,
    /// What guests are offered.
    pub offer: Offer,
    /// What is done when a tapdisk has gone.
    pub on_death: OnDeath,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host(domain {}, {:?})", self.domain, self.offer)
    }
}

/// Where lines of a log go.
pub trait Log {
    /// Takes one. It must not wait.
    fn note(&self, device: &DeviceName, words: &str);

    /// Takes one about all devices of a kind. It must not wait.
    fn note_all(&self, kind: &str, words: &str);
}

/// Nobody wants to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Log for Silent {
    fn note(&self, _: &DeviceName, _: &str) {}

    fn note_all(&self, _: &str, _: &str) {}
}
