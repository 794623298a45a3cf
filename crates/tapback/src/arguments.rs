//! The command line of the daemon. Help, the manual page and shell completions come from here.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, CommandFactory, Parser};
use clap_complete::Shell;
use wire::xenstore::Path;
use xen::DomainId;

/// Kinds of devices are served if none are named.
const USUAL_KIND: &str = "vbd3";
/// More rings than this for one device gain nothing, and each costs pages.
const QUEUES_MAX: i64 = 16;

/// The backend of guests' disks: does what XenStore and toolstacks ask of it, and has tapdisks serve the rings.
///
/// It makes offers to each device below backend/KIND and leaves the device to its script. When that has run, the disk is found
/// by the nodes pid and minor, by physical-device-path (the NBD socket or the marker of a disk), by physical-device (0:MINOR),
/// or by params (type:path, as a tapdisk has it open); the guest's rings are connected to it, and let go of when the guest or
/// the toolstack ends the device. A directory that has gone is never written to again.
///
/// It holds no state: killed or ended at any moment, it leaves all rings at work, and whoever is started next takes them up.
/// It goes to the background when it serves; what fails before that is told on stderr, with the number of the error as the
/// exit status. SIGTERM and SIGINT end it with 0.
///
/// With --auto, a disk whose script is block-oxtap needs nobody else: a tapdisk is started for its params, read-only unless
/// mode says w, and ended when no device needs it any more. One that a guest may write to is no other guest's, unless mode is
/// w!. With direct-io-safe=0 it goes through the page cache.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "tapback", version, about, max_term_width = 100, after_help = ENVIRONMENT)]
pub struct Arguments {
    /// Kind of devices to serve, as in backend/KIND of XenStore; may be given several times
    #[arg(short = 'n', long = "kind", visible_alias = "name", value_name = "KIND", value_parser = kind)]
    #[arg(default_value = USUAL_KIND)]
    pub kinds: Vec<String>,

    /// Write the process's number to this file once it serves
    #[arg(short, long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,

    /// Stay in the foreground, and speak to stderr
    #[arg(short, long)]
    pub debug: bool,

    /// Say more: which disk was found for a device
    #[arg(short, long)]
    pub verbose: bool,

    /// Offer no barriers; guests flush instead
    #[arg(short = 'b', long = "nobarrier")]
    pub no_barrier: bool,

    /// Serve this guest only, and end when it has no devices any more
    #[arg(short = 'x', long = "domain", value_name = "ID", value_parser = domain)]
    pub domain: Option<DomainId>,

    /// Start tapdisks for devices whose script is block-oxtap, and end them when no device needs them
    #[arg(long)]
    pub auto: bool,

    /// Offer that pages may stay mapped between requests
    #[arg(long)]
    pub persistent: bool,

    /// Offer so many rings for a device at most
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=QUEUES_MAX))]
    pub queues: u32,

    /// When the tapdisk of a device has gone: fail (the guest is told), restart (another tapdisk gets the same image), or
    /// run:COMMAND (the guest waits if it ends with 0)
    #[arg(long, value_name = "ACTION", value_parser = on_death, default_value = "fail")]
    pub on_death: DeathAction,

    /// How long the script of a device that has gone may take to end its disk; then it is ended here
    #[arg(long, value_name = "SECONDS", value_parser = script_time, default_value = "15")]
    pub script_time: Duration,

    /// Write lines to this file, too; SIGHUP opens it anew
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// Print completions for this shell, and end
    #[arg(long, value_name = "SHELL", exclusive = true, action = ArgAction::Set)]
    pub completions: Option<Shell>,
}

const ENVIRONMENT: &str = "\
Environment:
  XENSTORED_PATH  where XenStore listens, instead of /run/xenstored/socket or /dev/xen/xenbus
  OXTAP_XEN       hosted:DIRECTORY for a host without Xen, made by `oxtap hosted run --no-backend`
  OXTAP_RUN_DIR   where tapdisks have their sockets, instead of /run/blktap-control";

