//! The command line: few words, since everything about disks comes through the control socket.

use std::ffi::{OsStr, OsString};

use command_line::{Flag, HELP, Program, Syntax, Value};
use storage_io::EngineChoice;

use crate::rings::{BUDGET_VARIABLE, BudgetChoice, PLATFORM_VARIABLE, Platform};

/// Says which engine does the I/O, where the command line does not.
pub(crate) const ENGINE_VARIABLE: &str = "OXTAP_ENGINE";

/// With 1 in it, says what `--retry-eio` says.
pub(crate) const RETRY_EIO_VARIABLE: &str = "OXTAP_RETRY_EIO";

const ENGINES: &[&str] = &["probe", "io_uring", "libaio", "threads"];

const SYNTAX: Syntax = Syntax {
    name: "",
    about: "Serve disk images to virtual machines and NBD clients",
    text: "",
    flags: &[
        Flag::letter(b'D', "stay in the foreground").explained("Stay in the foreground."),
        Flag::long("engine", "how to do I/O: probe (the default: the first that works), io_uring, libaio or threads")
            .with(Value::one_of("name", ENGINES))
            .explained(
                "How to do I/O: `io_uring`, `libaio`, `threads`, or `probe` for the first of them that works here, which \
                 is the default.",
            ),
        Flag::long("retry-eio", "take EIO for something that may pass, also on files and devices").explained(
            "Takes input/output errors and timeouts for something that may pass, also on files and block devices (on \
             network file systems they always may): with several paths to a device, another may take over. Requests that \
             fail so are tried again until their time is over. A disk may be opened with another wish.",
        ),
        Flag::long("no-jail", "keep all capabilities and system calls, for debuggers").explained(
            "Give nothing up, see JAIL. For debuggers and instrumented builds; a script that `$TAPDISK` names can add it. \
             With `OXTAP_IMAGE_DIRS` set it does not start: the two contradict each other.",
        ),
        HELP.explained("Print the usage."),
    ],
    operands: &[],
};

/// What stands in the environment, for those who did not get it right.
const ENVIRONMENT: &str = "\
in the environment:
  OXTAP_ENGINE=NAME         what --engine says
  OXTAP_RETRY_EIO=1         what --retry-eio says
  OXTAP_XEN=hosted:DIRECTORY  guests are processes of this host, which has no Xen
  OXTAP_GRANT_BUDGET=PAGES  what all tapdisks of this host map and copy of guests at one time; off: this one takes what
                            it needs
  OXTAP_IMAGE_DIRS=LIST     the only directories with images; not with --no-jail
";

/// What the program understands.
pub fn program() -> Program {
    Program {
        name: "tapdisk",
        section: 8,
        about: SYNTAX.about,
        commands: vec![SYNTAX],
        common: &[],
        page: include_str!("../manual/tapdisk.roff"),
    }
}

pub(crate) fn usage() -> String {
    let lines = SYNTAX.flags.iter().map(|flag| {
        let value = flag.value.map(|value| format!(" {}", value.name.to_uppercase())).unwrap_or_default();
        format!("  {:<14}  {}\n", flag.name() + &value, flag.words)
    });
    format!("usage: tapdisk [OPTIONS]\n{}{ENVIRONMENT}", lines.collect::<String>())
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// Run.
    Run(Options),
    /// Show the usage.
    Help,
}

/// How to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) in_foreground: bool,
    pub(crate) engine: EngineChoice,
    pub(crate) is_jailed: bool,
    /// Whether EIO may pass on local storage, of disks that are opened without a word about it.
    pub(crate) retry_eio: bool,
    /// Where guests' rings come from.
    pub(crate) platform: Platform,
    /// What the processes of this host use together.
    pub(crate) budget: BudgetChoice,
}

/// Reads the command line, and from the environment what that does not say. None: it was not understood.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<Arguments> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let mut options = Options {
        in_foreground: false,
        engine: variable(ENGINE_VARIABLE).map_or(Some(EngineChoice::Probe), |name| engine_of(&name))?,
        is_jailed: true,
        retry_eio: variable(RETRY_EIO_VARIABLE).map_or(Some(false), |value| switch_of(&value))?,
        platform: variable(PLATFORM_VARIABLE).map_or(Some(Platform::Xen), Platform::parse)?,
        budget: variable(BUDGET_VARIABLE).map_or(Some(BudgetChoice::Usual), BudgetChoice::parse)?,
    };
    let given = SYNTAX.parse(&arguments.into_iter().collect::<Vec<_>>())?;
    if given.has(b'h') {
        return Some(Arguments::Help);
    }
    if given.has_operands() {
        return None;
    }
    options.in_foreground = given.has(b'D');
    options.is_jailed = !given.has("no-jail");
    options.retry_eio |= given.has("retry-eio");
    options.engine = given.value("engine").map_or(Some(options.engine), engine_of)?;
    Some(Arguments::Run(options))
}

fn switch_of(value: &OsStr) -> Option<bool> {
    match value.to_str()? {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
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

    /// With this engine in the environment.
    fn read(line: &str, engine: &str) -> Option<Arguments> {
        read_with(line, ENGINE_VARIABLE, engine)
    }

    fn read_with(line: &str, variable: &str, value: &str) -> Option<Arguments> {
        let lookup = |name: &str| (name == variable).then(|| value.into());
        parse(line.split_whitespace().map(OsString::from), lookup)
    }

    fn run(in_foreground: bool, engine: EngineChoice) -> Option<Arguments> {
        Some(Arguments::Run(Options {
            in_foreground,
            engine,
            is_jailed: true,
            retry_eio: false,
            platform: Platform::Xen,
            budget: BudgetChoice::Usual,
        }))
    }

    fn options(arguments: Option<Arguments>) -> Option<Options> {
        match arguments? {
            Arguments::Run(options) => Some(options),
            Arguments::Help => None,
        }
    }

    #[test]
    fn the_jail_is_left_out_only_if_told() {
        let options = options(read("--no-jail -D", "")).unwrap();
        assert!(!options.is_jailed && options.in_foreground);
        assert_eq!(read("--no-jail=yes", ""), None);
    }

    #[test]
    fn errors_that_may_pass_are_told_by_either() {
        let retries =
            |line, value| options(read_with(line, RETRY_EIO_VARIABLE, value)).map(|options| options.retry_eio);
        assert_eq!(["", "0", "1"].map(|value| retries("", value)), [Some(false), Some(false), Some(true)]);
        assert_eq!(retries("--retry-eio", "0"), Some(true));
        assert_eq!(retries("", "yes"), None);
    }

    #[test]
    fn a_budget_that_makes_no_sense_is_refused() {
        let budget = |value| options(read_with("", BUDGET_VARIABLE, value)).map(|options| options.budget);
        assert_eq!(budget(""), Some(BudgetChoice::Usual));
        assert_eq!(budget("off"), Some(BudgetChoice::Off));
        assert_eq!(budget("1"), None);
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
