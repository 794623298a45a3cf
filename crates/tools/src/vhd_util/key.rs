//! `key`: which key a disk is encrypted with, as far as its image knows it.
//!
//! The key itself is in a file, named `<image>,aes-xts-plain,<bits>.key`, and nowhere else. The image has a hash of it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use command_line::{Flag, Options, Syntax, Value};
use image_format::vhd::{DiskKey, DiskType, KeyHash, UNUSED_ENTRY};
use rustix::{
    fs::{XattrFlags, getxattr, setxattr},
    io::Errno,
};
use storage_io::{Access, StorageExt};
use zeroize::Zeroizing;

use super::{
    Failure, Session, name,
    opened::{Demands, OpenedVhd},
};

/// Where a file without a batmap has it: a byte that says so, the nonce, the hash.
const ATTRIBUTE: &str = "user.com.citrix.xenclient.backend.keyhash";
const ATTRIBUTE_BYTES: usize = 65;

pub(super) const SYNTAX: Syntax = Syntax {
    name: "key",
    about: "Tell or set the hash of the key of an encrypted disk",
    text: "\
An encrypted disk has its key in a file of 32 or 64 bytes, whose name ends with `,aes-xts-plain,256.key` or \
`,aes-xts-plain,512.key`. The image has a nonce and a hash of nonce and key, so that a wrong key is found out. \
One of `-C`, `-s`, `-c` and `-p` is given.",
    flags: &[
        Flag::letter(b'C', "the hash of a key").explained("Prints the hash of the key in a file."),
        Flag::letter(b's', "set it").explained(
            "The image gets the hash of a key, from a file or as it is. Only an image without any block, which is not fixed, \
             can get one.",
        ),
        Flag::letter(b'c', "check it").explained("Ends with status 0 if the key in a file is that of the image, else with 126."),
        Flag::letter(b'p', "print it").explained("Prints nonce and hash of the image, or \"none\"."),
        Flag::letter(b'n', "name").with(Value::file("image")).explained("The image."),
        Flag::letter(b'k', "file of the key").with(Value::file("file")).explained("The file with the key."),
        Flag::letter(b'H', "hash").with(Value::text("digits")).explained("The hash: 64 hexadecimal digits."),
        Flag::letter(b'N', "nonce").with(Value::text("digits")).explained("The nonce: 64 hexadecimal digits; zeroes if not given."),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let wishes = [b'C', b's', b'c', b'p'].map(|letter| options.has(letter));
    let nonce = match options.value(b'N') {
        Some(digits) => parse_digits(digits).ok_or(Failure::Usage)?,
        None => [0; 32],
    };
    match wishes {
        [true, false, false, false] => {
            let key = read_key(name(options, b'k')?)?;
            session.say(digits(&key.hash(nonce).hash));
        }
        [false, true, false, false] => {
            let hash = wanted_hash(options, nonce)?;
            let name = name(options, b'n')?;
            let opened = session.executor.block_on(OpenedVhd::open_alone(session, name, Demands::default()));
            let vhd = opened.inspect_err(|_| complain(name))?;
            session.executor.block_on(set(session, &vhd, hash))?;
        }
        [false, false, true, false] => {
            let key = read_key(name(options, b'k')?)?;
            let hash = stored(session, name(options, b'n')?)?;
            let words = |words| Error::new(ErrorKind::Invalid, words);
            let hash = hash.ok_or_else(|| words("the image has no hash of a key"))?;
            if !key.fits(&hash) {
                return Err(wrong_key().into());
            }
        }
        [false, false, false, true] => match stored(session, name(options, b'n')?)? {
            Some(hash) => session.say(format!("{} {}", digits(&hash.nonce), digits(&hash.hash))),
            None => session.say("none"),
        },
        _ => return Err(Failure::Usage),
    }
    Ok(())
}

/// The key is not the one that the image means.
fn wrong_key() -> Error {
    Error::from_os("the key is not that of the image", Errno::NOKEY.into())
}

fn complain(name: &Path) {
    let _ = writeln!(io::stderr(), "failed to open {}", name.display());
}

fn wanted_hash(options: &Options, nonce: [u8; 32]) -> std::result::Result<KeyHash, Failure> {
    match (options.value(b'k'), options.value(b'H')) {
        (Some(file), None) => Ok(read_key(Path::new(file))?.hash(nonce)),
        (None, Some(hash)) => Ok(KeyHash { nonce, hash: parse_digits(hash).ok_or(Failure::Usage)? }),
        _ => Err(Failure::Usage),
    }
}

fn stored(session: &Session, name: &Path) -> Result<Option<KeyHash>> {
    session.executor.block_on(async {
        let opened = OpenedVhd::open(session, name, Access::Read, Demands::default()).await;
        let vhd = opened.inspect_err(|_| complain(name))?;
        key_hash(session, &vhd).await
    })
}

/// The key in a file; its name says how long it is.
pub(super) fn read_key(path: &Path) -> Result<DiskKey> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bits = name.strip_suffix(".key").and_then(|name| name.rsplit_once(",aes-xts-plain,"));
    let bytes: usize = match bits {
        Some((_, "256")) => 32,
        Some((_, "512")) => 64,
        _ => {
            let words = format!("{}: the name of a key ends with ,aes-xts-plain,512.key or 256.key", path.display());
            return Err(Error::new(ErrorKind::NotPermitted, words));
        }
    };
    let _ = writeln!(io::stderr(), "using keyfile {} with keysize {}", path.display(), bytes * 8);
    let mut key = Zeroizing::new(Vec::with_capacity(bytes + 1));
    File::open(path).and_then(|file| file.take(bytes as u64 + 1).read_to_end(&mut key)).context(path.display())?;
    if key.len() != bytes {
        let words = format!("{}: holds {} bytes, its name says {bytes}", path.display(), key.len());
        return Err(Error::new(ErrorKind::Invalid, words));
    }
    DiskKey::new(&key)
}

