//! `snapshot`: a new image that continues another.

use std::{
    fs,
    path::{Path, PathBuf},
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use command_line::{Flag, Options, Syntax, Value};
use control_api::errno;
use image_format::vhd::{
    CreateOptions, DiskType, KeyHash, ParentLink, UNUSED_ENTRY, disk_bytes_rounded, relative_path,
};
use rustix::io::Errno;
use storage_io::Access;

use super::{
    Failure, IMAGE, Session, TABLES,
    creating::{Target, check_disk_bytes, new_image, timestamp},
    mebibytes, name,
    opened::{Demands, OpenedVhd},
    parents::{Identity, Parent, chain_of, open_raw, parent_of},
};

pub(super) const SYNTAX: Syntax = Syntax {
    name: "snapshot",
    about: "Make an image that continues another",
    text: "\
Makes a differencing image: a disk that starts as what *parent* is now. \
Everything is looked at before anything is written; a snapshot that cannot be made leaves no trace. \
It never replaces an image that it would read from.",
    flags: &[
        IMAGE.explained("The new image."),
        Flag::letter(b'p', "parent").with(Value::file("parent")).required().explained(
            "The image to continue. If it is a differencing image that holds no block, the image that *it* continues is \
             taken in its place, and so on; the size of the disk stays that of *parent*.",
        ),
        Flag::letter(b'm', "the parent is raw").explained("*parent* is raw: the bytes of a disk and nothing else."),
        Flag::letter(b'e', "even if the parent is empty").explained("Take *parent* even if it is empty."),
        Flag::letter(b'l', "longest chain")
            .with(Value::text("depth"))
            .explained("Fail with status 28 if the new chain would have more images than this."),
        TABLES,
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let wanted = Snapshot {
        child: name(options, b'n')?,
        parent: name(options, b'p')?,
        disk_bytes: None,
        reserved_bytes: mebibytes(options, b'S')?.filter(|bytes| *bytes > 0),
        depth_max: options.wide_number(b'l').filter(|limit| *limit != 0),
        is_parent_raw: options.has(b'm'),
        skips_empty: !options.has(b'e'),
    };
    Ok(session.executor.block_on(wanted.make(session))?)
}

/// A snapshot for people: of exactly this parent, with a disk that may be larger than the parent's.
pub(super) fn make(session: &Session, child: &Path, parent: &Path, raw: bool, disk_bytes: Option<u64>) -> Result<()> {
    let wanted = Snapshot {
        child,
        parent,
        disk_bytes,
        reserved_bytes: None,
        depth_max: None,
        is_parent_raw: raw,
        skips_empty: false,
    };
    session.executor.block_on(wanted.make(session))
}

/// What was asked for.
struct Snapshot<'a> {
    child: &'a Path,
    parent: &'a Path,
    /// The parent's if not told.
    disk_bytes: Option<u64>,
    reserved_bytes: Option<u64>,
    depth_max: Option<i64>,
    is_parent_raw: bool,
    skips_empty: bool,
}

/// The image that the child will continue, as far as the child must know it.
pub(super) struct Backing {
    pub(super) parent: Parent,
    pub(super) link: ParentLink,
    disk_bytes: u64,
    pub(super) identity: Identity,
    /// An encrypted disk stays one.
    key_hash: Option<KeyHash>,
    /// Open, if it is a VHD.
    pub(super) vhd: Option<OpenedVhd>,
}

impl Snapshot<'_> {
    /// Looks at everything first: a snapshot that cannot be made leaves no trace.
    async fn make(&self, session: &Session) -> Result<()> {
        let named = session.files.canonical(&session.executor, self.parent).await?;
        let parent = if self.is_parent_raw || !self.skips_empty {
            Parent { path: named.clone(), is_raw: self.is_parent_raw }
        } else {
            skip_empty(session, named.clone()).await?
        };
        let mut disk_bytes = None;
        if parent.path != named {
            // Chains may grow from image to image: the child is as large as the image that was named.
            let named = OpenedVhd::open(session, &named, Access::Read, Demands::default()).await?;
            disk_bytes = Some(disk_bytes_rounded(named.footer.disk_bytes())?);
        }
        let child = canonical_child(session, self.child).await?;
        let backing = Backing::open(session, parent, &child).await?;
        self.check_depth(session, &backing).await?;
        let disk_bytes = disk_bytes.unwrap_or(backing.disk_bytes);
        let disk_bytes = self.check_disk(disk_bytes)?;
        check_disk_bytes(disk_bytes.max(self.reserved_bytes.unwrap_or(0))).context(self.child.display())?;
        let image = CreateOptions {
            disk_bytes,
            reserved_bytes: self.check_reserve(disk_bytes)?,
            parent: Some(backing.link.clone()),
            ..new_image()?
        };
        let target = Target::open(session, self.child).await?;
        match check_target(session, &target, &backing).await {
            Ok(()) => target.write(session, &image, backing.key_hash).await,
            Err(error) => {
                target.give_up();
                Err(error)
            }
        }
    }

    async fn check_depth(&self, session: &Session, backing: &Backing) -> Result<()> {
        let (Some(limit), Some(vhd)) = (self.depth_max, &backing.vhd) else { return Ok(()) };
        let chain = chain_of(session, vhd).await;
        let depth = chain.inspect_err(|error| {
            session.say(format!("error checking snapshot depth: -{}", errno(error)));
        })?;
        let depth = depth.len();
        if i64::try_from(depth).is_ok_and(|depth| depth < limit) {
            return Ok(());
        }
        let words = format!("snapshot depth exceeded: current depth: {depth}, limit: {limit}");
        session.say(&words);
        Err(Error::new(ErrorKind::NoSpace, words).context(self.child.display()))
    }

    /// The size of the child's disk: exactly its parent's, or what was told, which may not be smaller.
    fn check_disk(&self, parent_bytes: u64) -> Result<u64> {
        let Some(told) = self.disk_bytes else { return Ok(parent_bytes) };
        let disk_bytes = disk_bytes_rounded(told)?;
        if disk_bytes < parent_bytes {
            let words = format!("a disk of {disk_bytes} bytes is smaller than its parent's of {parent_bytes}");
            return Err(Error::new(ErrorKind::Invalid, words).context(self.child.display()));
        }
        Ok(disk_bytes)
    }

    fn check_reserve(&self, disk_bytes: u64) -> Result<u64> {
        match self.reserved_bytes {
            Some(reserved) if disk_bytes_rounded(reserved)? < disk_bytes => {
                let words = format!("-S is less than the {disk_bytes} bytes of the parent");
                Err(Error::new(ErrorKind::Invalid, words))
            }
            reserved => Ok(reserved.unwrap_or(0)),
        }
    }
}

