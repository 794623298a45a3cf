//! `copy`: a new image with what another has, encrypted or as it is stored.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use command_line::{Flag, Options, Syntax, Value};
use control_api::errno;
use image_chain::Coalesce;
use image_format::{
    Format, Image,
    vhd::{CreateOptions, DiskKey, DiskType, ParentLink, VhdImage, relative_path},
};
use rustix::io::Errno;
use storage_io::{Access, EngineChoice, Executor};
use zeroize::Zeroizing;

use super::{
    Failure, Session,
    coalesce::shortcut,
    creating::{Target, new_image},
    key::{key_hash, read_key},
    opened::{Demands, OpenedVhd},
    parents::parent_of,
};
use crate::progress::{Measure, Progress};

/// Bytes of a block, as the line for people counts them.
const GRANULE: u64 = 2 << 20;
/// More than any key has.
const KEY_BYTES_MAX: u64 = 65;

pub(super) const SYNTAX: Syntax = Syntax {
    name: "copy",
    about: "Make a new image of what another has",
    text: "\
Makes an image of the same type and size that holds what another holds; its parent, if it has one, stays the same. \
With a key the copy is encrypted. Without one it is as the image is, also if that is encrypted. \
A copy that fails leaves no trace.",
    flags: &[
        Flag::letter(b'n', "name").with(Value::file("image")).required().explained("The image to copy."),
        Flag::letter(b'N', "name of the copy")
            .with(Value::file("copy"))
            .required()
            .explained("The new image; it must not be there."),
        Flag::letter(b'k', "file of the key")
            .with(Value::file("file"))
            .explained("Encrypt with the key in this file; see `key`."),
        Flag::letter(b'E', "the key is on stdin")
            .explained("Encrypt with the key that is on standard input: 32 or 64 bytes."),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let (Some(from), Some(to)) = (options.value(b'n'), options.value(b'N')) else {
        let _ = writeln!(io::stderr(), "Must supply both existing and new VHD names");
        return Err(Failure::Usage);
    };
    let key = match (options.value(b'k'), options.has(b'E')) {
        (Some(_), true) => return Err(Failure::Usage),
        (Some(file), false) => Some(read_key(Path::new(file))?),
        (None, true) => Some(key_on_stdin()?),
        (None, false) => None,
    };
    let opened = session.executor.block_on(OpenedVhd::open(session, Path::new(from), Access::Read, Demands::default()));
    let source = opened.inspect_err(|error| session.say_unopened(from, error))?;
    let copy = Copy { session, source, to: Path::new(to), key };
    Ok(copy.make().inspect_err(|error| {
        session.say(format!("error creating {}: -{}", copy.to.display(), errno(error)));
    })?)
}

fn key_on_stdin() -> Result<DiskKey> {
    let mut key = Zeroizing::new(Vec::with_capacity(usize::try_from(KEY_BYTES_MAX).expect("a few bytes")));
    io::stdin().take(KEY_BYTES_MAX).read_to_end(&mut key).context("standard input")?;
    DiskKey::new(&key)
}

struct Copy<'a> {
    session: &'a Session,
    source: OpenedVhd,
    to: &'a Path,
    key: Option<DiskKey>,
}

impl Copy<'_> {
    fn make(&self) -> Result<()> {
        let executor = &self.session.executor;
        let stored = executor.block_on(key_hash(self.session, &self.source))?;
        if self.key.is_some() && (stored.is_some() || self.source.footer.disk_type() == DiskType::Fixed) {
            let words = format!("{}: is fixed or encrypted, and cannot be encrypted", self.source.path.display());
            return Err(Error::new(ErrorKind::Invalid, words));
        }
        let hash = self.key.as_ref().map(|key| key.hash([0; 32])).or(stored);
        let target = executor.block_on(Target::open(self.session, self.to))?;
        if !target.is_new {
            return Err(Error::from_os(self.to.display().to_string(), Errno::EXIST.into()));
        }
        let storage = target.storage.clone();
        let options = match executor.block_on(self.options()) {
            Ok(options) => options,
            Err(error) => {
                target.give_up();
                return Err(error);
            }
        };
        executor.block_on(target.write(self.session, &options, hash))?;
        self.fill(storage).inspect_err(|_| {
            // The failure that led here is the one to report.
            let _ = fs::remove_file(self.to);
        })
    }

    /// The new image: as large as the source, with room in its tables for as much, and with the same parent.
    async fn options(&self) -> Result<CreateOptions> {
        let footer = &self.source.footer;
        let parent = match (&self.source.header, parent_of(self.session, &self.source).await?) {
            (Some(header), Some(parent)) => {
                let name = parent.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let path = relative_path(&self.canonical(self.to).await?, &parent.path)?;
                Some(ParentLink { uuid: header.parent_uuid(), timestamp: header.parent_timestamp(), name, path })
            }
            _ => None,
        };
        let entries = self.source.header.as_ref().map_or(0, |header| header.table_entries());
        Ok(CreateOptions {
            disk_bytes: footer.disk_bytes(),
            reserved_bytes: u64::from(entries) * GRANULE,
            fixed: footer.disk_type() == DiskType::Fixed,
            parent,
            ..new_image()?
        })
    }

    async fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.session.files.canonical(&self.session.executor, path).await
    }

    fn fill(&self, storage: std::sync::Arc<dyn storage_io::Storage>) -> Result<()> {
        let executor = Executor::new(EngineChoice::Probe)?;
        let (from, to) = (self.source.path.canonicalize()?, self.to.canonicalize()?);
        executor.block_on(async {
            let source = VhdImage::open_as_stored(&executor, self.source.storage.clone(), &from, Access::Read).await;
            let source = source.context(self.source.path.display())?;
            let target =
                VhdImage::open_as_stored(&executor, storage, &to, Access::Write).await.context(self.to.display())?;
            let target = Image::Vhd(target);
            let way = if self.key.is_some() { None } else { shortcut(&source, &target, &from, &to) };
            let source = Image::Vhd(source);
            let work = Coalesce { child: &source, parent: &target, shortcut: way.as_ref(), key: self.key.as_ref() };
            let progress = Progress::begin("copy", Measure::Bytes, 0);
            let watch = |done: u64, total: u64| {
                progress.set_total(total * GRANULE);
                progress.advance(done * GRANULE);
            };
            work.run(&executor, &watch).await?;
            // Also an image that holds nothing is left as readers expect it.
            target.flush(&executor).await
        })
    }
}
