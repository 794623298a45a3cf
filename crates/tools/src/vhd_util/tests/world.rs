//! A directory of images that can crash: names are real, and what they hold is in memory.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard},
};

use block_core::{Error, FileOffset, Origin, Result};
use futures_util::future::{LocalBoxFuture, ready};
use rustix::io::Errno;
use storage_io::{
    Access, CrashPoint, CrashStorage, CreateMode, EngineChoice, Executor, FaultScript, FaultyStorage, Hold, Limits,
    OpenOptions, Opener, Pending, Storage, StorageExt, StorageOperation,
};

use super::super::{
    COMMANDS, Failure, Session, VHD_UTIL,
    opened::{Demands, OpenedVhd},
    parents::parent_of,
};

pub(super) const BLOCK: usize = 2 << 20;
const SECTORS: usize = BLOCK / 512;
/// Blocks of a disk that are looked at.
const BLOCKS: usize = 4;

/// An instant between two changes: the files that there are, and what a crash may leave of each.
pub(super) type Moment = BTreeMap<PathBuf, CrashPoint>;
/// What one crash has left.
pub(super) type Files = BTreeMap<PathBuf, CrashStorage>;

/// The directory. Its files are empty: what is in them is here.
#[derive(Clone)]
pub(super) struct World {
    directory: Rc<tempfile::TempDir>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: Files,
    script: FaultScript,
    /// All moments so far, if they are wanted.
    moments: Option<Vec<Moment>>,
    /// How often each file was opened.
    opened: BTreeMap<PathBuf, usize>,
}

impl State {
    fn moment(&self) -> Moment {
        let there = self.files.iter().filter(|(path, _)| path.exists());
        there.map(|(path, storage)| (path.clone(), storage.crash_point())).collect()
    }
}

