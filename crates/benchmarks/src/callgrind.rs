//! Instructions of a program, counted by callgrind: they repeat exactly where times do not.

use std::{
    env,
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// `PR_GET_AUXV` of `prctl`, which callgrind does not know: what the kernel says names memory that is not the program's
/// under callgrind.
const GET_AUXV: u64 = 0x4155_5856;
const SYS_PRCTL_X86_64: i64 = 157;
const SYS_PRCTL_AARCH64: i64 = 167;

/// Runs a program, which must succeed, with its words in a directory; its instructions.
///
/// # Errors
/// What went wrong, in words.
pub(crate) fn count(valgrind: &Path, directory: &Path, words: &[impl AsRef<OsStr>]) -> Result<u64, String> {
    let mut command = Command::new(valgrind);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).args(words);
    command.current_dir(directory).stdin(Stdio::null());
    let output =
        on_an_older_kernel(|| command.output())?.map_err(|error| format!("{}: {error}", valgrind.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // The last line but one: "==7== Collected : 1234567".
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    match collected.and_then(|(_, count)| count.trim().parse().ok()) {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(format!("under callgrind: {}: {said}", output.status)),
    }
}

/// Does something on a thread for which, and for whose children, the kernel is as old as callgrind.
fn on_an_older_kernel<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    let filter = older_kernel().map_err(|error| error.to_string())?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            apply_filter(&filter).map_err(|error| error.to_string())?;
            Ok(work())
        });
        thread.join().expect("it only starts a program")
    })
}

fn older_kernel() -> Result<BpfProgram, seccompiler::BackendError> {
    let prctl = if env::consts::ARCH == "aarch64" { SYS_PRCTL_AARCH64 } else { SYS_PRCTL_X86_64 };
    let asks = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, GET_AUXV)?;
    let calls = [(prctl, vec![SeccompRule::new(vec![asks])?])].into();
    let unknown = SeccompAction::Errno(rustix::io::Errno::INVAL.raw_os_error().unsigned_abs());
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, unknown, env::consts::ARCH.try_into()?)?;
    filter.try_into()
}
