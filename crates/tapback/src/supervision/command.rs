//! Help by a command: one that pauses the guest, say, or calls somebody.

use std::{
    ffi::OsString,
    os::fd::AsFd,
    pin::pin,
    process::{Command, Stdio},
    time::Duration,
};

use block_core::{Error, Result, ResultExt};
use futures_util::future::{Either, LocalBoxFuture, select};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use std::os::unix::process::CommandExt;
use storage_io::Executor;

use super::{Casualty, Rescue, Rescued, exit::reaped};

/// Runs a command by the shell when a tapdisk has gone, with the device in its environment:
///
/// | variable | |
/// | --- | --- |
/// | `OXTAP_DOMAIN`, `OXTAP_DEVICE` | the guest, and its number for the device |
/// | `OXTAP_PID`, `OXTAP_MINOR` | the tapdisk that has gone, and the disk's number |
/// | `XENBUS_PATH` | the device's directory in XenStore |
///
/// If it ends with status 0, it has taken care of the device: nothing is told to the guest until the device's nodes name
/// another disk. With another status, or when it is ended since it has taken too long, the guest is told.
#[derive(Clone, Debug)]
pub struct RunCommand {
    executor: Executor,
    command: OsString,
    time_max: Duration,
}

impl RunCommand {
    /// This command, which may take so long.
    pub fn new(executor: &Executor, command: impl Into<OsString>, time_max: Duration) -> RunCommand {
        RunCommand { executor: executor.clone(), command: command.into(), time_max }
    }

    async fn run(self, casualty: Casualty) -> Result<Rescued> {
        let child = Command::new("/bin/sh")
            .arg("-c")
            .arg(&self.command)
            .env("OXTAP_DOMAIN", casualty.device.domain.to_string())
            .env("OXTAP_DEVICE", casualty.device.device.to_string())
            .env("OXTAP_PID", casualty.disk.pid.to_string())
            .env("OXTAP_MINOR", casualty.disk.minor.to_string())
            .env("XENBUS_PATH", &casualty.directory)
            .stdin(Stdio::null())
            // With all that it starts.
            .process_group(0)
            .spawn()
            .context("the command for a tapdisk that has gone")?;
        let pid = Pid::from_child(&child);
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed("it cannot be watched", error))?;
        let status = {
            let ended = pin!(reaped(&self.executor, process.as_fd()));
            match select(ended, pin!(self.executor.sleep(self.time_max))).await {
                Either::Left((status, _)) => Some(status.context("waiting for the command")?),
                Either::Right(_) => None,
            }
        };
        match status {
            Some(Some(0)) => Ok(Rescued::Waiting),
            Some(Some(status)) => Err(failed(format!("it ended with status {status}"), Errno::CHILD)),
            Some(None) => Err(failed("it was ended by a signal", Errno::CHILD)),
            None => {
                // Nobody has waited for it, so its number is still its own.
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = reaped(&self.executor, process.as_fd()).await;
                let words = format!("it was ended after {} s", self.time_max.as_secs());
                Err(failed(words, Errno::TIMEDOUT))
            }
        }
    }
}

fn failed(words: impl Into<String>, errno: Errno) -> Error {
    Error::from_os(format!("the command for a tapdisk that has gone: {}", words.into()), errno.into())
}

impl Rescue for RunCommand {
    fn help(&self, casualty: Casualty) -> LocalBoxFuture<'static, Result<Rescued>> {
        Box::pin(self.clone().run(casualty))
    }
}

#[cfg(test)]
mod tests {
    use storage_io::EngineChoice;
    use xen::DomainId;

    use super::*;
    use crate::{DeviceName, Disk};

    fn run(command: &str, time_max: Duration) -> (Result<Rescued>, String) {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let place = tempfile::tempdir().unwrap();
        let written = place.path().join("written");
        let casualty = Casualty {
            device: DeviceName::new(&"vbd3".into(), DomainId(7), 51712),
            directory: "/local/domain/0/backend/vbd3/7/51712".into(),
            disk: Disk { pid: 4711, minor: 3 },
        };
        let command = RunCommand::new(&executor, command.replace("OUT", written.to_str().unwrap()), time_max);
        let result = executor.block_on(command.help(casualty));
        (result, std::fs::read_to_string(written).unwrap_or_default())
    }

    #[test]
    fn the_command_is_told_which_device_it_is() {
        let words = "echo $OXTAP_DOMAIN $OXTAP_DEVICE $OXTAP_PID $OXTAP_MINOR $XENBUS_PATH > OUT";
        let (result, told) = run(words, Duration::from_secs(60));
        assert_eq!(result.unwrap(), Rescued::Waiting);
        assert_eq!(told, "7 51712 4711 3 /local/domain/0/backend/vbd3/7/51712\n");
    }

    #[test]
    fn a_command_that_fails_has_not_helped() {
        assert!(run("exit 3", Duration::from_secs(60)).0.unwrap_err().to_string().contains("status 3"));
        assert!(run("kill -9 $$", Duration::from_secs(60)).0.unwrap_err().to_string().contains("signal"));
    }

    #[test]
    fn a_command_that_does_not_end_is_ended_with_all_that_it_has_started() {
        let begun = std::time::Instant::now();
        let (result, _) = run("sleep 1000 & sleep 1000", Duration::from_millis(50));
        assert!(result.unwrap_err().to_string().contains("ended after"));
        assert!(begun.elapsed() < Duration::from_secs(100), "it was not waited for");
    }
}
