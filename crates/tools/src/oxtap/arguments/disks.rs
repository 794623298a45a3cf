//! What may be asked of disks that tapdisks serve. DISK is a minor, `pid:minor`, an image, or an NBD socket.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::super::{jobs::JobName, limit::Allowance, name::DiskName, size};

/// `oxtap ls`.
#[derive(Debug, Args)]
#[command(
    after_help = "PAGES are those of all guests of the disk, also when there are none: named by requests under way / mapped / \
the most that were / not given back. Below each disk stand the devices of guests that have it, as XenStore shows them, and \
their rings; a device without a disk has a line of its own. Below the list stand the budget of grants that all guests of this host share, and the \
memory of this domain as Xen tells it, where there are any."
)]
pub struct Ls {
    /// The kinds of backends whose devices are shown; more than one with commas between.
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', value_parser = super::kind, default_value = "vbd3")]
    pub kinds: Vec<String>,
    /// Print JSON: a list of objects.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Minor, pid:minor, image or NBD socket.
    pub disk: DiskName,
    /// Print JSON, as the tapdisk gives it.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap limit`.
#[derive(Debug, Args)]
#[command(
    after_help = "N and SIZE are per second. N:BURST and SIZE:BURST say how much may be saved up; `none` lifts one limit.

Examples:
  oxtap limit 4                               show the limits
  oxtap limit 4 --iops 500 --bandwidth 50M    reads and writes together
  oxtap limit 4 --write-bandwidth 10M:200M    writes, 200 MiB of them at once after a rest
  oxtap limit 4 --burst 2                     what is not used in two seconds may be used later
  oxtap limit 4 --none                        no limits any more"
)]
pub struct Limit {
    /// Minor, pid:minor, image or NBD socket.
    pub disk: DiskName,
    /// Requests, reads and writes together.
    #[arg(long, value_name = "N[:BURST]", value_parser = Allowance::requests)]
    pub iops: Option<Allowance>,
    /// Bytes, reads and writes together (50M, 1G, ...).
    #[arg(long, value_name = "SIZE[:BURST]", value_parser = Allowance::bytes)]
    pub bandwidth: Option<Allowance>,
    /// Reads.
    #[arg(long, value_name = "N[:BURST]", value_parser = Allowance::requests)]
    pub read_iops: Option<Allowance>,
    /// Bytes that are read.
    #[arg(long, value_name = "SIZE[:BURST]", value_parser = Allowance::bytes)]
    pub read_bandwidth: Option<Allowance>,
    /// Writes.
    #[arg(long, value_name = "N[:BURST]", value_parser = Allowance::requests)]
    pub write_iops: Option<Allowance>,
    /// Bytes that are written.
    #[arg(long, value_name = "SIZE[:BURST]", value_parser = Allowance::bytes)]
    pub write_bandwidth: Option<Allowance>,
    /// How many seconds' worth may be saved up: of the limits named here, or of all if none is.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds)]
    pub burst: Option<Duration>,
    /// Lift all limits that are not named here.
    #[arg(long)]
    pub none: bool,
    /// Print the limits as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap budget`.
#[derive(Debug, Args)]
#[command(after_help = "All disks that name the same service share its budget. See docs/limits.md and td-rated(8).")]
pub struct Budget {
    /// Minor, pid:minor, image or NBD socket.
    pub disk: DiskName,
    /// The socket of a td-rated, or its name in /var/run/blktap/ratelimit; with `,reads` behind it for reads, too.
    #[arg(value_name = "SERVICE[,reads]", required_unless_present = "none")]
    pub service: Option<PathBuf>,
    /// Share no budget any more.
    #[arg(long, conflicts_with = "service")]
    pub none: bool,
}

/// `oxtap pause`.
#[derive(Debug, Args)]
pub struct Rest {
    /// Minor, pid:minor, image or NBD socket.
    pub disk: DiskName,
    /// Give up after so long, if requests do not end; the disk then goes on.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds)]
    pub deadline: Option<Duration>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap quiesce`.
#[derive(Debug, Args)]
pub struct Quiesce {
    /// Minor, pid:minor, image or NBD socket.
    #[arg(required_unless_present = "domain")]
    pub disk: Option<DiskName>,
    /// All disks that this guest has connected, each on its own; fails if one of them fails.
    #[arg(long, conflicts_with = "disk")]
    pub domain: Option<u16>,
    /// Give up after so long, if requests do not end; the disk then goes on.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds)]
    pub deadline: Option<Duration>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap release`.
#[derive(Debug, Args)]
#[command(
    after_help = "Before a guest that migrates is destroyed, or after: what this has done stays done. Without --force                         a device that does not end in time goes on ending."
)]
pub struct Release {
    /// The guest.
    #[arg(long)]
    pub domain: u16,
    /// At the deadline, let go of the guest's pages whatever storage still holds.
    #[arg(long)]
    pub force: bool,
    /// How long its requests, and then making them durable, may take.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds, default_value = "30")]
    pub deadline: Duration,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap resume`.
#[derive(Debug, Args)]
pub struct Resume {
    /// Minor, pid:minor, image or NBD socket.
    #[arg(required_unless_present = "domain")]
    pub disk: Option<DiskName>,
    /// All disks that this guest has connected, each on its own; fails if one of them fails.
    #[arg(long, conflicts_with_all = ["disk", "image"])]
    pub domain: Option<u16>,
    /// Go on with another image, of the same disk: vhd:/images/new-leaf.vhd
    #[arg(long, value_name = "TYPE:PATH")]
    pub image: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap close`.
#[derive(Debug, Args)]
#[command(
    after_help = "The minor stays with its tapdisk and can be opened again; `tap-ctl detach` and `tap-ctl free` give both up."
)]
pub struct Close {
    /// Minor, pid:minor, image or NBD socket.
    pub disk: DiskName,
    /// Wait for no request and no storage: what has not ended is answered no more.
    #[arg(long)]
    pub force: bool,
    /// Close by force after so long.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds)]
    pub deadline: Option<Duration>,
}

