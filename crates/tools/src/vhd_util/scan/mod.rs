//! `scan`: one line for each of many images, as storage managers read them.
//!
//! ```text
//!   files, globs, volumes --> targets --look--> line, or an error line --> a list, or a tree (-p)
//!                                ^      |
//!                                +-(-a)-+ parents that are named
//! ```
//!
//! With `-f`, and always for a logical volume, an image is known by one read of its start. A chain that leads back to
//! itself ends where it meets an image that was looked at.

mod glob;
mod look;
mod tree;
mod volumes;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use block_core::Error;
use command_line::{Flag, Operand, Options, Syntax, Value};
use control_api::errno;
use serde_json::{Value as Json, json};

use self::{
    look::{Look, Seen, Trouble},
    volumes::Volume,
};
use super::{
    Failure, Session,
    check::readable,
    json::{JSON, failure},
};
use crate::progress::{Measure, Progress};

pub(super) const SYNTAX: Syntax = Syntax {
    name: "scan",
    about: "Show many images, one line each",
    text: "\
Prints one line for each image, in the order in which they are named or, for a glob, sorted:\n\n\
`vhd=`*name* `capacity=`*bytes* `size=`*bytes* `hidden=`*0|1* `parent=`*name|none*\n\n\
`vhd=`*name* `scan-error=`*number* `error-message=`'*words*'\n\n\
A parent that is not where it should be is no error.",
    flags: &[
        Flag::letter(b'm', "glob").with(Value::text("glob")).explained(
            "Images that fit a pattern; quote it, so that the shell leaves it alone. Knows braces, and the extended \
             patterns of `fnmatch`.",
        ),
        Flag::letter(b'f', "what the start of an image says will do")
            .explained("What the first sectors of an image say will do; the names are in the order of the directory."),
        Flag::letter(b'c', "go on after an error")
            .explained("Go on after an image that cannot be read, and end with status 0."),
        Flag::letter(b'l', "volume group").with(Value::text("group")).explained(
            "The names are those of logical volumes of this group, which need not be active: `vgs` and `lvs` are asked \
             where they lie. For a volume the start always counts.",
        ),
        Flag::letter(b'p', "as a tree").explained(
            "As a tree: children three blanks behind their parent, hidden ones last. Takes no notice of `-f`.",
        ),
        Flag::letter(b'a', "parents that are named, too")
            .explained("Parents that are named by what is found, too. A raw one counts as hidden."),
        Flag::letter(b'v', "whole paths").explained("Names as they were given, and whole paths of parents."),
        Flag::letter(b'M', "markers and key hashes")
            .explained("The marker and the hash of the key, before the parent."),
        JSON.explained(
            "One JSON array of what was found, in the order of the lines: `image`, `capacity_bytes`, `size_bytes`, `hidden`, \
             `parent` (or null), with `-M` `marker` and `key_hash`; of an image that cannot be read `image` and `error`.",
        ),
    ],
    operands: &[Operand::file("image").repeated()],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let pattern = options.value(b'm');
    if pattern.is_none() && options.operands().is_empty() {
        return Err(Failure::Usage);
    }
    let is_tree = options.has(b'p');
    let scan = Scan {
        session,
        group: options.value(b'l').map(OsStr::to_os_string),
        is_fast: options.has(b'f') && !is_tree,
        goes_on: options.has(b'c'),
        with_parents: options.has(b'a'),
        is_verbose: options.has(b'v'),
        with_markers: options.has(b'M'),
        is_tree,
        listed: options.has("json").then(RefCell::default),
    };
    let targets = scan.targets(pattern, options.operands()).inspect_err(complain)?;
    let result = scan.all(targets);
    if let Some(listed) = scan.listed {
        session.say_json(&listed.take().into());
    }
    Ok(result?)
}

/// The line on stderr that storage managers log.
fn complain(error: &Error) {
    let _ = writeln!(io::stderr(), "scan failed: -{}. Check syslog for details", errno(error));
}

/// What to look at.
#[derive(Clone, Debug)]
struct Target {
    /// As it was given, or found.
    name: PathBuf,
    volume: Option<Volume>,
    /// Named as a parent that is no VHD.
    is_raw: bool,
}

/// What was asked for.
struct Scan<'a> {
    session: &'a Session,
    group: Option<OsString>,
    is_fast: bool,
    goes_on: bool,
    with_parents: bool,
    is_verbose: bool,
    with_markers: bool,
    is_tree: bool,
    /// What is said as JSON, if it is.
    listed: Option<RefCell<Vec<Json>>>,
}

