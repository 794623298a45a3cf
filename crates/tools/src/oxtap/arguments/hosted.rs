//! What may be asked of a host without Xen, and of a guest on it.

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use guest::hostile::{HostileMode, HostileNodes};
use wire::blkif::Abi;

use super::super::size;

/// `oxtap hosted`.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "A host is a directory: the sockets of its broker and of its XenStore, and the tapdisks that serve it.

Examples:
  oxtap hosted run /tmp/host                                  until Ctrl-C
  oxtap hosted add-disk /tmp/host 1 xvda vhd:/tmp/disk.vhd    a disk for domain 1
  oxtap guest /tmp/host 1 xvda --cycles 10                    a guest that uses it
  XENSTORED_PATH=/tmp/host/socket xenstore-ls                 stock tools see what happens
  oxtap hosted remove-disk /tmp/host 1 xvda"
)]
pub struct Hosted {
    /// What to do.
    #[command(subcommand)]
    pub command: HostedCommand,
}

/// The commands of `oxtap hosted`.
#[derive(Debug, Subcommand)]
pub enum HostedCommand {
    /// Be the host until Ctrl-C: memory and events that domains share, XenStore, and a backend for their disks.
    Run(HostedRun),
    /// Serve the disks of a host that runs without a backend. It may end and start at any time: guests go on.
    Backend(HostedBackend),
    /// Give a domain a disk: nodes as libxl writes them, and a tapdisk as its script starts it.
    AddDisk(AddDisk),
    /// Take a disk away, and end its tapdisk.
    RemoveDisk(RemoveDisk),
    /// End a domain; its disks are taken away by force.
    RemoveDomain(RemoveDomain),
}

/// `oxtap hosted run`.
#[derive(Debug, Args)]
pub struct HostedRun {
    /// The directory of the host; it is made if it is not there.
    pub directory: PathBuf,
    /// What is served.
    #[command(flatten)]
    pub options: BackendOptions,
    /// Serve no disks: another program does that, such as `oxtap hosted backend`.
    #[arg(long)]
    pub no_backend: bool,
}

/// `oxtap hosted backend`.
#[derive(Debug, Args)]
pub struct HostedBackend {
    /// The directory of the host, as `oxtap hosted run --no-backend` was told.
    pub directory: PathBuf,
    /// What is served.
    #[command(flatten)]
    pub options: BackendOptions,
}

/// What a backend serves, and how.
#[derive(Debug, Args)]
pub struct BackendOptions {
    /// The kinds of backends that are served; more than one with commas between.
    #[arg(long, value_name = "KIND", value_delimiter = ',', default_value = "vbd3")]
    pub kinds: Vec<String>,
    /// Offer guests to keep their pages mapped between requests.
    #[arg(long)]
    pub persistent: bool,
    /// Look at rings for so many microseconds after the last request, instead of waiting to be told: 0 to 100000.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, value_parser = polling())]
    pub polling: u32,
    /// How long a guest is served after XenStore has lost its device together with the connection.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds, default_value = "600")]
    pub grace: Duration,
}

