//! What may be asked of `oxtap`. Help, the manual page and shell completions come from here.

use std::{io, net::SocketAddr, path::PathBuf};

use block_core::Result;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use wire::xenstore::Path;

use super::size;

pub use disks::{
    Budget, Close, Dump, Faults, Job, Jobs, Limit, Ls, Metrics, Quiesce, Release, Resize, Rest, Resume, Stats, Top,
};
pub use doctor::Doctor;
pub use hosted::{
    AddDisk, BackendOptions, GuestRun, Handover, Harm, Hosted, HostedBackend, HostedCommand, HostedRun, RemoveDisk,
    RemoveDomain,
};

mod disks;
mod doctor;
mod hosted;

/// Virtual disks from user space: serve images, see what runs, try it out.
#[derive(Debug, Parser)]
#[command(name = "oxtap", version, about, arg_required_else_help = true, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve an image over NBD until Ctrl-C.
    Serve(Serve),
    /// Show every disk of this host, and which devices of guests have it.
    Ls(Ls),
    /// Watch the disks of this host at work.
    Top(Top),
    /// Show everything that is counted of a disk: requests, latencies, errors, queues.
    Stats(Stats),
    /// Show or change how much a disk may do.
    Limit(Limit),
    /// Make a disk share the budget of a td-rated.
    Budget(Budget),
    /// Drain a disk, flush and close its images; its requests are held until `resume`.
    Pause(Rest),
    /// Let a disk that was paused or quiesced go on.
    Resume(Resume),
    /// Drain a disk, flush, and let others write to its images; its requests are held until `resume`.
    Quiesce(Quiesce),
    /// Let go of all devices of a guest, and of the locks of their images: another host may then write to them.
    Release(Release),
    /// Give a disk the size that its image has by now, or make both larger.
    Resize(Resize),
    /// Drain a disk, flush and close its images for good; its clients are cut off.
    Close(Close),
    /// Show the jobs of all tapdisks: what runs, what waits, what has ended lately.
    Jobs(Jobs),
    /// Follow a job to its end.
    Watch(Job),
    /// Turn a job back: the disk is then as before.
    Cancel(Job),
    /// Print the numbers of all disks in the OpenMetrics format, or serve them to a scraper.
    Metrics(Metrics),
    /// Show what the event loops of a disk have done last, and what they wait for.
    Dump(Dump),
    /// Make storage fail by rules, to test what is above it.
    Faults(Faults),
    /// Show who holds the lease of an image, or break it. Leases are for storage without locks.
    Lease(Lease),
    /// Show everything of disks that there is on this host, and clear away what was left behind.
    Doctor(Doctor),
    /// Put the whole system to work on a VHD chain with an ext4 file system, and have others' tools check it.
    Demo(Demo),
    /// Be a host without Xen, for tests and development, and give its domains disks.
    Hosted(Hosted),
    /// Be a guest of such a host: use a disk, check every byte, leave it to the next kernel.
    Guest(GuestRun),
    /// Measure this machine: oxtap beside qemu-nbd, nbdkit and fio, as far as they are installed.
    Bench(Bench),
    /// Print completions for a shell.
    Completions(Completions),
}

/// The rules of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Virtual Hard Disk: dynamic and differencing images that grow, and fixed ones.
    Vhd,
    /// The bytes of the disk, and nothing else.
    Raw,
}

/// `oxtap serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxtap serve disk.vhd                            on a socket in a private directory
  oxtap serve --create 20G disk.vhd               a new image that grows as it is written
  oxtap serve --create 20G --parent base.vhd leaf.vhd
  oxtap serve --listen 127.0.0.1:10809 --read-only disk.raw")]
pub struct Serve {
    /// Make the image first, with a disk of this size (10G, 512M, ...); it must not exist yet.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub create: Option<u64>,
    /// The format of the image; needed unless its name ends in .vhd, .raw or .img. It is never guessed from content.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Make the image as a snapshot of this one; its size is the parent's unless --create says more.
    #[arg(long, value_name = "IMAGE")]
    pub parent: Option<PathBuf>,
    /// The format of the parent, if its name does not tell.
    #[arg(long, value_enum, requires = "parent")]
    pub parent_format: Option<Format>,
    /// Refuse writes.
    #[arg(long)]
    pub read_only: bool,
    /// Listen on this Unix socket.
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    pub socket: Option<PathBuf>,
    /// Listen on this TCP address. There is no encryption and no password: keep it to networks that you trust.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// The image file, or a block device.
    pub image: PathBuf,
}

/// `oxtap lease`.
#[derive(Debug, Args)]
#[command(
    after_help = "Where the file system has no locks, and in the directories that OXTAP_LEASE_DIRS names, whoever writes to an image
has a lease: a record beside it, IMAGE.lease.1, which names its host and process. It goes when the writer ends, or closes
the image. That of a process which was killed is seen to be nobody's on the same host, also after that was started anew.

A host that is down leaves its leases. Break one when that host writes no more for certain: a holder that is alive stops
writing within the five seconds that --force waits, but what its kernel has under way by then may still land.

Examples:
  oxtap lease /mnt/sr/disk.vhd
  oxtap lease --force /mnt/sr/disk.vhd"
)]
pub struct Lease {
    /// Break it, whoever holds it.
    #[arg(long)]
    pub force: bool,
    /// Print JSON.
    #[arg(long, conflicts_with = "force")]
    pub json: bool,
    /// The image file.
    pub image: PathBuf,
}

/// `oxtap demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Leave the images in their directory and say where it is.
    #[arg(long)]
    pub keep: bool,
}

/// `oxtap bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxtap bench --quick                             everything, in some minutes
  oxtap bench peers chains --plots /tmp/plots     beside qemu-nbd and nbdkit, with drawings
  oxtap bench storage --directory /srv/images     the storage that is to be used, beside fio on a file")]
pub struct Bench {
    /// Which benchmarks; all, if none is named.
    pub names: Vec<String>,
    /// Three rounds of a third of a second each.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub quick: bool,
    /// How often each variant is measured, in turns.
    #[arg(long)]
    pub rounds: Option<u32>,
    /// How long each variant is measured in each round.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Machine-readable figures, one object.
    #[arg(long)]
    pub json: bool,
    /// Draw what was measured, as SVG files in this directory.
    #[arg(long, value_name = "DIRECTORY")]
    pub plots: Option<PathBuf>,
    /// Where files are made; on the storage that is to be measured.
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

/// `oxtap completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell.
    pub shell: Shell,
}

impl Completions {
    /// Prints them on stdout.
    pub(super) fn print(&self) -> Result<()> {
        clap_complete::generate(self.shell, &mut Arguments::command(), "oxtap", &mut io::stdout());
        Ok(())
    }
}

/// A kind is the name of a node.
fn kind(text: &str) -> std::result::Result<String, String> {
    if text.contains('/') {
        return Err("a kind is one name, without /".to_owned());
    }
    Path::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_socket_and_an_address_exclude_each_other() {
        let both = ["oxtap", "serve", "--socket", "/s", "--listen", "127.0.0.1:1", "a.vhd"];
        assert!(Arguments::try_parse_from(both).is_err());
    }
}
