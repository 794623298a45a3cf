//! The command line: few words, since everything about disks comes through the control socket.

use std::ffi::{OsStr, OsString};

use storage_io::EngineChoice;

/// Says which engine does the I/O, where the command line does not.
pub(crate) const ENGINE_VARIABLE: &str = "OXTAP_ENGINE";

pub(crate) const USAGE: &str = "\
usage: tapdisk [-D] [-h] [--engine NAME] [--no-jail]
  -D             stay in the foreground
  -h             show this
  --engine NAME  how to do I/O: probe (the default: the first that works), io_uring, libaio or threads;
                 OXTAP_ENGINE in the environment says the same
  --no-jail      keep all capabilities and system calls, and do without OXTAP_IMAGE_DIRS: for debuggers
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// Run.
    Run {
        /// In the foreground.
        in_foreground: bool,
        /// With this engine.
        engine: EngineChoice,
        /// Locked in.
        is_jailed: bool,
    },
    /// Show the usage.
    Help,
}

/// Reads the command line and the engine from the environment. None: it was not understood.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>, variable: Option<OsString>) -> Option<Arguments> {
    let (mut in_foreground, mut is_jailed) = (false, true);
    let mut engine = match variable {
        Some(name) if !name.is_empty() => engine_of(&name)?,
        _ => EngineChoice::Probe,
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.to_str()? {
            "-h" => return Some(Arguments::Help),
            "-D" => in_foreground = true,
            "--no-jail" => is_jailed = false,
            "--engine" => engine = engine_of(&arguments.next()?)?,
            other => engine = engine_of(OsStr::new(other.strip_prefix("--engine=")?))?,
        }
    }
    Some(Arguments::Run { in_foreground, engine, is_jailed })
}

fn engine_of(name: &OsStr) -> Option<EngineChoice> {
    match name.to_str()? {
        "probe" => Some(EngineChoice::Probe),
        "io_uring" => Some(EngineChoice::IoUring),
        "libaio" => Some(EngineChoice::Libaio),
        "threads" => Some(EngineChoice::Threads),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, variable: &str) -> Option<Arguments> {
        parse(line.split_whitespace().map(OsString::from), Some(variable.into()))
    }

    fn run(in_foreground: bool, engine: EngineChoice) -> Option<Arguments> {
        Some(Arguments::Run { in_foreground, engine, is_jailed: true })
    }

    #[test]
    fn the_jail_is_left_out_only_if_told() {
        let open = Arguments::Run { in_foreground: true, engine: EngineChoice::Probe, is_jailed: false };
        assert_eq!(read("--no-jail -D", ""), Some(open));
        assert_eq!(read("--no-jail=yes", ""), None);
    }

    #[test]
    fn the_command_line_wins_over_the_environment() {
        assert_eq!(read("", ""), run(false, EngineChoice::Probe));
        assert_eq!(read("-D", "threads"), run(true, EngineChoice::Threads));
        assert_eq!(read("--engine libaio", "threads"), run(false, EngineChoice::Libaio));
        assert_eq!(read("--engine=io_uring -D", ""), run(true, EngineChoice::IoUring));
    }

    #[test]
    fn whatever_else_is_refused() {
        for line in ["-x", "image.vhd", "--engine", "--engine aio", "-D x"] {
            assert_eq!(read(line, ""), None, "{line}");
        }
        assert_eq!(read("", "aio"), None);
        assert_eq!(read("-D -h", ""), Some(Arguments::Help));
    }
}
