//! Running other programs: words on the screen, errors with the command in them.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Runs a command with our own output, and fails if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {}", words(command)))?;
    ensure!(status.success(), "{} failed ({status})", words(command));
    Ok(())
}

/// What a command prints on its standard output; its errors go to the screen.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {}", words(command)))?;
    ensure!(output.status.success(), "{} failed ({})", words(command), output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{} printed something else than text", words(command)))
}

/// Whether a command succeeds; nothing is shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a command, shows what it prints as it comes, and lets `see` read each line. True if it succeeds.
///
/// Output and errors are one stream, so that `see` knows the order. It is over when the command has ended: a process
/// that somebody forgot may keep the stream open for ever.
pub(crate) fn watch(command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool> {
    let name = words(command);
    let (mut output, input) = std::io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    // The command keeps its writing ends until it gets others; the stream would not end before.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut chunk = vec![0; 1 << 16];
    let mut line = Vec::new();
    loop {
        // Asked before looking at the stream: what an ended command has written is in there already.
        let ended = child.try_wait().with_context(|| format!("cannot wait for {name}"))?;
        if !is_readable(&output)? {
            match ended {
                Some(status) => return Ok(status.success()),
                None => continue,
            }
        }
        let count = output.read(&mut chunk).with_context(|| format!("cannot read from {name}"))?;
        if count == 0 {
            return Ok(child.wait().with_context(|| format!("cannot wait for {name}"))?.success());
        }
        std::io::stdout().write_all(&chunk[..count])?;
        std::io::stdout().flush()?;
        for piece in chunk[..count].split_inclusive(|&byte| byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                see(String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        }
    }
}

/// Whether there is something to read, or the end; waits a moment for it.
fn is_readable(stream: &impl AsFd) -> Result<bool> {
    let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&moment)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("cannot wait for output"),
    }
}

/// A command as it would be typed, shortened to its program's name and arguments.
pub(crate) fn words(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(script: &str) -> (bool, Vec<String>) {
        let mut lines = Vec::new();
        let succeeded = watch(Command::new("sh").args(["-c", script]), |line| lines.push(line.to_owned())).unwrap();
        (succeeded, lines)
    }

    #[test]
    fn output_and_errors_are_seen_in_order() {
        let expected = ["one", "two", "three"].map(str::to_owned).to_vec();
        assert_eq!(seen("echo one; echo two >&2; echo three"), (true, expected));
        assert_eq!(seen("exit 3"), (false, Vec::new()));
    }

    #[test]
    fn a_forgotten_process_does_not_hold_up_the_end() {
        // It names itself, so that it can be ended here.
        let (succeeded, lines) = seen("sleep 600 & echo $!");
        assert!(succeeded);
        let forgotten = test_support::ProcessGuard::new(lines[0].parse().unwrap()).unwrap();
        assert!(!forgotten.wait_for_end(std::time::Duration::ZERO).unwrap());
    }
}