/// `oxtap resize`.
#[derive(Debug, Args)]
pub struct Resize {
    /// Minor, pid:minor, image or NBD socket.
    pub disk: DiskName,
    /// Make the image this large first (10G, 512M, ...); without it, the disk gets the size that its image has by now.
    #[arg(value_parser = size::parse)]
    pub size: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap faults`.
#[derive(Debug, Args)]
#[command(
    after_help = "The disk must have been opened with `fault:RULES:` in front of its image (`fault::` for no rules yet).
RULES are `KIND[@OFFSET[+LENGTH]][/SKIP][xTIMES]=EFFECT`, joined by commas; see docs/faults.md.

Examples:
  oxtap faults 4 write/10x1=ENOSPC            the eleventh write fails
  oxtap faults 4 'read@1M+64K=delay(200ms)'   reads of this place are slow
  oxtap faults 4 --none                       nothing fails any more"
)]
pub struct Faults {
    /// Minor, pid:minor, image or NBD socket.
    pub disk: DiskName,
    /// When to fail, and how.
    #[arg(required_unless_present = "none")]
    pub rules: Option<String>,
    /// Let nothing fail any more; what hangs goes on.
    #[arg(long, conflicts_with = "rules")]
    pub none: bool,
}

/// `oxtap jobs`.
#[derive(Debug, Args)]
pub struct Jobs {
    /// Print JSON: a list of objects.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap watch` and `oxtap cancel`.
#[derive(Debug, Args)]
pub struct Job {
    /// Its number, as `oxtap jobs` shows it: pid:job, or just the job's if only one tapdisk has it.
    pub job: JobName,
}

/// `oxtap dump`.
#[derive(Debug, Args)]
pub struct Dump {
    /// Minor, pid:minor, image or NBD socket.
    pub disk: DiskName,
    /// Show so many turns of each event loop.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub turns: usize,
    /// Print JSON, as the tapdisk gives it.
    #[arg(long)]
    pub json: bool,
}

/// `oxtap metrics`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  oxtap metrics                                            once, to stdout
  oxtap metrics --listen 127.0.0.1:9810                    for a scraper: http://127.0.0.1:9810/metrics
  oxtap metrics --listen unix:/run/oxtap-metrics.socket")]
pub struct Metrics {
    /// Answer HTTP requests for /metrics here, until Ctrl-C.
    #[arg(long, value_name = "unix:PATH|ADDRESS:PORT")]
    pub listen: Option<super::super::metrics::Address>,
    /// Listen also where other hosts can connect. There is no encryption and no password.
    #[arg(long, requires = "listen")]
    pub allow_remote: bool,
    /// How long to wait for a tapdisk that does not answer.
    #[arg(long, value_name = "SECONDS", value_parser = size::parse_seconds, default_value = "2")]
    pub patience: Duration,
}

/// `oxtap top`.
#[derive(Debug, Args)]
#[command(after_help = "Keys:
  q                end
  l i b p e n      sort by load, IOPS, bandwidth, latency (p99), errors, image name; s takes the next
  r                turn the order round
  /                show only what matches; Enter keeps the filter, Esc drops it
  g                show the guests of each disk below it, or not
  space            let the picture stand still, and go on
  arrows, PgUp, PgDn, Home   move through the list

BUSY is requests in flight + requests to be tried again; LOAD is how many were in the disk on average. A guest stands below
its disk with its rings, the requests that were taken from them, its pages, and how often and how long it was held back by
the host's budget of grants. What all guests use of that budget stands above the list. Without a terminal, or with --once,
one table is printed.")]
pub struct Top {
    /// Time between two looks.
    #[arg(long, short, value_name = "SECONDS", value_parser = size::parse_seconds, default_value = "1")]
    pub interval: Duration,
    /// What the busiest disks are busiest with.
    #[arg(long, short, value_enum, default_value_t)]
    pub sort: super::super::top::Order,
    /// Show the guests of each disk below it.
    #[arg(long, short)]
    pub guests: bool,
    /// Show only disks with this in image, state or number, or a guest's (domain-device).
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    pub filter: String,
    /// Print one table and end, as without a terminal.
    #[arg(long)]
    pub once: bool,
}
