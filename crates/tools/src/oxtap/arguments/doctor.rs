//! What may be asked of the doctor.

use std::time::Duration;

use clap::Args;
use wire::xenstore::Path;

use super::super::size;

/// `oxtap doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "A hotplug script that writes after its device has gone makes the device's directory anew: a ghost, which no frontend
belongs to. Backends ignore it; it goes only by hand. --repair removes it if it still is as it was found, and the guest's
directory with it if nothing else is there.

A toolstack that removes a device by force does not run its script, and the script's disk stays. A backend of ours ends it
after 15 seconds; where none runs it is told here, and --repair closes it, unless it serves a guest. Disks that the storage
side has made are never touched.

XenStore is where XENSTORED_PATH says, at the usual socket, or behind the kernel's device. The exit status is 0 if nothing
is left to repair, also where there is no XenStore, 1 if something is, and else the number of the error."
)]
pub struct Doctor {
    /// Remove what was found.
    #[arg(long)]
    pub repair: bool,
    /// The kinds of backends to look at; more than one with commas between.
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', value_parser = kind, default_value = "vbd3")]
    pub kinds: Vec<String>,
    /// How long XenStore may take to be looked through, and for each repair.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds, default_value = "30")]
    pub patience: Duration,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A kind is the name of a node.
fn kind(text: &str) -> Result<String, String> {
    if text.contains('/') {
        return Err("a kind is one name, without /".to_owned());
    }
    Path::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_one_name() {
        assert_eq!(kind("vbd3").as_deref(), Ok("vbd3"));
        for text in ["", "/", "vbd3/7", "vbd 3", "@releaseDomain/x"] {
            assert!(kind(text).is_err(), "{text}");
        }
    }
}
