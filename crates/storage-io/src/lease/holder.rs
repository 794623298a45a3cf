//! Who holds a lease, and whether that process is still there.

use std::{fmt, fs, io};

use block_core::{Error, ErrorKind, Result, ResultExt};

/// A record is a few lines.
pub(super) const RECORD_BYTES_MAX: u64 = 4096;
/// Its first line.
const TITLE: &str = "oxtap lease 1";
/// Bytes of a token.
const TOKEN_BYTES: usize = 16;

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHolder {
    /// The name of the host.
    pub host: String,
    /// What tells this machine from others of that name; empty if it says nothing of itself.
    pub machine: String,
    /// What tells this start of the machine from others.
    pub boot: String,
    /// Among which processes `process` is a number.
    pub processes: String,
    /// The process.
    pub process: u32,
    /// When it was started, in ticks of the kernel: tells it from others with its number.
    pub started: u64,
    /// Tells this lease from all others.
    pub token: String,
}

impl LeaseHolder {
    pub(super) fn to_text(&self) -> Vec<u8> {
        let LeaseHolder { host, machine, boot, processes, process, started, token } = self;
        let lines = format!(
            "{TITLE}\nhost {host}\nmachine {machine}\nboot {boot}\nprocesses {processes}\nprocess {process}\n\
             started {started}\ntoken {token}\n"
        );
        lines.into_bytes()
    }

    /// None if it is no whole record.
    pub(super) fn parse(text: &[u8]) -> Option<LeaseHolder> {
        let mut lines = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split('\n');
        if lines.next() != Some(TITLE) {
            return None;
        }
        let mut word = |key: &str| Some(lines.next()?.strip_prefix(key)?.strip_prefix(' ')?.to_owned());
        Some(LeaseHolder {
            host: word("host")?,
            machine: word("machine")?,
            boot: word("boot")?,
            processes: word("processes")?,
            process: word("process")?.parse().ok()?,
            started: word("started")?.parse().ok()?,
            token: word("token")?,
        })
    }
}

impl fmt::Display for LeaseHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of host {}", self.process, self.host)
    }
}

/// This host, as its holders describe it.
pub(super) struct Host {
    name: String,
    machine: String,
    boot: String,
    processes: String,
}

impl Host {
    pub(super) fn this() -> Result<Host> {
        let line = |path: &'static str| fs::read_to_string(path).map(|text| text.trim().to_owned()).context(path);
        Ok(Host {
            name: line("/proc/sys/kernel/hostname")?,
            // Not every system has one.
            machine: line("/etc/machine-id").unwrap_or_default(),
            boot: line("/proc/sys/kernel/random/boot_id")?,
            processes: fs::read_link("/proc/self/ns/pid").context("/proc/self/ns/pid")?.display().to_string(),
        })
    }

    /// This process, as the holder of a new lease.
    pub(super) fn this_process(&self) -> Result<LeaseHolder> {
        let process = std::process::id();
        let started = start_of("self").context("/proc/self/stat")?;
        let started = started.ok_or_else(|| Error::new(ErrorKind::NotFound, "/proc/self/stat: makes no sense"))?;
        Ok(LeaseHolder {
            host: self.name.clone(),
            machine: self.machine.clone(),
            boot: self.boot.clone(),
            processes: self.processes.clone(),
            process,
            started,
            token: token()?,
        })
    }

    /// Whether `holder` is, or was, a process of this start of this host.
    pub(super) fn has_run(&self, holder: &LeaseHolder) -> bool {
        holder.boot == self.boot
    }

    /// Whether a holder is no more, for certain.
    pub(super) fn knows_to_be_dead(&self, holder: &LeaseHolder) -> bool {
        if self.has_run(holder) {
            return holder.processes == self.processes && is_over(holder);
        }
        // Machines that were copied have one number, but are told apart by people.
        !self.machine.is_empty() && holder.machine == self.machine && holder.host == self.name
    }
}

/// Whether a process of this start of the host has ended.
fn is_over(holder: &LeaseHolder) -> bool {
    match start_of(&holder.process.to_string()) {
        Ok(started) => started != Some(holder.started),
        // Whatever else went wrong proves nothing.
        Err(error) => error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH),
    }
}

/// When a process was started; none if it has ended and was not waited for yet.
fn start_of(process: &str) -> io::Result<Option<u64>> {
    let line = fs::read_to_string(format!("/proc/{process}/stat"))?;
    Ok(start_in(&line))
}

fn start_in(line: &str) -> Option<u64> {
    // The name of the program is in brackets, and may have some itself.
    let mut fields = line.rsplit_once(") ")?.1.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

fn token() -> Result<String> {
    let mut bytes = [0_u8; TOKEN_BYTES];
    // SAFETY: the memory is ours and as long as is said.
    let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(length).ok() != Some(TOKEN_BYTES) {
        return Err(Error::from_os("random bytes", io::Error::last_os_error()));
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us() -> LeaseHolder {
        Host::this().unwrap().this_process().unwrap()
    }

    #[test]
    fn a_holder_is_read_as_it_was_written() {
        let holder = us();
        let text = holder.to_text();
        assert_eq!(LeaseHolder::parse(&text), Some(holder.clone()));
        for end in 0..text.len() {
            assert_eq!(LeaseHolder::parse(&text[..end]), None, "the first {end} bytes");
        }
        assert_ne!(holder.token, us().token);
    }

    #[test]
    fn a_live_process_is_not_dead_and_no_other_host_is() {
        let (host, holder) = (Host::this().unwrap(), us());
        assert!(!host.knows_to_be_dead(&holder));
        assert!(host.knows_to_be_dead(&LeaseHolder { started: holder.started + 1, ..holder.clone() }));
        let after = Host { machine: "m".into(), boot: "now".into(), ..Host::this().unwrap() };
        let before = LeaseHolder { machine: "m".into(), boot: "before".into(), ..holder };
        assert!(after.knows_to_be_dead(&before));
        let copied = Host { name: "copy".into(), ..after };
        assert!(!copied.knows_to_be_dead(&before));
        let nameless = Host { name: before.host.clone(), machine: String::new(), ..copied };
        assert!(!nameless.knows_to_be_dead(&LeaseHolder { machine: String::new(), ..before }));
    }

    #[test]
    fn the_start_of_a_process_is_behind_its_name() {
        let fields = |state: &str| format!("7 (a) b) {state} {} 4711 0", ["0"; 18].join(" "));
        assert_eq!(start_in(&fields("S")), Some(4711));
        assert_eq!(start_in(&fields("Z")), None);
        assert_eq!(start_in("7"), None);
    }
}
