//! What a client sends, on its way in: many requests per system call, the data of writes straight into their buffers.
//!
//! ```text
//!   socket --recvmsg--> [ rest of a write's buffer | staging ]
//!                                                    ^ begin .. end: received, not looked at yet
//! ```

use std::{
    future::Future,
    io::IoSliceMut,
    pin::Pin,
    task::{Context, Poll, ready},
};

use storage_io::{Buffer, Readiness};

use super::socket::{Progress, Socket};

const STAGING_BYTES: usize = 64 << 10;

/// Behind long data only so much is received into the staging area: what lies there has to be copied, and more long data
/// is likely to follow.
const STAGED_BEHIND_LONG_DATA: usize = 4 << 10;
const LONG_DATA: usize = 32 << 10;

pub(super) struct Input {
    staging: Box<[u8]>,
    begin: usize,
    end: usize,
    /// The last receive left room, so there was no more: waiting first saves a call that would find nothing.
    likely_empty: bool,
    readiness: Option<Readiness<'static>>,
}

impl Input {
    pub(super) fn new() -> Self {
        Input {
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            begin: 0,
            end: 0,
            likely_empty: false,
            readiness: None,
        }
    }

    /// What has been received and not been used.
    pub(super) fn staged(&self) -> &[u8] {
        &self.staging[self.begin..self.end]
    }

    /// Notes that `count` staged bytes were used.
    pub(super) fn consume(&mut self, count: usize) {
        self.begin += count;
        assert!(self.begin <= self.end, "only what was received is used");
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        }
    }

    /// Moves staged bytes into `buffer` from position `at`, as many as there are and fit; says how many.
    pub(super) fn move_into(&mut self, buffer: &mut Buffer, at: usize) -> usize {
        let count = self.staged().len().min(buffer.len() - at);
        if count > 0 {
            buffer.copy_in(at, &self.staging[self.begin..self.begin + count]);
            self.consume(count);
        }
        count
    }

    /// Stops waiting.
    pub(super) fn rest(&mut self) {
        self.readiness = None;
    }

    /// Ready when the client has ended and everything was received. When there is something to receive, that stays where
    /// it is, and the end behind it is not looked for.
    pub(super) fn poll_end(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(readiness) = &mut self.readiness {
                let ready = ready!(Pin::new(readiness).poll(cx));
                self.readiness = None;
                if ready.is_err() {
                    return Poll::Ready(());
                }
            }
            match socket.peek() {
                Progress::Bytes(_) => return Poll::Pending,
                Progress::Ended => return Poll::Ready(()),
                Progress::WouldWait => self.readiness = Some(socket.readable()),
            }
        }
    }

    /// Receives more into the staging area. False: the client has ended.
    pub(super) fn poll_fill(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<bool> {
        self.make_room();
        let room = self.staging.len() - self.end;
        self.poll_receive(socket, cx, |input| {
            let part = IoSliceMut::new(&mut input.staging[input.end..]);
            (socket.receive(&mut [part]), room)
        })
        .map(|received| received.map(|count| self.end += count).is_some())
    }

    /// Receives into `buffer` from position `at`, and into the empty staging area what follows; says how many bytes
    /// `buffer` got. `None`: the client has ended.
    pub(super) fn poll_fill_buffer(
        &mut self,
        socket: &Socket,
        buffer: &mut Buffer,
        at: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<usize>> {
        assert!(self.staged().is_empty(), "what is staged is used first");
        let wanted = buffer.len() - at;
        let behind = if buffer.len() >= LONG_DATA { STAGED_BEHIND_LONG_DATA } else { STAGING_BYTES };
        let received = ready!(self.poll_receive(socket, cx, |input| {
            let mut skip = at;
            let mut data: &mut [u8] = &mut [];
            for segment in buffer.segments_mut() {
                if skip < segment.len() {
                    data = &mut segment[skip..];
                    break;
                }
                skip -= segment.len();
            }
            // A buffer of several parts is filled part by part.
            if data.len() < wanted {
                let room = data.len();
                return (socket.receive(&mut [IoSliceMut::new(data)]), room);
            }
            let parts = [IoSliceMut::new(data), IoSliceMut::new(&mut input.staging[..behind])];
            (socket.receive(&mut { parts }), wanted + behind)
        }));
        Poll::Ready(received.map(|count| {
            let direct = count.min(wanted);
            self.end = count - direct;
            direct
        }))
    }

    /// One receive that brought something, waiting for it if need be.
    fn poll_receive(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        mut receive: impl FnMut(&mut Self) -> (Progress, usize),
    ) -> Poll<Option<usize>> {
        loop {
            if let Some(readiness) = &mut self.readiness {
                let ready = ready!(Pin::new(readiness).poll(cx));
                self.readiness = None;
                if ready.is_err() {
                    return Poll::Ready(None);
                }
            } else if self.likely_empty {
                self.likely_empty = false;
                self.readiness = Some(socket.readable());
                continue;
            }
            match receive(self) {
                (Progress::Bytes(count), room) => {
                    self.likely_empty = count < room;
                    return Poll::Ready(Some(count));
                }
                (Progress::Ended, _) => return Poll::Ready(None),
                (Progress::WouldWait, _) => self.readiness = Some(socket.readable()),
            }
        }
    }

    fn make_room(&mut self) {
        if self.begin > 0 {
            self.staging.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
    }
}