/// Of commands that read a disk through its parents.
pub(super) const KEY_FILE: Flag = Flag::letter(b'k', "file of the key").with(Value::file("file"));

/// The key that a command was given with [`KEY_FILE`].
pub(super) fn given_key(options: &Options) -> Result<Option<Arc<DiskKey>>> {
    let key = options.value(b'k').map(|file| read_key(Path::new(file))).transpose()?;
    Ok(key.map(Arc::new))
}

/// The hash of the key; none if the disk is not encrypted.
pub(super) async fn key_hash(session: &Session, vhd: &OpenedVhd) -> Result<Option<KeyHash>> {
    if let Some(batmap) = vhd.batmap_header(&session.executor).await? {
        return Ok(batmap.key_hash());
    }
    let mut value = [0; ATTRIBUTE_BYTES];
    match getxattr(&vhd.path, ATTRIBUTE, &mut value) {
        Ok(ATTRIBUTE_BYTES) if value[0] != 0 => {
            let part = |from: usize| value[from..from + 32].try_into().expect("32 bytes of 65");
            Ok(Some(KeyHash { nonce: part(1), hash: part(33) }))
        }
        Ok(_) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(Error::from_os("its extended attribute", error.into())).context(vhd.path.display()),
    }
}

/// Gives an empty image the hash of a key: the header of its batmap alone is written, never the map.
async fn set(session: &Session, vhd: &OpenedVhd, hash: KeyHash) -> Result<()> {
    let invalid = |words: &'static str| Error::new(ErrorKind::Invalid, words).context(vhd.path.display());
    if vhd.footer.disk_type() == DiskType::Fixed {
        return Err(invalid("a fixed disk cannot be encrypted"));
    }
    let executor = &session.executor;
    if vhd.table(executor).await?.iter().any(|entry| *entry != UNUSED_ENTRY) {
        return Err(invalid("what is in it already is not encrypted"));
    }
    if let Some(batmap) = vhd.batmap_header(executor).await? {
        let place = batmap.header_range().start();
        vhd.storage.write_bytes(executor, place, batmap.with_key_hash(hash).as_bytes()).await?;
    } else {
        let value = [&[1][..], &hash.nonce, &hash.hash].concat();
        let set = setxattr(&vhd.path, ATTRIBUTE, &value, XattrFlags::empty());
        set.map_err(io::Error::from).context("its extended attribute").context(vhd.path.display())?;
    }
    vhd.storage.sync(executor).await
}

/// Bytes as hexadecimal digits.
pub(super) fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 bytes from 64 hexadecimal digits.
fn parse_digits(digits: &OsStr) -> Option<[u8; 32]> {
    let digits =
        digits.to_str().filter(|digits| digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    let bytes = (0..32).map(|index| u8::from_str_radix(&digits[index * 2..index * 2 + 2], 16));
    bytes.collect::<std::result::Result<Vec<u8>, _>>().ok()?.try_into().ok()
}
