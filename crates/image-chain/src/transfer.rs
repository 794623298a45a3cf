//! Moving bytes between a buffer and the places of its pieces: everything is started at once, and what lies side by side
//! in one storage goes as one operation.

use std::rc::Rc;

use block_core::{FileOffset, GuestRange, Result};
use storage_io::{Buffer, Completion, Executor, Hold, Pending, Storage, StorageOperation};

use crate::{
    piece::{LayerId, Owner, Piece},
    registry::Ticket,
    sealing::unseal,
    shared::Shared,
    statistics::{Direction, Recorder},
};

/// A started part of a transfer.
enum Part {
    /// Known without I/O.
    Done(Buffer),
    /// On its way, for the counters of a layer.
    Running { layer: LayerId, range: GuestRange, pending: Pending },
}

/// Reads one piece into `buffer`, which is as long: nothing is split, and nothing put together again. `ticket` is kept until
/// the I/O has ended.
pub(crate) async fn read_piece(
    executor: &Executor,
    (shared, recorder): (&Shared, &Recorder),
    piece: Piece,
    mut buffer: Buffer,
    ticket: Rc<Ticket>,
) -> (Buffer, Result<()>) {
    let Owner::Data { layer, offset } = piece.owner else {
        let length = buffer.len();
        buffer.fill(0, length, 0);
        return (buffer, Ok(()));
    };
    let pending = shared.storage(layer).submit(executor, StorageOperation::Read { offset, buffer }, Some(ticket));
    ended((shared, recorder), Direction::Read, (layer, piece.range), pending.await)
}

/// Writes `buffer`, which is as the leaf has it, over one piece, which has a place there. `ticket` is kept until the I/O has
/// ended.
pub(crate) async fn write_piece(
    executor: &Executor,
    (shared, recorder): (&Shared, &Recorder),
    piece: Piece,
    buffer: Buffer,
    durable: bool,
    ticket: Rc<Ticket>,
) -> (Buffer, Result<()>) {
    let Owner::Data { layer, offset } = piece.owner else {
        unreachable!("only what has a place is written in place");
    };
    let operation = StorageOperation::Write { offset, buffer, durable };
    let pending = shared.storage(layer).submit(executor, operation, Some(ticket));
    ended((shared, recorder), Direction::Write, (layer, piece.range), pending.await)
}

/// Reads the pieces, which follow one another, into `buffer`. `ticket` is kept until the last I/O has ended.
pub(crate) async fn read_pieces(
    executor: &Executor,
    (shared, recorder): (&Shared, &Recorder),
    pieces: impl IntoIterator<Item = Piece>,
    buffer: Buffer,
    ticket: Option<Rc<Ticket>>,
) -> (Buffer, Result<()>) {
    let start = |piece: Piece, mut part: Buffer| match piece.owner {
        Owner::Hole => {
            let length = part.len();
            part.fill(0, length, 0);
            Part::Done(part)
        }
        Owner::Data { layer, offset } => {
            let operation = StorageOperation::Read { offset, buffer: part };
            let pending = shared.storage(layer).submit(executor, operation, hold(&ticket));
            Part::Running { layer, range: piece.range, pending }
        }
    };
    collect((shared, recorder), Direction::Read, start_all(pieces, buffer, start)).await
}

/// Writes `buffer`, which is as the leaf has it, over the pieces, which all have a place there. `ticket` is
/// kept until the last I/O has ended.
pub(crate) async fn write_pieces(
    executor: &Executor,
    (shared, recorder): (&Shared, &Recorder),
    pieces: impl IntoIterator<Item = Piece>,
    buffer: Buffer,
    durable: bool,
    ticket: Rc<Ticket>,
) -> (Buffer, Result<()>) {
    let start = |piece: Piece, part: Buffer| {
        let Owner::Data { layer, offset } = piece.owner else {
            unreachable!("only what has a place is written in place");
        };
        let operation = StorageOperation::Write { offset, buffer: part, durable };
        let pending = shared.storage(layer).submit(executor, operation, Some(ticket.clone()));
        Part::Running { layer, range: piece.range, pending }
    };
    collect((shared, recorder), Direction::Write, start_all(pieces, buffer, start)).await
}

fn hold(ticket: &Option<Rc<Ticket>>) -> Option<Hold> {
    ticket.clone().map(|ticket| ticket as Hold)
}

