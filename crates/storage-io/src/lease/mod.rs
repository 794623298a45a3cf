//! Leases: records beside an image that say who writes to it, where its file system knows no lock, or none that other hosts see.
//!
//! ```text
//!   a.vhd
//!   a.vhd.lease.1    whoever has the record with the highest number writes; it is made with a name that nobody has yet
//!
//!   take:     look -- all that there are belong to the dead? --no--> busy, by whom, and how to break it
//!                        |
//!                     make the next number -- look again: nothing else than before? --no--> give it back, busy
//!                        |
//!                     remove those of the dead: held
//!   write:    not looked for two seconds? the record must still be ours, or nothing is written any more
//!   give up:  remove it
//! ```
//!
//! Two never hold a lease at once: who looks again after making a record either sees the other's, or made it first. A
//! record is never taken over, only followed by one with a higher number, so a decision about the dead that is
//! late harms nobody. It goes with the open file, after the last operation on that, as a lock would.
//!
//! A lease dies with its process: that is seen on the same host only, also after that has been started again. Another host
//! may be cut off and alive, so its lease is broken by a person alone. The holder finds out before it writes.

mod holder;

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};

pub use holder::LeaseHolder;
use holder::{Host, RECORD_BYTES_MAX};

/// No write begins later than this after its lease was last seen to be there.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Whoever has broken a lease waits so long before anybody else writes.
pub const LEASE_BREAK_PAUSE: Duration = Duration::from_secs(5);
/// The kernel goes on writing what a process had under way that was killed: so long is waited for that.
const DEAD_WRITES_PAUSE: Duration = Duration::from_secs(3);
/// A record without a holder, as old as this, is what somebody left who was killed while he made it.
const MAKING_MAX: Duration = Duration::from_secs(10);
/// Stands between the name of an image and the number of a record.
const MARK: &[u8] = b".lease.";

/// One record of a lease, as it lies beside an image.
#[derive(Clone, Debug)]
pub struct LeaseRecord {
    number: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Who has it; none if it does not say so.
    pub holder: Option<LeaseHolder>,
    /// Whether its holder is known to be no more, so that it is in nobody's way.
    pub is_dead: bool,
    text: Vec<u8>,
    /// Its holder was a process of this host since that was started: the kernel may still be writing for it.
    was_here: bool,
}

impl LeaseRecord {
    /// The records beside an image, in the order of their numbers. The last one counts.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn all_of(image: &Path) -> Result<Vec<LeaseRecord>> {
        let image = image.canonicalize().context(image.display())?;
        all_of(&image, &Host::this()?)
    }

    /// Takes it away, unless it is another by now. Its holder, if there is one, stops writing within
    /// [`LEASE_BREAK_PAUSE`].
    ///
    /// # Errors
    /// What the operating system says.
    pub fn remove(&self) -> Result<()> {
        remove_if(&self.path, &self.text).context(self.path.display())
    }

    fn is_same(&self, other: &LeaseRecord) -> bool {
        self.number == other.number && self.text == other.text
    }

    fn refusal(&self) -> Error {
        let who = match &self.holder {
            Some(holder) => format!("is in use by {holder}, says {}", self.path.display()),
            None => format!("is in use, says {}, but not by whom", self.path.display()),
        };
        Error::new(ErrorKind::Busy, format!("{who}; if that is no more true: oxtap lease --force IMAGE"))
    }
}

/// The right to write to an image, as long as its record is there. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    text: Vec<u8>,
    is_lost: bool,
}

impl Lease {
    /// Takes the lease of `image`, which is its one name. Waits for nobody but the kernel.
    ///
    /// # Errors
    /// `Busy`, without an error of the operating system: another has it, or wants it at the same time.
    pub(crate) fn take(image: &Path) -> Result<Lease> {
        Lease::take_with(image, DEAD_WRITES_PAUSE)
    }

