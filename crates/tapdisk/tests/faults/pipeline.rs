//! An NBD client that asks for many things before it looks at a single answer, and holds every answer against what was
//! asked: exactly one for each.

use std::{
    collections::BTreeMap,
    fmt,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use crate::host::LONG;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// The protocol's numbers of errors.
pub(crate) const EIO: u32 = 5;
pub(crate) const ENOSPC: u32 = 28;

/// What is asked.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Read { offset: u64, length: u32 },
    Write { offset: u64, bytes: Vec<u8> },
    Flush,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Read { offset, length } => write!(f, "read {offset:#x}+{length:#x}"),
            Asked::Write { offset, bytes } => write!(f, "write {offset:#x}+{:#x}", bytes.len()),
            Asked::Flush => f.write_str("flush"),
        }
    }
}

/// How it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Done(Vec<u8>),
    Failed(u32),
}

/// A connection that speaks the simplest dialect: no options, simple replies.
pub(crate) struct Pipeline {
    stream: UnixStream,
    next: u64,
    /// By cookie, what is not answered yet.
    asked: BTreeMap<u64, Asked>,
}

impl Pipeline {
    pub(crate) fn connect(path: &Path) -> Pipeline {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert!(greeting.starts_with(b"NBDMAGICIHAVEOPT"));
        // Fixed newstyle, no zeroes; then the export without a name.
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        stream.write_all(&[&b"IHAVEOPT"[..], &1_u32.to_be_bytes(), &0_u32.to_be_bytes()].concat()).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
        Pipeline { stream, next: 1, asked: BTreeMap::new() }
    }

    /// Sends one request; gives its cookie.
    pub(crate) fn ask(&mut self, asked: Asked) -> u64 {
        let (command, offset, length, payload): (u16, u64, u32, &[u8]) = match &asked {
            Asked::Read { offset, length } => (0, *offset, *length, &[]),
            Asked::Write { offset, bytes } => (1, *offset, u32::try_from(bytes.len()).unwrap(), bytes),
            Asked::Flush => (3, 0, 0, &[]),
        };
        let cookie = self.next;
        self.next += 1;
        let mut message = REQUEST_MAGIC.to_be_bytes().to_vec();
        message.extend([0, 0]);
        message.extend(command.to_be_bytes());
        message.extend(cookie.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend(length.to_be_bytes());
        message.extend(payload);
        self.stream.write_all(&message).unwrap();
        self.asked.insert(cookie, asked);
        cookie
    }

    /// The next answer, to whatever it belongs. One that nobody waits for, or a second one, fails the test.
    pub(crate) fn next(&mut self) -> (u64, Asked, Answered) {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).unwrap();
        assert_eq!(header[..4], REPLY_MAGIC.to_be_bytes());
        let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
        let cookie = u64::from_be_bytes(header[8..].try_into().unwrap());
        let asked = self.asked.remove(&cookie).expect("an answer to something that is still open");
        let length = match &asked {
            Asked::Read { length, .. } if error == 0 => *length,
            _ => 0,
        };
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes).unwrap();
        (cookie, asked, if error == 0 { Answered::Done(bytes) } else { Answered::Failed(error) })
    }

    /// The answers to all that is open, by cookie.
    pub(crate) fn all(&mut self) -> BTreeMap<u64, (Asked, Answered)> {
        let count = self.asked.len();
        let answers = (0..count).map(|_| self.next()).map(|(cookie, asked, answered)| (cookie, (asked, answered)));
        answers.collect()
    }

    /// Asks for all of this at once, and gives how each was answered, in the order of asking.
    pub(crate) fn burst(&mut self, all: Vec<Asked>) -> Vec<(Asked, Answered)> {
        for asked in all {
            self.ask(asked);
        }
        self.all().into_values().collect()
    }

    /// One thing.
    pub(crate) fn one(&mut self, asked: Asked) -> Answered {
        self.burst(vec![asked]).remove(0).1
    }
}
