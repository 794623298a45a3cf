//! `check`: whether an image obeys the rules of its format, and its parents with it.
//!
//! ```text
//!   image --rules of the format--> its parent: resolved, of the recorded identity, no loop --(-p)--> the same for the parent
//!     |
//!     +--(--repair-plan)--> `repair`, made on a copy in memory: what it would write
//! ```
//!
//! What is said is text, whatever the image holds.

use std::{
    cell::RefCell,
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use block_core::{Error, ErrorKind, FileOffset, Result};
use command_line::{Flag, Options, Syntax};
use control_api::errno;
use image_format::vhd::{self, CheckOptions, DiskType, FOOTER_BYTES, Verdict};
use rustix::io::Errno;
use serde_json::Value;
use storage_io::{Access, CreateMode, LockPolicy, OpenOptions, RehearsalStorage, Storage};

use super::{
    Failure, IMAGE, Session, check_statistics,
    creating::timestamp,
    headers::Headers,
    json::{self, JSON},
    name,
    opened::{Demands, OpenedVhd},
    parents::{Identity, Parent, chain_of, open_raw, parent_of, stored_parent_of},
    repair::repair,
};
use crate::progress::{Measure, Progress};

pub(super) const SYNTAX: Syntax = Syntax {
    name: "check",
    about: "Say whether an image obeys the rules of its format",
    text: "\
Says whether an image obeys the rules of its format: \"*image* is valid\", or the first rule that is broken, \
\"*image* appears invalid; dumping metadata\", and its headers as `read -p` shows them, if it has any. Nothing is written. \
A batmap that cannot be believed is taken for absent, as every reader takes it; a line on standard error says so.",
    flags: &[
        IMAGE.explained("The image to check."),
        Flag::letter(b'i', "a lost footer is fine").explained(
            "A footer at the end that is not valid will do: another program may have the image open.",
        ),
        Flag::letter(b'I', "whatever the parent is").explained("Whatever the parent is, as long as there is one."),
        Flag::letter(b't', "whatever the time is").explained("Whatever the time is: images from the future will do."),
        Flag::letter(b'p', "the parents too").explained("All parents, too."),
        Flag::letter(b'b', "what is not there is zero")
            .explained("What the bitmaps say is not there must be zero. Reads the whole image."),
        Flag::letter(b'B', "not the table").explained("Not the table of blocks. Not with `-b` or `-s`."),
        Flag::letter(b's', "how much is written").explained(
            "Says how many sectors are allocated and written instead; with `-p` also how many of them are in no parent. \
             The base comes first.",
        ),
        Flag::letter(b'R', "what repair would do")
            .or_long("repair-plan")
            .explained("Says what `repair` would write and where, found by repairing a copy in memory."),
        JSON.explained(
            "One JSON object: `image`, `valid`, the lines that are said otherwise as `messages`, `problems`, and `error` if it is \
             not valid. A problem has an `image`, a `kind` (`file`, `primary_footer`, `backup_footer`, `footers`, `header`, `size`, \
             `batmap`, `table`, `bitmap`, `parent_locators`, `parent` or `image`), a `text`, and whether `repair` puts it right: \
             `repairable`. Where a rule is broken, what comes behind it was not looked at.",
        ),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    if options.has(b'B') && (options.has(b's') || options.has(b'b')) {
        return Err(Failure::Usage);
    }
    let now = if options.has(b't') { None } else { Some(timestamp(SystemTime::now())?) };
    let check = Check {
        session,
        rules: CheckOptions {
            lost_footer: options.has(b'i'),
            now,
            no_table: options.has(b'B'),
            bitmaps: options.has(b'b'),
        },
        ignores_parents: options.has(b'I'),
        counts: options.has(b's'),
        plans: options.has("repair-plan"),
        problems: options.has("json").then(RefCell::default),
    };
    let result = session.executor.block_on(check.all(name, options.has(b'p')));
    if let Some(problems) = &check.problems {
        session.say_json(&json::verdict(name, session.take_back(), problems.take(), &result));
    }
    Ok(result?)
}

/// How the step of a plan begins that helps nothing.
const LEAVES_INVALID: &str = "would leave it invalid";

struct Check<'a> {
    session: &'a Session,
    rules: CheckOptions,
    ignores_parents: bool,
    /// Says how much is written instead of what is valid.
    counts: bool,
    /// Says what `repair` would do.
    plans: bool,
    /// What is wrong, if it is to be told as values. Else the headers of what is not valid are shown.
    problems: Option<RefCell<Vec<Value>>>,
}

impl Check<'_> {
    /// The image, and with `parents` all below it.
    async fn all(&self, name: &Path, parents: bool) -> Result<()> {
        let mut checked = vec![name.to_path_buf()];
        let mut next = self.one(name, true).await?;
        if parents {
            let below = self.parents(&mut next, &mut checked).await;
            below.inspect_err(|error| self.session.say(format!("error checking parents: -{}", errno(error))))?;
        }
        if self.counts { check_statistics::say(self.session, &checked).await } else { Ok(()) }
    }

    async fn parents(&self, next: &mut Option<Parent>, checked: &mut Vec<PathBuf>) -> Result<()> {
        let mut seen: Vec<Identity> = Vec::new();
        while let Some(parent) = next.take().filter(|parent| !parent.is_raw) {
            let identity = self.open(&parent.path).await?.limits().identity;
            if seen.contains(&identity) {
                self.note(&parent.path, "parent", "the chain leads back to it", false);
                return Err(leads_back(&parent.path));
            }
            seen.push(identity);
            *next = self.one(&parent.path, false).await?;
            checked.push(parent.path);
        }
        Ok(())
    }

    /// One image; its parent is told if it has one that is to be looked at. The leaf may be without a valid footer at its
    /// end, since it may be in use; what is only read has one.
    async fn one(&self, name: &Path, is_leaf: bool) -> Result<Option<Parent>> {
        self.look_at_file(name)?;
        let storage = self.open(name).await.inspect_err(|error| {
            self.session.say(format!("error opening {}: {}", name.display(), errno(error)));
            self.note(name, "file", &super::words(error), false);
        })?;
        let verdict = self.verdict(&storage, is_leaf).await?;
        for remark in &verdict.remarks {
            self.session.warn(format!("{}: {remark}: taken for absent, `repair` makes it anew", name.display()));
            self.note(name, "batmap", remark, true);
        }
        if self.plans {
            self.plan(name, &storage).await;
        }
        let found = match &verdict.problem {
            Some(problem) => {
                self.session.say(readable(problem));
                if self.problems.is_some() {
                    let is_mended = self.would_mend(name, &storage).await;
                    self.note(name, json::kind_of(problem), &readable(problem), is_mended);
                }
                Err(Error::new(ErrorKind::Corrupt, readable(problem)).context(name.display()))
            }
            None => self.parent(name, &verdict).await.inspect_err(|error| {
                self.note(name, "parent", &readable(&super::words(error)), false);
            }),
        };
        if found.is_err() {
            self.say_invalid(name, &storage).await;
        }
        let next = found?;
        let is_fixed = verdict.footer.is_some_and(|footer| footer.disk_type() == DiskType::Fixed);
        if !self.counts && !is_fixed {
            self.session.say(format!("{} is valid", name.display()));
        }
        Ok(next)
    }

    async fn say_invalid(&self, name: &Path, storage: &Arc<dyn Storage>) {
        self.session.say(format!("{} appears invalid; dumping metadata", name.display()));
        let (executor, demands) = (&self.session.executor, Demands { disabled: true, ..Demands::default() });
        if self.problems.is_some() {
            return;
        }
        // An image without headers has nothing to show.
        if let Ok(vhd) = OpenedVhd::read(executor, storage.clone(), name, demands).await
            && let Ok(headers) = Headers::of(executor, &vhd).await
        {
            self.session.say_unended(&headers.render(false));
        }
    }

    fn note(&self, name: &Path, kind: &str, text: &str, repairable: bool) {
        if let Some(problems) = &self.problems {
            problems.borrow_mut().push(json::problem(name, kind, text, repairable));
        }
    }

    fn look_at_file(&self, name: &Path) -> Result<()> {
        let kind = match fs::metadata(name) {
            Ok(metadata) => metadata.file_type(),
            Err(error) => {
                let error = Error::from_os(name.display().to_string(), error);
                self.session.say(format!("cannot stat {}: {}", name.display(), errno(&error)));
                self.note(name, "file", &super::words(&error), false);
                return Err(error);
            }
        };
        if kind.is_file() || kind.is_block_device() {
            return Ok(());
        }
        let words = format!("{} is not a regular file or block device", name.display());
        self.session.say(&words);
        self.note(name, "file", &words, false);
        Err(Error::new(ErrorKind::Invalid, words))
    }

    async fn open(&self, path: &Path) -> Result<Arc<dyn Storage>> {
        let options =
            OpenOptions { access: Access::Read, direct: true, lock: LockPolicy::None, create: CreateMode::No };
        self.session.files.open(&self.session.executor, path, options).await
    }

    async fn verdict(&self, storage: &Arc<dyn Storage>, is_leaf: bool) -> Result<Verdict> {
        let rules = CheckOptions { lost_footer: self.rules.lost_footer && is_leaf, ..self.rules };
        let progress = Progress::begin("check", Measure::Bytes, 0);
        let watch = |bytes, total| {
            progress.set_total(total);
            progress.advance(bytes);
        };
        vhd::check(&self.session.executor, storage, rules, &watch).await
    }

    /// The parent that the image names, if it is the one that it was made from.
    async fn parent(&self, name: &Path, verdict: &Verdict) -> Result<Option<Parent>> {
        let is_child = verdict.footer.as_ref().is_some_and(|footer| footer.disk_type() == DiskType::Differencing);
        if !is_child {
            return Ok(None);
        }
        let demands = Demands { copy_only: true, ..Demands::default() };
        let child = OpenedVhd::open(self.session, name, Access::Read, demands).await?;
        let parent = match parent_of(self.session, &child).await {
            Ok(Some(parent)) => parent,
            Ok(None) => return Ok(None),
            Err(error) => {
                let stored = stored_parent_of(self.session, &child).await.ok().flatten().unwrap_or_default();
                self.session.say(format!("error resolving {}: -{}", readable(&stored), errno(&error)));
                return Err(error);
            }
        };
        if !self.ignores_parents {
            let fits = self.fits(&child, &parent).await;
            fits.inspect_err(|error| {
                let words = super::words(error);
                self.session.say(readable(&format!("invalid parent {}: {words}", parent.path.display())));
            })?;
        }
        Ok(Some(parent))
    }

    async fn fits(&self, child: &OpenedVhd, parent: &Parent) -> Result<()> {
        if parent.is_raw {
            open_raw(self.session, &parent.path).await?;
            return Ok(());
        }
        let demands = Demands { disabled: true, ..Demands::default() };
        let vhd = OpenedVhd::open(self.session, &parent.path, Access::Read, demands).await?;
        let expected = child.header.as_ref().and_then(|header| header.parent_uuid());
        if expected.is_some_and(|expected| expected != vhd.footer.uuid()) {
            let expected = expected.unwrap_or_default();
            let words = format!("its uuid is {}, not {expected}", vhd.footer.uuid());
            return Err(Error::new(ErrorKind::Mismatch, words));
        }
        match chain_of(self.session, child).await {
            Err(error) if error.os_error() == Some(Errno::LOOP.raw_os_error()) => Err(error),
            // What is missing further down is no fault of this image.
            _ => Ok(()),
        }
    }

    /// Makes the repair in memory, and says what came of it.
    async fn plan(&self, name: &Path, storage: &Arc<dyn Storage>) {
        let say = |words: String| self.session.say(format!("repair: {words}"));
        match self.rehearse(name, storage).await {
            Ok(steps) if steps.is_empty() => say("would change nothing".to_owned()),
            Ok(steps) => steps.into_iter().for_each(say),
            Err(error) => say(readable(&format!("cannot help: {}", super::words(&error)))),
        }
    }

    /// Whether what `repair` makes of it is valid.
    async fn would_mend(&self, name: &Path, storage: &Arc<dyn Storage>) -> bool {
        let steps = self.rehearse(name, storage).await;
        steps.is_ok_and(|steps| !steps.is_empty() && !steps.iter().any(|step| step.starts_with(LEAVES_INVALID)))
    }

    async fn rehearse(&self, name: &Path, storage: &Arc<dyn Storage>) -> Result<Vec<String>> {
        let executor = &self.session.executor;
        let rehearsal = RehearsalStorage::new(storage.clone());
        let shown: Arc<dyn Storage> = Arc::new(rehearsal.clone());
        let vhd = OpenedVhd::read(executor, shown.clone(), name, Demands::default()).await?;
        repair(self.session, &vhd).await?;
        let batmap = vhd.batmap_place();
        let end = FileOffset::new(shown.length().saturating_sub(FOOTER_BYTES as u64));
        let mut steps = Vec::new();
        for run in rehearsal.changes(executor).await? {
            let what = match run.start() {
                start if start == FileOffset::new(0) => "the copy of the footer at the start",
                start if start == end => "the footer at the end",
                start if batmap.is_some_and(|batmap| start >= batmap && start < end) => "the batmap",
                _ => "tables",
            };
            steps.push(format!("would write {what}: {} bytes at {:#x}", run.length(), run.start().get()));
        }
        if shown.length() != storage.length() {
            let verb = if shown.length() < storage.length() { "cut" } else { "extend" };
            steps.push(format!("would {verb} the file to {} bytes", shown.length()));
        }
        if let Some(problem) = self.verdict(&shown, false).await?.problem {
            steps.push(readable(&format!("{LEAVES_INVALID}: {problem}")));
        }
        Ok(steps)
    }
}

fn leads_back(path: &Path) -> Error {
    Error::from_os(format!("{}: the chain leads back to it", path.display()), Errno::LOOP.into())
}

/// Text that a terminal and a parser take as it is.
pub(super) fn readable(words: &str) -> String {
    words.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