impl Arguments {
    /// The definition, for whoever makes pages and completions of it.
    pub fn command() -> clap::Command {
        <Arguments as CommandFactory>::command()
    }

    /// The same with paths that are meant from here: a daemon moves to `/`.
    pub(crate) fn at_home(mut self) -> Arguments {
        for path in [&mut self.pidfile, &mut self.log_file].into_iter().flatten() {
            if let Ok(absolute) = std::path::absolute(&*path) {
                *path = absolute;
            }
        }
        self.kinds.sort_unstable();
        self.kinds.dedup();
        self
    }
}

/// What is done when a tapdisk has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeathAction {
    /// The guest is told.
    Fail,
    /// Another tapdisk gets the same image.
    Restart,
    /// A command takes care of it.
    Run(String),
}

fn on_death(text: &str) -> Result<DeathAction, String> {
    match text.split_once(':') {
        None if text == "fail" => Ok(DeathAction::Fail),
        None if text == "restart" => Ok(DeathAction::Restart),
        Some(("run", command)) if !command.trim().is_empty() => Ok(DeathAction::Run(command.to_owned())),
        _ => Err("neither fail, restart, nor run:COMMAND".to_owned()),
    }
}

/// Long enough for a script to come to its first words, and not so long that nobody remembers why.
fn script_time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "not 1 to 3600 seconds".to_owned())
}

fn kind(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && !text.contains(['/', '@', ':']) && Path::new(text).is_ok();
    is_name.then(|| text.to_owned()).ok_or_else(|| "no name of a node".to_owned())
}

fn domain(text: &str) -> Result<DomainId, String> {
    text.parse().map(DomainId).map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Arguments> {
        Arguments::try_parse_from(std::iter::once("tapback").chain(line.split_whitespace())).ok()
    }

    #[test]
    fn scripts_have_their_time() {
        assert_eq!(read("").unwrap().script_time, crate::owners::SCRIPT_TIME);
        assert_eq!(read("--script-time 40").unwrap().script_time, Duration::from_secs(40));
        assert!(["0", "3601", "-1", "x"].iter().all(|wrong| script_time(wrong).is_err()));
    }

    #[test]
    fn what_is_done_about_a_tapdisk_that_has_gone_is_one_of_three() {
        assert_eq!(on_death("run:xl pause $OXTAP_DOMAIN"), Ok(DeathAction::Run("xl pause $OXTAP_DOMAIN".into())));
        assert_eq!((on_death("fail"), on_death("restart")), (Ok(DeathAction::Fail), Ok(DeathAction::Restart)));
        for wrong in ["", "run", "run:", "run: ", "fail:x", "xl pause"] {
            assert!(on_death(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn whoever_started_the_older_program_finds_everything_in_its_place() {
        let usual = read("-p /var/run/tapback.pid").unwrap();
        assert_eq!((usual.kinds, usual.pidfile), (vec!["vbd3".to_owned()], Some("/var/run/tapback.pid".into())));
        let debug = read("-d -v -b -n vbd -x 7").unwrap();
        assert!(debug.debug && debug.verbose && debug.no_barrier);
        assert_eq!((debug.kinds, debug.domain), (vec!["vbd".to_owned()], Some(DomainId(7))));
        let long = read("--debug --verbose --nobarrier --name vbd --domain 7 --pidfile x").unwrap();
        assert_eq!((long.kinds.len(), long.domain), (1, Some(DomainId(7))));
    }

    #[test]
    fn kinds_add_up_and_count_once() {
        let kinds = read("--kind vbd --kind vbd3 --kind vbd").unwrap().at_home().kinds;
        assert_eq!(kinds, ["vbd", "vbd3"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in ["--kind a/b", "--kind @x", "-x 65536", "-x one", "--queues 0", "--queues 17", "image.vhd", "-z"] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
