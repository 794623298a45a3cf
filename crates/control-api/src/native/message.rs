//! The envelopes: what a line is.

use serde::{Deserialize, Serialize};

use super::{Command, JobState, ResultOf, RingEvent, Version};

/// The first line of a tapdisk on every connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who it is.
    pub oxtap: Greeting,
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The newest version of the protocol that it speaks.
    pub version: u32,
    /// Name and version of the program.
    pub program: String,
    /// Its process id, in its own namespace.
    pub pid: u32,
}

impl Hello {
    /// The greeting of this version.
    pub fn new(program: impl Into<String>, pid: u32) -> Hello {
        Hello { oxtap: Greeting { version: Version::CURRENT.number(), program: program.into(), pid } }
    }
}

/// A line from a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Chosen by the client; answers carry it. One that is under way is not used again.
    pub id: u64,
    /// What is asked.
    pub command: Command,
}

/// A line from a tapdisk, after its greeting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// That of the request; none (`null`) if the line was not understood so far.
    pub id: Option<u64>,
    /// What there is to say.
    #[serde(flatten)]
    pub body: AnswerBody,
}

/// What an answer says. After `Result` or `Error`, a request has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerBody {
    /// A job goes on. The first comes when the job has a number, others when something changes or a second has passed.
    Progress(Progress),
    /// Something happened to what is watched.
    Event(RingEvent),
    /// It was done.
    Result(Box<ResultOf>),
    /// It was not.
    Error(Failure),
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Its number, which no other job of this tapdisk has or will have.
    pub job: u64,
    /// The disk.
    pub minor: u16,
    /// The name of the command.
    pub command: String,
    /// Whether it has begun or ended.
    pub state: JobState,
    /// What it does or waits for, for people.
    pub step: String,
    /// Since it was asked for.
    pub age_ms: u64,
    /// Requests of the disk that are being carried out.
    pub in_flight: u64,
    /// Requests of the disk that wait for their next attempt.
    pub waiting: u64,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The number that goes with it, of Linux.
    pub errno: i32,
    /// In words; the operating system's own words for the number are left out.
    pub reason: String,
}
