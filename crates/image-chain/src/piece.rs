//! Where a run of the disk's bytes is, over all images of the chain: the answer of a walk and of the owner map.

use block_core::{Extent, ExtentKind, FileOffset, GuestRange};

/// Names an image of a chain for as long as the chain is open. It is an id, not a depth: a new leaf on top changes the
/// id of nothing below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LayerId(pub(crate) u16);

impl LayerId {
    /// Its place in tables that hold one entry for each layer, base first.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Who has the bytes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody: it reads as zeroes.
    Hole,
    /// An image holds the bytes, from `offset` of its storage on.
    Data {
        /// Which image.
        layer: LayerId,
        /// Where the run's first byte is.
        offset: FileOffset,
    },
}

impl Owner {
    /// The owner of what lies `bytes` behind the start of this run, in the same run.
    pub(crate) fn advanced(self, bytes: u64) -> Owner {
        match self {
            Owner::Data { layer, offset } => Owner::Data { layer, offset: offset + bytes },
            other => other,
        }
    }
}

/// A run of the disk with one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Which bytes.
    pub(crate) range: GuestRange,
    /// Who has them.
    pub(crate) owner: Owner,
}

impl Piece {
    /// Whether `next` goes on where this one ends, on the disk and in the storage: together they are one operation.
    fn continues_in(&self, next: &Piece) -> bool {
        self.range.end() == next.range.start() && self.owner.advanced(self.range.length()) == next.owner
    }

    /// Takes `next` in, if it goes on where this one ends.
    pub(crate) fn absorb(&mut self, next: &Piece) -> bool {
        let together = self.continues_in(next);
        if together {
            self.range = GuestRange::new(self.range.start(), self.range.length() + next.range.length());
        }
        together
    }

    /// The part of it that lies in `range`, if any does.
    pub(crate) fn clipped(&self, range: GuestRange) -> Option<Piece> {
        let part = self.range.intersection(range)?;
        Some(Piece { range: part, owner: self.owner.advanced(part.start() - self.range.start()) })
    }
}

/// Appends `piece`, joined with the last one where it continues it.
pub(crate) fn push_piece(pieces: &mut Vec<Piece>, piece: Piece) {
    if !pieces.last_mut().is_some_and(|last| last.absorb(&piece)) {
        pieces.push(piece);
    }
}

/// What pieces look like to a client: where they are does not matter, neighbours of one kind are one extent.
pub(crate) fn extents_of(pieces: impl IntoIterator<Item = Piece>) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for piece in pieces {
        let kind = match piece.owner {
            Owner::Hole => ExtentKind::Hole,
            Owner::Data { .. } => ExtentKind::Data,
        };
        match extents.last_mut() {
            Some(last) if last.kind == kind && last.range.end() == piece.range.start() => {
                last.range = GuestRange::new(last.range.start(), last.range.length() + piece.range.length());
            }
            _ => extents.push(Extent { range: piece.range, kind }),
        }
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_core::GuestOffset;

    fn piece(start: u64, length: u64, owner: Owner) -> Piece {
        Piece { range: GuestRange::new(GuestOffset::new(start), length), owner }
    }

    fn data(layer: u16, offset: u64) -> Owner {
        Owner::Data { layer: LayerId(layer), offset: FileOffset::new(offset) }
    }

    #[test]
    fn pieces_join_only_when_disk_and_file_both_continue() {
        let mut pieces = Vec::new();
        push_piece(&mut pieces, piece(0, 512, data(1, 4096)));
        push_piece(&mut pieces, piece(512, 512, data(1, 4608)));
        push_piece(&mut pieces, piece(1024, 512, data(1, 8192)));
        push_piece(&mut pieces, piece(1536, 512, data(0, 8704)));
        let expected =
            [piece(0, 1024, data(1, 4096)), piece(1024, 512, data(1, 8192)), piece(1536, 512, data(0, 8704))];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn extents_join_by_kind_alone() {
        let pieces = [piece(0, 512, data(1, 4096)), piece(512, 512, data(0, 0)), piece(1024, 512, Owner::Hole)];
        let kinds: Vec<_> = extents_of(pieces).iter().map(|extent| (extent.range.length(), extent.kind)).collect();
        assert_eq!(kinds, [(1024, ExtentKind::Data), (512, ExtentKind::Hole)]);
    }
}