fn start_all(
    pieces: impl IntoIterator<Item = Piece>,
    mut buffer: Buffer,
    start: impl Fn(Piece, Buffer) -> Part,
) -> Vec<Part> {
    let mut parts = Vec::new();
    for piece in pieces {
        let rest = buffer.split_off(bytes(piece.range));
        parts.push(start(piece, std::mem::replace(&mut buffer, rest)));
    }
    assert!(buffer.is_empty(), "the pieces cover the buffer");
    parts
}

/// Waits for all parts; puts the buffer together again. The first error counts.
async fn collect(
    (shared, recorder): (&Shared, &Recorder),
    direction: Direction,
    parts: Vec<Part>,
) -> (Buffer, Result<()>) {
    let mut whole = Buffer::empty();
    let mut result = Ok(());
    for part in parts {
        match part {
            Part::Done(buffer) => whole.append(buffer),
            Part::Running { layer, range, pending } => {
                let (buffer, end) = ended((shared, recorder), direction, (layer, range), pending.await);
                whole.append(buffer);
                result = result.and(end);
            }
        }
    }
    (whole, result)
}

/// Counts what has ended; decrypts what was read of encrypted images.
fn ended(
    (shared, recorder): (&Shared, &Recorder),
    direction: Direction,
    (layer, range): (LayerId, GuestRange),
    Completion { buffer, result }: Completion,
) -> (Buffer, Result<()>) {
    let mut buffer = buffer.expect("reads and writes give their buffer back");
    if let Some(key) = shared.key(layer)
        && direction == Direction::Read
        && result.is_ok()
    {
        unseal(key, range.start(), &mut buffer);
    }
    recorder.count(layer, direction, range.length(), result.is_ok());
    (buffer, result)
}

/// Bytes with a place in a file.
pub(crate) struct Segment {
    pub(crate) offset: FileOffset,
    pub(crate) bytes: Buffer,
    /// Not the requester's: written in front of its data, and not given back.
    pub(crate) is_lead: bool,
}

/// Segments that lie side by side in the file: one write.
struct Joined {
    offset: FileOffset,
    bytes: Buffer,
    /// The lengths of the segments, and which are leads.
    parts: Vec<(usize, bool)>,
}

/// Writes the segments; those that lie side by side in the file as one operation. Gives the requester's bytes back.
pub(crate) async fn write_segments(
    executor: &Executor,
    storage: &dyn Storage,
    segments: Vec<Segment>,
) -> (Buffer, Result<()>) {
    let started: Vec<_> = join(segments)
        .into_iter()
        .map(|joined| {
            let operation = StorageOperation::Write { offset: joined.offset, buffer: joined.bytes, durable: false };
            (storage.submit(executor, operation, None), joined.parts)
        })
        .collect();
    let mut whole = Buffer::empty();
    let mut result = Ok(());
    for (pending, parts) in started {
        let Completion { buffer, result: ended } = pending.await;
        let mut rest = buffer.expect("a write gives its buffer back");
        for (length, is_lead) in parts {
            let behind = rest.split_off(length);
            let part = std::mem::replace(&mut rest, behind);
            if !is_lead {
                whole.append(part);
            }
        }
        result = result.and(ended);
    }
    (whole, result)
}

fn join(segments: Vec<Segment>) -> Vec<Joined> {
    let mut all: Vec<Joined> = Vec::new();
    for Segment { offset, bytes, is_lead } in segments {
        let part = (bytes.len(), is_lead);
        match all.last_mut() {
            Some(last) if last.offset + last.bytes.len() as u64 == offset => {
                last.bytes.append(bytes);
                last.parts.push(part);
            }
            _ => all.push(Joined { offset, bytes, parts: vec![part] }),
        }
    }
    all
}

/// The length of a range that has a buffer.
pub(crate) fn bytes(range: GuestRange) -> usize {
    usize::try_from(range.length()).expect("a range with a buffer fits the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(offset: u64, length: usize, is_lead: bool) -> Segment {
        Segment { offset: FileOffset::new(offset), bytes: Buffer::zeroed(length), is_lead }
    }

    #[test]
    fn segments_side_by_side_are_one_write() {
        let joined = join(vec![segment(0, 4096, false), segment(4096, 512, true), segment(4608, 4096, false)]);
        assert_eq!(joined.len(), 1);
        assert_eq!(joined[0].parts, [(4096, false), (512, true), (4096, false)]);
        assert_eq!(join(vec![segment(0, 4096, false), segment(8192, 4096, false)]).len(), 2);
    }
}
