//! The walk: from the leaf down through the parents to whoever has the bytes. It is the truth that the owner map
//! remembers.
//!
//! ```text
//!   range     |-------------------------------------------|
//!   leaf      |== data ==|             |====|             |
//!   parent    |     |=======|  zero |                     |
//!   base      |=====================|  (a smaller disk ends here)
//!   pieces    | leaf     |p.| hole     |leaf| hole        |
//! ```

use block_core::{GuestOffset, GuestRange, Result, SECTOR};
use image_format::{Format, Lookup, Mapping};
use storage_io::Executor;

use crate::piece::{LayerId, Owner, Piece, push_piece};

/// The pieces of `range` over `layers`, base first, from the last of them down. They cover the range in ascending order.
/// Tables that are not in memory are loaded on the way.
pub(crate) async fn walk<F: Format>(executor: &Executor, layers: &[F], range: GuestRange) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    // What is still to be asked, the first bytes last: how many layers may have them, and which bytes.
    let mut open = vec![(layers.len(), range)];
    while let Some((depth, range)) = open.pop() {
        let Some(layer) = depth.checked_sub(1) else {
            push_piece(&mut pieces, Piece { range, owner: Owner::Hole });
            continue;
        };
        let format = &layers[layer];
        let (inside, beyond) = cut(range, format.size());
        if !beyond.is_empty() {
            open.push((0, beyond));
        }
        if inside.is_empty() {
            continue;
        }
        match format.map(inside) {
            Lookup::Miss(miss) => {
                format.load(executor, miss).await?;
                open.push((depth, inside));
            }
            Lookup::Found(extent) => {
                let (found, rest) = inside.split_at(extent.range.length());
                assert!(
                    found == extent.range && !found.is_empty(),
                    "a format answers the first run of what it was asked"
                );
                if !rest.is_empty() {
                    open.push((depth, rest));
                }
                match owner_of(layer, extent.mapping) {
                    Some(owner) => push_piece(&mut pieces, Piece { range: found, owner }),
                    None => open.push((layer, found)),
                }
            }
        }
    }
    Ok(pieces)
}

/// The owner that a layer's answer names; `None`: its parent knows.
fn owner_of(layer: usize, mapping: Mapping) -> Option<Owner> {
    let layer = LayerId(u16::try_from(layer).expect("the number of layers is checked when home is made"));
    match mapping {
        Mapping::Data { offset } => Some(Owner::Data { layer, offset }),
        Mapping::Zero => Some(Owner::Hole),
        Mapping::Parent => None,
    }
}

/// The parts of `range` on an image of `size` bytes, and behind its last whole sector.
fn cut(range: GuestRange, size: u64) -> (GuestRange, GuestRange) {
    let end = GuestOffset::new(size).align_down(SECTOR);
    if end <= range.start() { (range.split_at(0).0, range) } else { range.split_at(end - range.start()) }
}