impl World {
    pub(super) fn new() -> World {
        let directory = tempfile::Builder::new().prefix("oxtap-crash-").tempdir().unwrap();
        World { directory: Rc::new(directory), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    /// A session of which files are here.
    fn session(&self) -> Session {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        Session { executor, files: Rc::new(self.clone()), speaker: VHD_UTIL, said: Default::default() }
    }

    /// Runs a command; a word that begins with `@` is a file here.
    pub(super) fn run(&self, line: &str) -> Result<()> {
        let word = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.path(name).into_os_string(),
            None => OsString::from(word),
        };
        let mut words = line.split_whitespace().map(word);
        let name = words.next().unwrap();
        let command = COMMANDS.iter().find(|command| name == command.syntax.name).unwrap();
        let options = command.syntax.parse(&words.collect::<Vec<_>>()).unwrap();
        (command.run)(&self.session(), &options).map_err(|failure| match failure {
            Failure::Error(error) => error,
            Failure::Usage => panic!("usage: {line}"),
        })
    }

    /// Runs what must work.
    pub(super) fn make(&self, line: &str) {
        self.run(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }

    /// Runs a command and notes every moment; how it ended, and the moments.
    pub(super) fn watch(&self, line: &str) -> (Result<()>, Vec<Moment>) {
        self.state().moments = Some(Vec::new());
        let ended = self.run(line);
        let mut state = self.state();
        let mut moments = state.moments.take().unwrap();
        moments.push(state.moment());
        (ended, moments)
    }

    /// The rules by which storages fail.
    pub(super) fn script(&self) -> FaultScript {
        self.state().script.clone()
    }

    /// How often a file was opened since the last question.
    pub(super) fn times_opened(&self, name: &str) -> usize {
        self.state().opened.remove(&self.path(name)).unwrap_or(0)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// What there is now, all of it durable.
    pub(super) fn files(&self) -> Files {
        let state = self.state();
        state.moment().into_iter().map(|(path, point)| (path, point.killed(0))).collect()
    }

    /// Goes on from what a crash has left.
    pub(super) fn restore(&self, files: Files) {
        let mut state = self.state();
        for path in state.files.keys().filter(|path| !files.contains_key(*path) && path.exists()) {
            fs::remove_file(path).unwrap();
        }
        for path in files.keys().filter(|path| !path.exists()) {
            File::create_new(path).unwrap();
        }
        state.files = files;
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.state().files[&self.path(name)].to_vec()
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        File::create(&path).unwrap();
        self.state().files.insert(path, CrashStorage::from_bytes(bytes));
    }

    /// Writes over a part of a file.
    pub(super) fn patch(&self, name: &str, offset: usize, bytes: &[u8]) {
        let mut all = self.bytes(name);
        all[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.put(name, &all);
    }

    /// Gives a block at the end of an image these runs of sectors: first, how many, and the byte that fills them.
    pub(super) fn give(&self, name: &str, block: usize, runs: &[(usize, usize, u8)]) {
        let mut image = self.bytes(name);
        let footer = image.split_off(image.len() - 512);
        let start = (image.len() + 512).next_multiple_of(4096) - 512;
        image.resize(start + 512 + BLOCK, 0);
        image[1536 + block * 4..][..4].copy_from_slice(&u32::try_from(start / 512).unwrap().to_be_bytes());
        for (sector, byte) in
            runs.iter().flat_map(|&(first, count, byte)| (first..first + count).map(move |sector| (sector, byte)))
        {
            image[start + sector / 8] |= 0x80 >> (sector % 8);
            image[start + 512 + sector * 512..][..512].fill(byte);
        }
        image.extend(footer);
        self.put(name, &image);
    }

    /// The names of an image and of those below it.
    fn chain(&self, leaf: &str) -> Vec<PathBuf> {
        let session = self.session();
        let mut chain = vec![self.path(leaf)];
        session.executor.block_on(async {
            loop {
                let last = chain.last().unwrap().clone();
                let demands = Demands { disabled: true, ..Demands::default() };
                let vhd = OpenedVhd::open(&session, &last, Access::Read, demands).await.unwrap();
                let Some(parent) = parent_of(&session, &vhd).await.unwrap() else { return };
                assert!(chain.len() < 9, "the chain of {leaf} has an end");
                chain.push(parent.path);
            }
        });
        chain
    }

    /// The first byte of each sector of the first blocks of a disk, and of a chain as it is stored now; read by a few lines
    /// that know nothing of the program's own code.
    pub(super) fn disk(&self, leaf: &str) -> Vec<u8> {
        let mut disk = vec![None; BLOCKS * SECTORS];
        for path in self.chain(leaf) {
            let storage = self.state().files[&path].clone();
            let read = |offset: usize, length: usize| read(&storage, offset, length);
            let table = read(1536, 512);
            for block in 0..BLOCKS {
                let entry = u32::from_be_bytes(table[block * 4..][..4].try_into().unwrap());
                if entry == u32::MAX {
                    continue;
                }
                let bytes = read(entry as usize * 512, 512 + BLOCK);
                for sector in (0..SECTORS).filter(|sector| bytes[sector / 8] & (0x80 >> (sector % 8)) != 0) {
                    disk[block * SECTORS + sector].get_or_insert(bytes[512 + sector * 512]);
                }
            }
        }
        disk.into_iter().map(Option::unwrap_or_default).collect()
    }

    fn find(&self, path: &Path, options: OpenOptions) -> Result<Arc<dyn Storage>> {
        let failed = |errno: Errno| Err(Error::from_os(path.display().to_string(), errno.into()));
        match (path.exists(), options.create) {
            (true, CreateMode::New) => return failed(Errno::EXIST),
            (false, CreateMode::No) => return failed(Errno::NOENT),
            (false, _) => {
                File::create_new(path)?;
                self.state().files.insert(path.canonicalize()?, CrashStorage::new(0));
            }
            (true, _) => {}
        }
        let (mut state, name) = (self.state(), path.canonicalize()?);
        *state.opened.entry(name.clone()).or_default() += 1;
        let faulty = FaultyStorage::new(Arc::new(state.files[&name].clone()), state.script.clone());
        Ok(Arc::new(Watched { inner: faulty, state: self.state.clone() }))
    }
}

/// Bytes of a storage, with zeroes behind its end.
fn read(storage: &CrashStorage, offset: usize, length: usize) -> Vec<u8> {
    let executor = Executor::new(EngineChoice::Inline).unwrap();
    let there = usize::try_from(storage.length()).unwrap().saturating_sub(offset).min(length);
    let read = storage.read_bytes(&executor, FileOffset::new(offset as u64), there);
    let mut bytes = executor.block_on(read).unwrap();
    bytes.resize(length, 0);
    bytes
}

impl Opener for World {
    fn open(
        &self,
        _executor: &Executor,
        path: &Path,
        options: OpenOptions,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Storage>>> {
        Box::pin(ready(self.find(path, options)))
    }

    fn canonical(&self, _executor: &Executor, path: &Path) -> LocalBoxFuture<'static, Result<PathBuf>> {
        let name = path.canonicalize().map_err(|error| Error::from_os(path.display().to_string(), error));
        Box::pin(ready(name))
    }
}

/// Notes a moment before each change.
struct Watched {
    inner: FaultyStorage,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Storage for Watched {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        if operation.changes() || matches!(operation, StorageOperation::Sync) {
            let mut state = self.state.lock().unwrap();
            let moment = state.moments.is_some().then(|| state.moment());
            if let (Some(moments), Some(moment)) = (&mut state.moments, moment) {
                moments.push(moment);
            }
        }
        self.inner.submit(executor, operation, hold)
    }

    fn length(&self) -> u64 {
        self.inner.length()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn origin(&self) -> Origin {
        self.inner.origin()
    }
}
