//! Replies on their way out: collected, then sent with as few system calls as possible.
//!
//! ```text
//!   inline bytes:  [reply head][head]            [head][error words] ...
//!   pieces:        Inline(44)          Data(buf) Inline(70) ...         in the order in which they go out
//! ```
//!
//! Heads and short payloads are copied side by side; buffers of reads go out as they are.

use std::{collections::VecDeque, io::IoSlice};

use storage_io::Buffer;

use super::socket::{Progress, Socket};

/// Parts handed to one system call.
const PARTS_MAX: usize = 128;

/// Inline bytes that are out are forgotten when there are as many as this, if not before.
const INLINE_DONE_MAX: usize = 64 << 10;

/// What sending came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing is left.
    All,
    /// The client is slow; some is left.
    Some,
    /// The connection has ended.
    Broken,
}

#[derive(Debug, Default)]
pub(super) struct Output {
    inline: Vec<u8>,
    /// How many inline bytes are out.
    inline_done: usize,
    pieces: VecDeque<Piece>,
    /// How many bytes of the first piece are out.
    first_done: usize,
    length: usize,
}

#[derive(Debug)]
enum Piece {
    /// So many of the inline bytes.
    Inline(usize),
    Data(Buffer),
}

impl Piece {
    fn length(&self) -> usize {
        match self {
            Piece::Inline(length) => *length,
            Piece::Data(buffer) => buffer.len(),
        }
    }
}

impl Output {
    /// Bytes that are not out yet.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Appends what `put` writes.
    pub(super) fn put(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let before = self.inline.len();
        put(&mut self.inline);
        let added = self.inline.len() - before;
        self.length += added;
        match self.pieces.back_mut() {
            Some(Piece::Inline(length)) => *length += added,
            _ => self.pieces.push_back(Piece::Inline(added)),
        }
    }

    /// Appends a buffer.
    pub(super) fn put_buffer(&mut self, buffer: Buffer) {
        self.length += buffer.len();
        self.pieces.push_back(Piece::Data(buffer));
    }

    /// Sends what it can without waiting.
    pub(super) fn send(&mut self, socket: &Socket) -> Sent {
        while !self.pieces.is_empty() {
            let mut parts = [IoSlice::new(&[]); PARTS_MAX];
            let count = self.gather(&mut parts);
            match socket.send(&parts[..count]) {
                Progress::Bytes(count) => self.advance(count),
                Progress::WouldWait => return Sent::Some,
                Progress::Ended => {
                    *self = Output::default();
                    return Sent::Broken;
                }
            }
        }
        Sent::All
    }

    /// The first parts that are not out yet, and how many.
    fn gather<'a>(&'a self, parts: &mut [IoSlice<'a>; PARTS_MAX]) -> usize {
        let mut free = parts.iter_mut();
        let mut skip = self.first_done;
        let mut inline = &self.inline[self.inline_done..];
        for piece in &self.pieces {
            match piece {
                Piece::Inline(length) => {
                    let Some(part) = free.next() else { return PARTS_MAX };
                    let (this, rest) = inline.split_at(length - skip);
                    *part = IoSlice::new(this);
                    inline = rest;
                }
                Piece::Data(buffer) => {
                    for segment in buffer.segments() {
                        let begin = skip.min(segment.len());
                        skip -= begin;
                        if begin == segment.len() {
                            continue;
                        }
                        let Some(part) = free.next() else { return PARTS_MAX };
                        *part = IoSlice::new(&segment[begin..]);
                    }
                }
            }
            skip = 0;
        }
        PARTS_MAX - free.len()
    }

    /// Notes that `count` bytes are out.
    fn advance(&mut self, count: usize) {
        self.length -= count;
        let mut count = count;
        while let Some(piece) = self.pieces.front() {
            let step = count.min(piece.length() - self.first_done);
            count -= step;
            self.first_done += step;
            if let Piece::Inline(_) = piece {
                self.inline_done += step;
            }
            if self.first_done < piece.length() {
                break;
            }
            self.first_done = 0;
            self.pieces.pop_front();
        }
        if self.inline_done == self.inline.len() || self.inline_done >= INLINE_DONE_MAX {
            self.inline.drain(..self.inline_done);
            self.inline_done = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::unix::net::UnixStream, sync::Arc};
    use storage_io::{EngineChoice, Executor};

    #[test]
    fn everything_goes_out_in_order_however_slowly_it_is_fetched() {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = Socket::new(&executor, Arc::new(ours.into()));
        let mut output = Output::default();
        let mut expected = Vec::new();
        for index in 0..500_usize {
            let head = vec![u8::try_from(index % 256).unwrap(); 1 + index % 40];
            output.put(|out| out.extend(&head));
            expected.extend(head);
            if index % 3 == 0 {
                // Two parts, of which the second lies elsewhere in memory.
                let mut buffer = Buffer::from_bytes(&[1; 3000]);
                buffer.append(Buffer::from_bytes(&vec![2; index * 7]));
                expected.extend(buffer.to_vec());
                output.put_buffer(buffer);
            }
        }
        assert_eq!(output.length(), expected.len());
        let mut fetched = Vec::new();
        theirs.set_nonblocking(true).unwrap();
        while fetched.len() < expected.len() {
            let before = output.length();
            let sent = output.send(&socket);
            assert_eq!(sent == Sent::All, output.length() == 0);
            assert!(output.length() <= before);
            let mut part = [0; 1777];
            while let Ok(count) = theirs.read(&mut part) {
                fetched.extend_from_slice(&part[..count]);
            }
        }
        assert!(fetched == expected);
    }

    #[test]
    fn who_has_gone_is_noticed_and_what_was_meant_for_him_forgotten() {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut output = Output::default();
        output.put(|out| out.extend([0; 16]));
        assert_eq!(output.send(&Socket::new(&executor, Arc::new(ours.into()))), Sent::Broken);
        assert_eq!(output.length(), 0);
    }
}