    fn take_with(image: &Path, dead_writes: Duration) -> Result<Lease> {
        let host = Host::this()?;
        let before = all_of(image, &host)?;
        if let Some(held) = before.iter().find(|record| !record.is_dead) {
            return Err(held.refusal());
        }
        let number = before.last().map_or(1, |last| last.number + 1);
        let lease = Lease::make(record_of(image, number), host.this_process()?.to_text())?;
        if before.iter().any(|record| record.was_here) {
            thread::sleep(dead_writes);
        }
        let is_known = |record: &LeaseRecord| before.iter().any(|known| known.is_same(record));
        let (ours, others): (Vec<_>, Vec<_>) =
            all_of(image, &host)?.into_iter().partition(|record| record.path == lease.path);
        if ours.is_empty() || !others.iter().all(is_known) {
            return Err(contended());
        }
        for record in &before {
            // One that stays is in nobody's way.
            let _ = record.remove();
        }
        Ok(lease)
    }

    fn make(path: PathBuf, text: Vec<u8>) -> Result<Lease> {
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(contended()),
            file => file.context("making its lease record").context(path.display())?,
        };
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        if let Err(error) = written {
            let _ = fs::remove_file(&path);
            return Err(error).context("writing its lease record").context(path.display());
        }
        Ok(Lease { path, text, is_lost: false })
    }

    /// Whether its record is still there.
    ///
    /// # Errors
    /// `NotPermitted` if it is not, now and ever after; else what the operating system says, and it may be asked again.
    pub(crate) fn look(&mut self) -> Result<()> {
        if !self.is_lost {
            match read(&self.path) {
                Ok(text) if text == self.text => return Ok(()),
                Err(error) if !is_gone(&error) => return Err(error).context("looking at its lease record"),
                _ => self.is_lost = true,
            }
        }
        Err(Error::new(ErrorKind::NotPermitted, "its lease was broken: another may write to it by now"))
    }

    /// Whether it was seen to be broken.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Gives it back.
    ///
    /// # Errors
    /// What the operating system says; then the record is still there.
    pub(crate) fn give_up(&self) -> io::Result<()> {
        if self.is_lost { Ok(()) } else { remove_if(&self.path, &self.text) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What stays is seen to be of the dead when this process has gone.
        let _ = self.give_up();
    }
}

fn contended() -> Error {
    Error::new(ErrorKind::Busy, "another wants its lease at the same time")
}

fn record_of(image: &Path, number: u64) -> PathBuf {
    let mut name = OsString::from(image);
    name.push(OsStr::from_bytes(MARK));
    name.push(number.to_string());
    name.into()
}

