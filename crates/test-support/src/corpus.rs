//! What has been fed to a door that strangers come by, and is fed to it again in every test run.
//!
//! ```text
//!   tests/fuzz-corpus/TARGET/*  <--finds-- fuzzer (cargo xtask fuzz) --any bytes--+
//!        |                                                                       v
//!        +------------------- feed: again, changed, and at random ----------> a body: Fn(&[u8])
//! ```

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{choices::RandomBytes, cycles, seed};

/// Gives `body` every file of the target's corpus, and then as many random strings of at most `bytes_max` bytes as
/// `usual` says, or `thorough` in a long run: half of them files of the corpus with something changed. When `body` panics
/// it is told what it was given.
///
/// # Panics
/// If the target has no corpus, or one that cannot be read.
pub fn feed(target: &str, bytes_max: usize, (usual, thorough): (u64, u64), mut body: impl FnMut(&[u8])) {
    let corpus = corpus(target);
    for (path, bytes) in &corpus {
        let told = Told(|| eprintln!("it was given {}", path.display()));
        body(bytes);
        drop(told);
    }
    let mut random = RandomBytes::new(seed());
    for round in 0..cycles(usual, thorough) {
        let bytes = match round % 2 {
            0 => {
                let length = random.below(bytes_max) + 1;
                random.bytes(length)
            }
            _ => changed(&corpus, bytes_max, &mut random),
        };
        let told = Told(|| eprintln!("it was given {}, in round {round}", kept(target, &bytes).display()));
        body(&bytes);
        drop(told);
    }
}

/// The files of a corpus, in the order of their names.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = tree().join("tests/fuzz-corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of a directory").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds nothing", directory.display());
    let read = |path: PathBuf| fs::read(&path).map(|bytes| (path, bytes)).expect("a file of the corpus");
    paths.into_iter().map(read).collect()
}

/// The tree that the test belongs to: cargo says where the crate is.
fn tree() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let is_tree = |directory: &&Path| directory.join("tests/fuzz-corpus").is_dir();
    let package = Path::new(&package);
    package.ancestors().find(is_tree).expect("a directory above a crate holds the corpora").to_path_buf()
}

/// A file of the corpus, or the beginning of one and the end of another, with a few bytes changed.
fn changed(corpus: &[(PathBuf, Vec<u8>)], bytes_max: usize, random: &mut RandomBytes) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].1.clone();
    if random.below(4) == 0 {
        let other = &corpus[random.below(corpus.len())].1;
        bytes.truncate(random.below(bytes.len() + 1));
        bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
    }
    bytes.truncate(bytes_max);
    for _ in 0..random.below(5) {
        let at = random.below(bytes.len() + 1);
        match random.below(3) {
            0 => bytes.insert(at, random.bytes(1)[0]),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            _ if at < bytes.len() => bytes[at] = random.bytes(1)[0],
            _ => {}
        }
    }
    bytes
}

/// Writes what was given into a file, so that it can be given again.
fn kept(target: &str, bytes: &[u8]) -> PathBuf {
    let path = env::temp_dir().join(format!("oxtap-{target}-{}", std::process::id()));
    fs::write(&path, bytes).expect("a temporary file can be written");
    path
}

/// Tells something when the test panics before this is dropped.
struct Told<F: FnMut()>(F);

impl<F: FnMut()> Drop for Told<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_resembles_the_corpus_and_is_not_too_long() {
        let corpus = [
            (PathBuf::from("a"), vec![b'a'; 50]),
            (PathBuf::from("b"), vec![b'b'; 9]),
            (PathBuf::from("c"), Vec::new()),
        ];
        let mut random = RandomBytes::new(7);
        let strings: Vec<Vec<u8>> = (0..1000).map(|_| changed(&corpus, 40, &mut random)).collect();
        assert!(strings.iter().all(|bytes| bytes.len() <= 44));
        assert!(strings.iter().any(|bytes| bytes.starts_with(b"aaa") && bytes.ends_with(b"bbb")));
        assert!(strings.iter().any(|bytes| bytes.as_slice() == [b'a'; 40]));
    }
}
