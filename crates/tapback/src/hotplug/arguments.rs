//! The command line. Help and the manual page come from here.

use clap::{CommandFactory, Parser, ValueEnum};

/// The script of disks for xl and libxl: a tapdisk for each device.
///
/// A toolstack runs it when a device has come, and when it goes; XENBUS_PATH names the device's directory. With add, a tapdisk
/// is started for params (type:path) and named in the directory, which tapback reads; with remove it is ended. The disk is
/// read-only unless mode says w. One that a guest may write to is no other guest's, unless mode is w! or the guest is the
/// same, which moves within its host. A disk that a storage manager has opened is used as it is, and stays. What goes wrong is
/// told on stderr and in the nodes hotplug-status and hotplug-error.
///
/// It takes no lock, and any number may run at the same time. It may be killed at any moment, and run again.
///
/// Called block-oxtap, it leaves the disk to `tapback --auto`, and only says that it has run.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "block-tapdisk", version, about, max_term_width = 100, after_help = ENVIRONMENT)]
pub struct ScriptArguments {
    /// What is to be done
    #[arg(value_enum)]
    pub(super) action: Action,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Action {
    /// The device has come
    Add,
    /// The device goes
    Remove,
}

const ENVIRONMENT: &str = "\
Environment:
  XENBUS_PATH     the device's directory, such as backend/vbd3/7/51712
  XENSTORED_PATH  where XenStore listens, instead of /run/xenstored/socket or /dev/xen/xenbus
  OXTAP_XEN       hosted:DIRECTORY for a host without Xen, made by `oxtap hosted run`
  OXTAP_RUN_DIR   where tapdisks have their sockets, instead of /run/blktap-control
  TAPDISK         the program to start, instead of the tapdisk beside this program or /usr/libexec/tapdisk";

impl ScriptArguments {
    /// The definition, for whoever makes pages of it.
    pub fn command() -> clap::Command {
        <ScriptArguments as CommandFactory>::command()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_called_as_toolstacks_do() {
        ScriptArguments::command().debug_assert();
        let read = |words: &[&str]| ScriptArguments::try_parse_from([&["block"], words].concat()).ok();
        assert_eq!(read(&["add"]).unwrap().action, Action::Add);
        assert_eq!(read(&["remove"]).unwrap().action, Action::Remove);
        for wrong in [&[][..], &["explode"], &["add", "remove"], &["--all"]] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