fn number_in(name: &[u8], image: &[u8]) -> Option<u64> {
    let digits = name.strip_prefix(image)?.strip_prefix(MARK)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn all_of(image: &Path, host: &Host) -> Result<Vec<LeaseRecord>> {
    let (Some(directory), Some(name)) = (image.parent(), image.file_name()) else { return Ok(Vec::new()) };
    let mut records = Vec::new();
    for entry in fs::read_dir(directory).context(directory.display())? {
        let entry = entry.context(directory.display())?;
        let Some(number) = number_in(entry.file_name().as_bytes(), name.as_bytes()) else { continue };
        // One that goes meanwhile is in nobody's way.
        match found(number, entry.path(), host) {
            Err(error) if is_gone(&error) => {}
            record => records.push(record.context(entry.path().display())?),
        }
    }
    records.sort_by_key(|record| record.number);
    Ok(records)
}

fn found(number: u64, path: PathBuf, host: &Host) -> io::Result<LeaseRecord> {
    let text = read(&path)?;
    let holder = LeaseHolder::parse(&text);
    let is_dead = match &holder {
        Some(holder) => host.knows_to_be_dead(holder),
        None => age(&path)? > MAKING_MAX,
    };
    let was_here = holder.as_ref().is_some_and(|holder| host.has_run(holder));
    Ok(LeaseRecord { number, path, holder, is_dead, text, was_here })
}

/// How old a file is, as far as the clocks agree. Whoever finds out too early is found out himself: see `take`.
fn age(path: &Path) -> io::Result<Duration> {
    Ok(fs::metadata(path)?.modified()?.elapsed().unwrap_or_default())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn remove_if(path: &Path, text: &[u8]) -> io::Result<()> {
    let removed = read(path).and_then(|there| if there == text { fs::remove_file(path) } else { Ok(()) });
    match removed {
        Err(error) if is_gone(&error) => Ok(()),
        removed => removed,
    }
}

/// Servers may still know a file by its number when its name has gone.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESTALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("a.vhd");
        fs::write(&image, "").unwrap();
        (place, image)
    }

    fn take(image: &Path) -> Result<Lease> {
        Lease::take_with(image, Duration::ZERO)
    }

    fn left(image: &Path) -> Vec<u64> {
        all_of(image, &Host::this().unwrap()).unwrap().iter().map(|record| record.number).collect()
    }

    fn holder() -> LeaseHolder {
        Host::this().unwrap().this_process().unwrap()
    }

    fn put(image: &Path, number: u64, holder: &LeaseHolder) {
        fs::write(record_of(image, number), holder.to_text()).unwrap();
    }

    #[test]
    fn one_has_it_until_it_is_given_back() {
        let (_place, image) = image();
        let mut first = take(&image).unwrap();
        let error = take(&image).unwrap_err();
        assert_eq!((error.kind(), error.os_error()), (ErrorKind::Busy, None));
        let words = error.to_string();
        let us = format!("process {} of host", std::process::id());
        assert!(
            words.contains(&us) && words.contains("a.vhd.lease.1") && words.contains("oxtap lease --force"),
            "{words}"
        );
        first.look().unwrap();
        drop(first);
        assert_eq!(left(&image), []);
        take(&image).unwrap();
    }

    #[test]
    fn the_lease_of_a_process_that_has_gone_is_nobodys() {
        let (_place, image) = image();
        // No process has this number; this one is another than it was; the host was started again.
        let ends = [
            LeaseHolder { process: 1 << 30, ..holder() },
            LeaseHolder { started: 1, ..holder() },
            LeaseHolder { boot: "before".into(), ..holder() },
        ];
        for dead in ends {
            put(&image, 4, &dead);
            let lease = take(&image).unwrap();
            assert_eq!(left(&image), [5], "{dead:?}");
            drop(lease);
        }
        assert_eq!(left(&image), []);
    }

    #[test]
    fn the_lease_of_another_host_is_broken_by_a_person_alone() {
        let (_place, image) = image();
        let away = LeaseHolder { host: "beta".into(), machine: "other".into(), boot: "other".into(), ..holder() };
        let contained = LeaseHolder { processes: "pid:[1]".into(), ..holder() };
        for other in [away, contained] {
            put(&image, 1, &other);
            let words = take(&image).unwrap_err().to_string();
            assert!(words.contains(&format!("of host {}", other.host)), "{words}");
            LeaseRecord::all_of(&image).unwrap()[0].remove().unwrap();
            take(&image).unwrap();
        }
    }

    #[test]
    fn who_has_lost_it_writes_no_more_and_harms_nobody() {
        let (_place, image) = image();
        let mut lost = take(&image).unwrap();
        LeaseRecord::all_of(&image).unwrap()[0].remove().unwrap();
        let mut next = take(&image).unwrap();
        assert_eq!(next.path, lost.path, "they have the same name");
        for _ in 0..2 {
            assert_eq!(lost.look().unwrap_err().kind(), ErrorKind::NotPermitted);
        }
        drop(lost);
        next.look().unwrap();
    }

    #[test]
    fn a_record_that_says_nothing_is_in_the_way_while_it_may_be_in_the_making() {
        let (_place, image) = image();
        let path = record_of(&image, 1);
        fs::write(&path, "").unwrap();
        assert!(take(&image).unwrap_err().to_string().contains("not by whom"));
        let before = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
        take(&image).unwrap();
    }

    #[test]
    fn of_many_who_want_it_at_once_one_has_it_at_a_time() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (_place, image) = image();
        put(&image, 1, &LeaseHolder { process: 1 << 30, ..holder() });
        let (holders, times) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let Ok(lease) = take(&image) else { continue };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two have it");
                        thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                        times.fetch_add(1, Ordering::SeqCst);
                        drop(lease);
                    }
                });
            }
        });
        // At the end nobody is in the way.
        take(&image).unwrap();
        assert_eq!(left(&image), []);
    }

    #[test]
    fn other_files_are_no_records() {
        let (place, image) = image();
        for name in ["a.vhd.lease.", "a.vhd.lease.x", "b.vhd.lease.1", "a.vhd.lease.1.2", "xa.vhd.lease.1"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        assert_eq!(left(&image), []);
        assert_eq!(number_in(b"a.lease.7", b"a"), Some(7));
    }
}