impl Scan<'_> {
    /// What is named, and what fits the pattern.
    fn targets(&self, pattern: Option<&OsStr>, names: &[OsString]) -> block_core::Result<Vec<Target>> {
        let file = |name: PathBuf| Target { name, volume: None, is_raw: false };
        let Some(group) = &self.group else {
            let found = pattern.map(|pattern| glob::files(pattern, !self.is_fast)).unwrap_or_default();
            return Ok(names.iter().map(PathBuf::from).chain(found).map(file).collect());
        };
        let volumes = volumes::of(group)?;
        let wanted: Vec<&OsStr> = pattern.into_iter().chain(names.iter().map(OsString::as_os_str)).collect();
        let fits = |volume: &Volume, wanted: &OsStr| {
            // A volume may be named by its path.
            let last = Path::new(wanted).file_name().unwrap_or(wanted);
            glob::fits(last.as_bytes(), volume.name.as_bytes())
        };
        let fitting = volumes.iter().filter(|volume| wanted.iter().any(|wanted| fits(volume, wanted)));
        Ok(fitting.map(|volume| volume_target(volume, false)).collect())
    }

    /// Looks at all of them, and at those that they lead to.
    fn all(&self, mut targets: Vec<Target>) -> block_core::Result<()> {
        let look = Look { session: self.session, is_fast: self.is_fast, with_markers: self.with_markers };
        let volumes = match &self.group {
            Some(group) if self.with_parents => volumes::of(group)?,
            _ => Vec::new(),
        };
        let progress = Progress::begin("scan", Measure::Things("images"), targets.len() as u64);
        let mut met: BTreeSet<PathBuf> = targets.iter().map(|target| self.identity(target)).collect();
        let mut seen = Vec::new();
        let mut failure = None;
        let mut next = 0;
        while let Some(target) = targets.get(next).cloned() {
            next += 1;
            progress.advance(1);
            match self.session.executor.block_on(look.at(&target, self.group.as_deref())) {
                Ok(found) => {
                    let parent = if self.with_parents { self.parent_of(&found, &volumes) } else { None };
                    if let Some(parent) = parent.filter(|parent| met.insert(self.identity(parent))) {
                        targets.push(parent);
                        progress.set_total(targets.len() as u64);
                    }
                    if let Some(listed) = &self.listed {
                        listed.borrow_mut().push(self.entry(&found));
                    } else if !self.is_tree {
                        self.session.say(self.line(&found));
                    }
                    seen.push(found);
                }
                Err(trouble) => {
                    self.say_trouble(&target, &trouble);
                    if !self.goes_on {
                        failure = Some(trouble.error);
                        break;
                    }
                }
            }
        }
        drop(progress);
        if self.is_tree {
            tree::lines(&seen, |found| self.line(found)).into_iter().for_each(|line| self.session.say(line));
        }
        failure.map_or(Ok(()), Err)
    }

    /// What a target is known by, whatever path leads to it.
    fn identity(&self, target: &Target) -> PathBuf {
        match &target.volume {
            Some(volume) => PathBuf::from(&volume.name),
            None => target.name.canonicalize().unwrap_or_else(|_| target.name.clone()),
        }
    }

    fn parent_of(&self, found: &Seen, volumes: &[Volume]) -> Option<Target> {
        let parent = found.parent.as_ref()?;
        match &self.group {
            Some(_) => {
                let volume = volumes.iter().find(|volume| parent.name == *volume.name)?;
                Some(volume_target(volume, parent.is_raw))
            }
            None => Some(Target { name: parent.path.clone()?, volume: None, is_raw: parent.is_raw }),
        }
    }

    /// What is said of an image.
    fn line(&self, found: &Seen) -> String {
        let (name, parent) = (self.name_of(found), self.parent_name_of(found).unwrap_or_else(|| "none".to_owned()));
        let marks = match &found.marks {
            None => String::new(),
            Some((marker, hash)) => format!(" marker={marker} keyhash={hash}"),
        };
        let Seen { capacity, size, hidden, .. } = found;
        readable(&format!("vhd={name} capacity={capacity} size={size} hidden={hidden}{marks} parent={parent}"))
    }

    fn name_of(&self, found: &Seen) -> String {
        match &found.volume {
            Some(volume) => volume.clone(),
            None if !self.is_verbose => base(&found.name),
            None if self.is_tree => found.canonical.display().to_string(),
            None => found.name.display().to_string(),
        }
    }

    fn parent_name_of(&self, found: &Seen) -> Option<String> {
        let parent = found.parent.as_ref()?;
        Some(match &parent.path {
            Some(path) if self.is_verbose && !self.is_fast && self.group.is_none() => path.display().to_string(),
            _ => parent.name.clone(),
        })
    }

    /// The same as JSON.
    fn entry(&self, found: &Seen) -> Json {
        let Seen { capacity, size, hidden, .. } = found;
        let mut entry = json!({"image": self.name_of(found), "capacity_bytes": capacity, "size_bytes": size,
                               "hidden": hidden, "parent": self.parent_name_of(found)});
        if let Some((marker, hash)) = &found.marks {
            entry["marker"] = json!(marker);
            entry["key_hash"] = json!(hash.to_string());
        }
        entry
    }

    fn say_trouble(&self, target: &Target, trouble: &Trouble) {
        let number = errno(&trouble.error);
        let name = match &target.volume {
            Some(volume) => volume.name.clone(),
            None => target.name.display().to_string(),
        };
        if let Some(listed) = &self.listed {
            let error = failure(&trouble.error);
            listed.borrow_mut().push(json!({"image": name, "error": error}));
            return;
        }
        self.session.say(readable(&format!("vhd={name} scan-error=-{number} error-message='{}'", trouble.words)));
        if trouble.is_missing && !self.goes_on {
            complain(&trouble.error);
        }
    }
}

fn volume_target(volume: &Volume, is_raw: bool) -> Target {
    Target { name: PathBuf::from(&volume.name), volume: Some(volume.clone()), is_raw }
}

fn base(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
