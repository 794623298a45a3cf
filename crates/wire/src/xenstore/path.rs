//! Names of nodes.

use std::{borrow::Borrow, fmt};

/// Bytes of an absolute path, at most.
pub const ABSOLUTE_PATH_BYTES_MAX: usize = 3072;
/// Bytes of a relative path, at most.
pub const RELATIVE_PATH_BYTES_MAX: usize = 2048;

/// Why a text names no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It is empty.
    Empty,
    /// It is longer than paths may be.
    TooLong,
    /// A character that names do not have.
    Character(u8),
    /// Two slashes in a row, or one at the end.
    EmptyName,
    /// An `@` that is not the first character.
    MisplacedAt,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathError::Empty => f.write_str("an empty path"),
            PathError::TooLong => f.write_str("a path that is too long"),
            PathError::Character(byte) => write!(f, "a path with the byte {byte:#04x}"),
            PathError::EmptyName => f.write_str("a path with an empty name"),
            PathError::MisplacedAt => f.write_str("a path with an @ inside"),
        }
    }
}

impl std::error::Error for PathError {}

/// The name of a node, or a special name such as `@releaseDomain` that only watches and permissions have.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(String);

impl Path {
    /// Checks a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: impl Into<String>) -> Result<Path, PathError> {
        let text = text.into();
        check(text.as_bytes())?;
        Ok(Path(text))
    }

    /// As [`new`](Self::new), for bytes of a peer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Path, PathError> {
        check(bytes)?;
        Ok(Path(String::from_utf8(bytes.to_vec()).expect("the characters that are allowed are ASCII")))
    }

    /// The root of all nodes.
    pub fn root() -> Path {
        Path("/".to_owned())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it starts at the root.
    pub fn is_absolute(&self) -> bool {
        self.0.starts_with('/')
    }

    /// Whether it is a special name.
    pub fn is_special(&self) -> bool {
        self.0.starts_with('@')
    }

    /// The node of this name below it.
    ///
    /// # Errors
    /// A name that makes no path.
    pub fn join(&self, name: &str) -> Result<Path, PathError> {
        match self.0.as_str() {
            "/" => Path::new(format!("/{name}")),
            path => Path::new(format!("{path}/{name}")),
        }
    }

    /// The node that it is directly below; none for the root, a special name, and a relative path of one name.
    pub fn parent(&self) -> Option<Path> {
        match self.0.rfind('/') {
            _ if self.0 == "/" || self.is_special() => None,
            None => None,
            Some(0) => Some(Path::root()),
            Some(at) => Some(Path(self.0[..at].to_owned())),
        }
    }

    /// Its last name; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Whether `other` is this node or below it.
    pub fn covers(&self, other: &Path) -> bool {
        if self.0 == "/" {
            return other.is_absolute();
        }
        other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn check(path: &[u8]) -> Result<(), PathError> {
    let (length_max, is_special) = match path {
        [] => return Err(PathError::Empty),
        [b'/'] => return Ok(()),
        [b'/', ..] => (ABSOLUTE_PATH_BYTES_MAX, false),
        [b'@', ..] => (RELATIVE_PATH_BYTES_MAX, true),
        _ => (RELATIVE_PATH_BYTES_MAX, false),
    };
    if path.len() > length_max {
        return Err(PathError::TooLong);
    }
    let body = if is_special { &path[1..] } else { path };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
    if let Some(byte) = body.iter().find(|byte| !allowed(**byte)) {
        return Err(PathError::Character(*byte));
    }
    if body.contains(&b'@') {
        return Err(PathError::MisplacedAt);
    }
    if body.is_empty() || body.ends_with(b"/") || body.windows(2).any(|pair| pair == b"//") {
        return Err(PathError::EmptyName);
    }
    Ok(())
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Path {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Path {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Path, PathError> {
        Path::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    #[test]
    fn names_of_nodes() {
        for good in ["/", "/a", "/local/domain/0/backend/vbd/1/51712", "device/vbd", "@releaseDomain", "@x/7", "a"] {
            assert!(Path::new(good).is_ok(), "{good}");
        }
        let bad = |text: &str| Path::new(text).unwrap_err();
        assert_eq!(bad(""), PathError::Empty);
        assert_eq!(bad("/a/"), PathError::EmptyName);
        assert_eq!(bad("/a//b"), PathError::EmptyName);
        assert_eq!(bad("@"), PathError::EmptyName);
        assert_eq!(bad("/a b"), PathError::Character(b' '));
        assert_eq!(bad("/a\0"), PathError::Character(0));
        assert_eq!(bad("/a\u{e9}"), PathError::Character(0xc3));
        assert_eq!(bad("/a@b"), PathError::MisplacedAt);
    }

    #[test]
    fn paths_end_where_the_protocol_says() {
        assert!(Path::new(format!("/{}", "x".repeat(3071))).is_ok());
        assert_eq!(Path::new(format!("/{}", "x".repeat(3072))), Err(PathError::TooLong));
        assert!(Path::new("x".repeat(2048)).is_ok());
        assert_eq!(Path::new("x".repeat(2049)), Err(PathError::TooLong));
    }

    #[test]
    fn a_node_covers_itself_and_what_is_below_it() {
        assert!(path("/a/b").covers(&path("/a/b")) && path("/a/b").covers(&path("/a/b/c")));
        assert!(!path("/a/b").covers(&path("/a/bc")) && !path("/a/b").covers(&path("/a")));
        assert!(Path::root().covers(&path("/a")) && !Path::root().covers(&path("@releaseDomain")));
        assert!(path("@releaseDomain").covers(&path("@releaseDomain/7")));
    }

    #[test]
    fn up_and_down() {
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!((path("/a").parent(), Path::root().parent()), (Some(Path::root()), None));
        assert_eq!((path("a").parent(), path("@a/b").parent()), (None, None));
        assert_eq!((path("/a/b").name(), Path::root().name()), ("b", ""));
        assert_eq!((Path::root().join("a"), path("/a").join("b")), (Ok(path("/a")), Ok(path("/a/b"))));
        assert!(path("/a").join("").is_err());
    }
}
