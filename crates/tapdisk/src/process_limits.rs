//! What the process asks of the system for itself. All of it is best effort: a daemon that may not have it serves all
//! the same.

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Raises what may be raised, and locks memory if all of it may be locked; gives what was refused, in words.
pub(crate) fn raise() -> Vec<String> {
    let mut refused = Vec::new();
    for resource in [Resource::Nofile, Resource::Core] {
        let maximum = getrlimit(resource).maximum;
        let limit = Rlimit { current: maximum, maximum };
        refused.extend(setrlimit(resource, limit).err().map(|error| format!("limit of {resource:?}: {error}")));
    }
    refused.extend(lock_memory().err().map(|error| format!("memory is not locked: {error}")));
    refused
}

/// Memory is locked only without a limit: under one, the first allocation beyond it would fail. Pages are locked when
/// they are first used, so that stacks and buffers that are never used cost nothing.
fn lock_memory() -> rustix::io::Result<()> {
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })?;
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
}
