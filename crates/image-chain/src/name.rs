//! How an image is named: `type:path`, as storage managers write it.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::PathBuf, str::FromStr};

use block_core::{Error, ErrorKind, Result};
use image_format::ImageKind;

/// A type is shorter than this, in bytes.
const TYPE_BYTES_END: usize = 32;
/// A path is shorter than this, in bytes.
const PATH_BYTES_END: usize = 1000;

/// Types that are known by name and not offered.
const NOT_OFFERED: [&str; 14] =
    ["sync", "vmdk", "vhdsync", "ram", "qcow", "bc", "vhdi", "log", "lc", "lle", "llp", "valve", "nbd", "x-chain"];

/// An image: its format, always told, and its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// The format.
    pub kind: ImageKind,
    /// The file or device.
    pub path: PathBuf,
}

impl ImageName {
    /// The image of this format at `path`.
    pub fn new(kind: ImageKind, path: impl Into<PathBuf>) -> ImageName {
        ImageName { kind, path: path.into() }
    }
}

impl ImageName {
    /// Reads `type:path`; the first colon divides. A path is bytes, and need not be text.
    ///
    /// # Errors
    /// `Invalid` without a colon or a path or with a zero byte, `LimitReached` when a part is too long, `Unsupported` for
    /// a type that is known but not offered, `NotFound` for one that nobody knows.
    pub fn from_bytes(name: &[u8]) -> Result<ImageName> {
        let error =
            |kind, words: &str| Error::new(kind, format!("image name '{}': {words}", String::from_utf8_lossy(name)));
        let colon = name.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or_else(|| error(ErrorKind::Invalid, "no type, as in vhd:/path or aio:/path"))?;
        let (kind, path) = (&name[..colon], &name[colon + 1..]);
        if kind.len() >= TYPE_BYTES_END {
            return Err(error(ErrorKind::LimitReached, "the type is too long"));
        }
        let kind = match kind {
            b"aio" => ImageKind::Raw,
            b"vhd" => ImageKind::Vhd,
            known if NOT_OFFERED.iter().any(|kind| kind.as_bytes() == known) => {
                return Err(error(ErrorKind::Unsupported, "images of this type are not supported"));
            }
            _ => return Err(error(ErrorKind::NotFound, "no such image type")),
        };
        match path.len() {
            0 => Err(error(ErrorKind::Invalid, "no path")),
            PATH_BYTES_END.. => Err(error(ErrorKind::LimitReached, "the path is too long")),
            _ if path.contains(&0) => Err(error(ErrorKind::Invalid, "no path has a zero byte in it")),
            _ => Ok(ImageName { kind, path: PathBuf::from(OsStr::from_bytes(path)) }),
        }
    }
}

impl FromStr for ImageName {
    type Err = Error;

    /// As [`from_bytes`](ImageName::from_bytes).
    fn from_str(name: &str) -> Result<ImageName> {
        ImageName::from_bytes(name.as_bytes())
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", type_of(self.kind), self.path.display())
    }
}

/// The type as it stands in front of a path.
fn type_of(kind: ImageKind) -> &'static str {
    match kind {
        ImageKind::Raw => "aio",
        ImageKind::Vhd => "vhd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of_error(name: &str) -> ErrorKind {
        name.parse::<ImageName>().unwrap_err().kind()
    }

    #[test]
    fn a_name_is_a_type_and_a_path_and_only_the_first_colon_counts() {
        let name: ImageName = "vhd:/sr/a:b.vhd".parse().unwrap();
        assert_eq!((name.kind, name.path.to_str()), (ImageKind::Vhd, Some("/sr/a:b.vhd")));
        assert_eq!(name.to_string(), "vhd:/sr/a:b.vhd");
        assert_eq!("aio:/dev/sda".parse::<ImageName>().unwrap().kind, ImageKind::Raw);
    }

    #[test]
    fn each_wrong_name_has_its_own_error() {
        assert_eq!(kind_of_error("/sr/a.vhd"), ErrorKind::Invalid);
        assert_eq!(kind_of_error("vhd:"), ErrorKind::Invalid);
        assert_eq!(kind_of_error("qcow3:/a"), ErrorKind::NotFound);
        for known in NOT_OFFERED {
            assert_eq!(kind_of_error(&format!("{known}:/a")), ErrorKind::Unsupported, "{known}");
        }
        assert_eq!(kind_of_error(&format!("{}:/a", "x".repeat(32))), ErrorKind::LimitReached);
        assert_eq!(kind_of_error(&format!("vhd:{}", "x".repeat(1000))), ErrorKind::LimitReached);
        assert!(format!("vhd:{}", "x".repeat(999)).parse::<ImageName>().is_ok());
    }

    #[test]
    fn a_path_need_not_be_text() {
        let name = ImageName::from_bytes(b"aio:/a\xff").unwrap();
        assert_eq!(name.path.as_os_str().as_bytes(), b"/a\xff");
        assert_eq!(ImageName::from_bytes(b"aio:/a\0b").unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn the_error_names_the_name() {
        let error = "vdh:/a".parse::<ImageName>().unwrap_err();
        assert_eq!(error.to_string(), "image name 'vdh:/a': no such image type");
    }
}