/// `oxtap hosted add-disk`.
#[derive(Debug, Args)]
pub struct AddDisk {
    /// The directory of the host.
    pub directory: PathBuf,
    /// The number of the domain; it is made if it is not there.
    #[arg(value_parser = clap::value_parser!(u16).range(1..0x7ff0))]
    pub domain: u16,
    /// The name of the disk in the guest, such as xvda.
    pub name: String,
    /// The image, such as vhd:/images/a.vhd.
    #[arg(value_name = "TYPE:PATH")]
    pub image: String,
    /// Refuse writes.
    #[arg(long)]
    pub read_only: bool,
    /// Offer the guest to keep its pages mapped between requests, whatever the host does for others.
    #[arg(long)]
    pub persistent: bool,
    /// Look at its rings for so many microseconds after the last request: 0 to 100000, whatever the host does for others.
    #[arg(long, value_name = "MICROSECONDS", value_parser = polling())]
    pub polling: Option<u32>,
    /// The memory of a new domain.
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "64M")]
    pub memory: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap hosted remove-disk`.
#[derive(Debug, Args)]
pub struct RemoveDisk {
    /// The directory of the host.
    pub directory: PathBuf,
    /// The number of the domain.
    pub domain: u16,
    /// The name of the disk in the guest.
    pub name: String,
    /// Do not ask the guest.
    #[arg(long)]
    pub force: bool,
    /// How long guest and backend may take.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds, default_value = "10")]
    pub patience: Duration,
}

/// `oxtap hosted remove-domain`.
#[derive(Debug, Args)]
pub struct RemoveDomain {
    /// The directory of the host.
    pub directory: PathBuf,
    /// The number of the domain.
    pub domain: u16,
    /// How long the backend may take for each disk.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds, default_value = "10")]
    pub patience: Duration,
}

/// `oxtap guest`.
#[derive(Debug, Args)]
#[command(
    after_help = "Blocks of 4 KiB get stamps, which are read back in random order, and all of them by each kernel that takes the disk
over. What the disk held before is overwritten, in its first 64 MiB. The exit status is 0 if every byte was right and no
page, grant or event channel was lost.

Examples:
  oxtap guest /tmp/host 1 xvda                              1000 requests
  oxtap guest /tmp/host 1 xvda --cycles 100 --queues 4      a hundred kernels, one after the other
  oxtap guest /tmp/host 1 xvda --cycles 20 --handover crash each falls over while its requests run
  oxtap guest /tmp/host 1 xvda --hostile random-slots       it means harm
  oxtap guest /dev/xen 0 xvda --cycles 100                  in dom0, after `xl block-attach 0 ...`"
)]
pub struct GuestRun {
    /// The directory of the host, as `oxtap hosted run` was told; or /dev/xen: this domain of a real Xen is the guest.
    pub directory: PathBuf,
    /// The number of the domain.
    pub domain: u16,
    /// The name of the disk, such as xvda.
    pub disk: String,
    /// Kernels that have the disk, one after the other.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub cycles: u64,
    /// How each kernel leaves the disk to the next.
    #[arg(long, value_enum, default_value_t)]
    pub handover: Handover,
    /// Requests of each kernel.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub requests: u64,
    /// Requests that run at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub depth: u16,
    /// Blocks of 4 KiB in one request, at most.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub blocks: u16,
    /// Write nothing; check what an earlier run with the same seed has written.
    #[arg(long)]
    pub read_only: bool,
    /// Rings, each with its event channel; fewer if the backend offers less.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub queues: u32,
    /// Each ring has two to the power of so many pages; fewer if the backend offers less.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4))]
    pub ring_order: u32,
    /// How requests are laid out in the ring.
    #[arg(long, value_name = "ABI", default_value = "x86_64-abi", value_parser = abi())]
    pub abi: Abi,
    /// Keep data pages granted between requests; the backend makes use of that if the host was told so.
    #[arg(long)]
    pub persistent: bool,
    /// Say that the disk is connected as soon as there is a ring, as mini-os does: 1, 4 instead of 1, 3, 4.
    #[arg(long)]
    pub jump: bool,
    /// How long the backend may take for each step.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds, default_value = "5")]
    pub patience: Duration,
    /// What random choices begin with, and stamps bear.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Mean harm, in this way; --requests says how often.
    #[arg(long, value_name = "MODE", value_parser = harm())]
    pub hostile: Option<Harm>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How a kernel leaves the disk to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Handover {
    /// It shuts the disk down while requests run, as kexec does: 4, 5, 6, 1.
    #[default]
    Shutdown,
    /// It is gone from one moment to the next; the node says 4.
    Crash,
    /// Now this, now that.
    Mixed,
}

/// No ring is looked at for longer.
fn polling() -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(0..=100_000)
}

fn abi() -> impl TypedValueParser<Value = Abi> {
    PossibleValuesParser::new(["x86_64-abi", "x86_32-abi", "arm-abi"])
        .map(|name| Abi::from_protocol(Some(&name)).expect("only these are let through"))
}

/// How a guest means harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// By what it does to its ring.
    Ring(HostileMode),
    /// By what it writes into XenStore.
    Nodes(HostileNodes),
}

impl Harm {
    fn from_name(name: &str) -> Option<Harm> {
        let ring = HostileMode::from_name(name).map(Harm::Ring);
        ring.or_else(|| HostileNodes::from_name(name).map(Harm::Nodes))
    }
}

fn harm() -> impl TypedValueParser<Value = Harm> {
    let names = HostileMode::ALL.map(|(_, name)| name).into_iter().chain(HostileNodes::ALL.map(|(_, name)| name));
    PossibleValuesParser::new(names).map(|name| Harm::from_name(&name).expect("only these are let through"))
}
