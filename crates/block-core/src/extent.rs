//! What a run of the disk holds, as told to those who ask (NBD block status, `oxtap image map`).

use crate::GuestRange;

/// What a run of bytes on the disk is, from the leaf's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Some image of the chain holds bytes for it.
    Data,
    /// It reads as zeroes, and some image has room for it.
    Zero,
    /// It reads as zeroes, and no image has room for it.
    Hole,
}

/// A run of bytes on the disk that are all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which bytes.
    pub range: GuestRange,
    /// What they are.
    pub kind: ExtentKind,
}
