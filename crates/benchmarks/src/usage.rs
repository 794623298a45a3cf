//! What threads and processes use: CPU time and memory.

use std::{fs, time::Duration};

use block_core::{Error, ErrorKind, Result, ResultExt};
use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};

/// CPU time of this process so far, of all its threads: also those that have ended, and those that the kernel runs for it.
pub(crate) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).expect("CPU time is not negative");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("less than a second"))
}

/// CPU time of another process so far, of all its threads that are there: also those that the kernel runs for it.
pub(crate) fn process_cpu(pid: u32) -> Result<Duration> {
    let directory = format!("/proc/{pid}/task");
    let mut nanoseconds = 0;
    for thread in fs::read_dir(&directory).context(&directory)? {
        let path = thread.context(&directory)?.path().join("schedstat");
        // A thread may have ended meanwhile.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        nanoseconds += text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The same with threads that have ended, in steps of a hundredth of a second.
pub(crate) fn process_cpu_with_the_ended(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).context(&path)?;
    // Behind the name, which may have blanks and parentheses: its own time is the 14th field, the kernel's for it the next.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    let ticks: Vec<u64> = fields.into_iter().flatten().filter_map(|field| field.parse().ok()).collect();
    let [user, system] = ticks[..] else { return Err(Error::new(ErrorKind::Invalid, format!("{path}: no times"))) };
    Ok(Duration::from_secs(user + system) / u32::try_from(clock_ticks_per_second()).unwrap_or(100))
}

/// Memory of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// All that is in memory, in KiB.
    pub(crate) resident: f64,
    /// What it has written, in KiB: its own, however many processes run the same program.
    pub(crate) own: f64,
}

pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).context(&path)?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        number.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{path}: no {name}")))
    };
    Ok(Memory { resident: field("Rss:")?, own: field("Private_Dirty:")? })
}