/// The first image on the way down from `path` that a child has something to read in: an empty one only makes chains
/// longer.
async fn skip_empty(session: &Session, path: PathBuf) -> Result<Parent> {
    let mut seen: Vec<Identity> = Vec::new();
    let mut path = path;
    loop {
        let vhd = OpenedVhd::open(session, &path, Access::Read, Demands::default()).await?;
        let identity = vhd.storage.limits().identity;
        if seen.contains(&identity) {
            let words = format!("{}: the chain leads back to it", path.display());
            return Err(Error::from_os(words, Errno::LOOP.into()));
        }
        seen.push(identity);
        let is_empty = vhd.footer.disk_type() == DiskType::Differencing
            && vhd.table(&session.executor).await?.iter().all(|entry| *entry == UNUSED_ENTRY);
        if !is_empty {
            return Ok(Parent { path, is_raw: false });
        }
        match parent_of(session, &vhd).await? {
            Some(parent) if parent.is_raw => return Ok(parent),
            Some(parent) => path = parent.path,
            None => return Ok(Parent { path, is_raw: false }),
        }
    }
}

impl Backing {
    pub(super) async fn open(session: &Session, parent: Parent, child: &Path) -> Result<Backing> {
        let changed = fs::metadata(&parent.path).and_then(|metadata| metadata.modified());
        let changed = changed.context(parent.path.display())?;
        let name = parent.path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::new(ErrorKind::Unsupported, "a name that is not UTF-8"));
        let name = name.context(parent.path.display())?.to_owned();
        let path = relative_path(child, &parent.path)?;
        let mut link = ParentLink { uuid: None, timestamp: timestamp(changed)?, name, path };
        if parent.is_raw {
            let (identity, disk_bytes) = open_raw(session, &parent.path).await?;
            return Ok(Backing { parent, link, disk_bytes, identity, key_hash: None, vhd: None });
        }
        let vhd = OpenedVhd::open(session, &parent.path, Access::Read, Demands::default()).await?;
        link.uuid = Some(vhd.footer.uuid());
        let (identity, disk_bytes) = (vhd.storage.limits().identity, vhd.footer.disk_bytes());
        // A batmap that cannot be read may hide a key, and a child without its hash would be written in the clear.
        let key_hash = vhd.batmap_header(&session.executor).await?.and_then(|batmap| batmap.key_hash());
        Ok(Backing { parent, link, disk_bytes, identity, key_hash, vhd: Some(vhd) })
    }
}

/// Where the child will be, once it is there.
async fn canonical_child(session: &Session, path: &Path) -> Result<PathBuf> {
    match session.files.canonical(&session.executor, path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return other,
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| Error::new(ErrorKind::Invalid, "names no file"));
    let name = name.context(path.display())?;
    Ok(session.files.canonical(&session.executor, directory).await?.join(name))
}

/// The child must not replace an image that it is to read.
async fn check_target(session: &Session, target: &Target, backing: &Backing) -> Result<()> {
    if target.is_new {
        return Ok(());
    }
    let identity = target.storage.limits().identity;
    let below = match &backing.vhd {
        // Further down, what cannot be opened cannot be overwritten either.
        Some(vhd) => chain_of(session, vhd).await.unwrap_or_default(),
        None => Vec::new(),
    };
    if identity != backing.identity && !below.contains(&identity) {
        return Ok(());
    }
    let words = format!("{} is read through it", backing.parent.path.display());
    Err(Error::new(ErrorKind::Invalid, words))
}
