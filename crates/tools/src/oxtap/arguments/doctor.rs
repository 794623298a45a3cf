//! What may be asked of the doctor.

use std::time::Duration;

use clap::Args;

use super::super::size;

/// `oxtap doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Lists every backend, every tapdisk, every minor and every device with its state, then what was left behind:
- sockets of a tapdisk that was killed, and what it had under its minor;
- what somebody has left who was killed while making a disk: a minor that no tapdisk has, a tapdisk without a disk, a disk
  that is not open, each if it is older than 15 seconds;
- a ring whose device has gone while no backend ran;
- a device whose tapdisk has gone: told, but only its toolstack can detach it;
- the directory of a device that has closed, of a guest that has gone;
- what was told of a device that has gone, below error/backend;
- disks of scripts, and ghosts. --repair clears all of that away but for what is said.

A hotplug script that writes after its device has gone makes the device's directory anew: a ghost, which no frontend
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
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', value_parser = super::kind, default_value = "vbd3")]
    pub kinds: Vec<String>,
    /// How long XenStore may take to be looked through, and for each repair.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds, default_value = "30")]
    pub patience: Duration,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::super::kind;

    #[test]
    fn a_kind_is_one_name() {
        assert_eq!(kind("vbd3").as_deref(), Ok("vbd3"));
        for text in ["", "/", "vbd3/7", "vbd 3", "@releaseDomain/x"] {
            assert!(kind(text).is_err(), "{text}");
        }
    }
}
