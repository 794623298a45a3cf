//! What a backend knows of the disk behind one device: three tables, and what they make together.
//!
//! ```text
//!   nodes, scripts, people --> Shutdown: Up, Down ----+
//!                                                     +--> what should be --+
//!   nodes, directory ------> Vbd: Unpaused, Paused .. +                     +--> one step at a time --> Action
//!                              ^                                            |
//!   the tapdisk -----------> Channel: Dead, Running, Paused .. -- what is --+
//! ```
//!
//! The tables do not know each other. What should be is read from two of them, what is from the third; the difference is
//! one thing to do at a time. There is never more than one channel: the next one is launched when the last has ended. A
//! disk that shall be at rest is brought to rest before anybody is served, whichever tapdisk has it: a pause outlives the
//! process that was paused.

pub mod channel;
pub mod shutdown;
pub mod vbd;

use channel::Channel;
use shutdown::Shutdown;
use vbd::Vbd;

/// Something that is wanted, or has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The disk shall be at rest, or need not be: what was seen, as often as it is seen.
    Pause(bool),
    /// There shall be a channel. It revives one that has died, and mends what is broken.
    Start,
    /// There shall be none.
    Stop,
    /// The directory has gone.
    Removed,
    /// The directory has gone, and there is another of its name.
    Recycled,
    /// Launching has ended; whether it is known now which tapdisk it is.
    Launched(bool),
    /// Pausing has ended; whether the disk is at rest now.
    Paused(bool),
    /// Resuming has ended; whether the disk is served now.
    Resumed(bool),
    /// The disk is let go of.
    Closed,
    /// The tapdisk has died.
    Died,
}

/// Something to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Start a tapdisk, or find the one that is meant. Ends with `Launched`.
    Launch,
    /// Let guests have the disk.
    Serve,
    /// Have the tapdisk bring its disk to rest. Ends with `Paused`.
    Pause,
    /// Nobody wants the pause any more that is under way: it need not come to its end. It still ends with `Paused`.
    TurnBack,
    /// Have the tapdisk open its images again. Ends with `Resumed`.
    Resume,
    /// Let go of the disk, whatever else is under way. Ends with `Closed`.
    Close,
    /// Say that the disk is at rest.
    TellPaused,
    /// Say that it is not any more.
    TellUnpaused,
    /// Say why it cannot be resumed.
    Report,
    /// Touch the directory if it is still there, so that whoever looks for devices looks at it.
    Reprobe,
    /// Nothing is left of it; another directory of its name gets an agent of its own.
    Forget,
}

/// What the tapdisk was asked for and has not ended. (Launching is a state of the channel.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asked {
    Pause,
    TurnBack,
    Resume,
    Close,
}

/// What should become of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Running,
    AtRest,
    /// As it is.
    Held,
    Closed,
}

/// What is known of the disk behind a device, for as long as its directory is there and until all has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    channel: Channel,
    vbd: Vbd,
    shutdown: Shutdown,
    asked: Option<Asked>,
    /// What was seen last of what is wanted, also while that does nothing.
    rest_is_wanted: bool,
    /// There shall be another channel: as soon as there is none, and until then the one that there is has to end.
    is_revived: bool,
    /// It was said that the disk is at rest, and not taken back.
    is_told: bool,
    /// Guests may have the disk.
    is_served: bool,
    is_forgotten: bool,
}

impl Agent {
    /// A device whose directory was just found. `is_told`: somebody before us has said there that its disk is at rest.
    pub fn new(is_told: bool) -> Agent {
        Agent {
            channel: Channel::Dead,
            vbd: if is_told { Vbd::Paused } else { Vbd::Unpaused },
            shutdown: Shutdown::Up,
            asked: None,
            rest_is_wanted: is_told,
            is_revived: false,
            is_told,
            is_served: false,
            is_forgotten: false,
        }
    }

    /// Its channel.
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// The attachment itself.
    pub fn vbd(&self) -> Vbd {
        self.vbd
    }

    /// Whether there shall be a channel.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown
    }

    /// Whether guests may have its disk.
    pub fn is_served(&self) -> bool {
        self.is_served
    }

    /// Whether nothing is left of it.
    pub fn is_forgotten(&self) -> bool {
        self.is_forgotten
    }

    /// Takes note of an event; says what to do about it.
    #[must_use]
    pub fn apply(mut self, event: Event) -> (Agent, Vec<Action>) {
        let mut actions = Vec::new();
        if !self.is_forgotten {
            self.note(event, &mut actions);
            while let Some(step) = self.next_step() {
                self.take(step, &mut actions);
            }
            self.conclude(&mut actions);
        }
        (self, actions)
    }

    fn note(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Pause(wanted) => {
                self.rest_is_wanted = wanted;
                self.tell_level(actions);
            }
            Event::Start => {
                self.tell_shutdown(shutdown::Event::Start);
                self.tell_vbd(vbd::Event::Start, actions);
                self.tell_level(actions);
            }
            Event::Stop => self.tell_shutdown(shutdown::Event::Stop),
            Event::Removed => self.tell_vbd(vbd::Event::Remove, actions),
            Event::Recycled => self.tell_vbd(vbd::Event::Recycle, actions),
            Event::Launched(true) => self.tell_channel(channel::Event::Known, actions),
            Event::Launched(false) => self.tell_channel(channel::Event::NotLaunched, actions),
            Event::Paused(is_at_rest) => {
                let was_asked = matches!(self.asked, Some(Asked::Pause | Asked::TurnBack));
                self.note_end(was_asked, is_at_rest.then_some(channel::Event::Paused), actions);
            }
            Event::Resumed(is_served) => {
                let was_asked = self.asked == Some(Asked::Resume);
                self.note_end(was_asked, is_served.then_some(channel::Event::Resumed), actions);
                if was_asked && !is_served {
                    self.tell_vbd(vbd::Event::Break, actions);
                }
            }
            Event::Closed => self.note_end(self.asked == Some(Asked::Close), Some(channel::Event::Closed), actions),
            Event::Died => {
                self.asked = None;
                self.tell_channel(channel::Event::Died, actions);
            }
        }
    }

    /// Something that was asked for has ended. What comes later than something else was asked for does not count.
    fn note_end(&mut self, was_asked: bool, end: Option<channel::Event>, actions: &mut Vec<Action>) {
        if was_asked {
            self.asked = None;
            if let Some(end) = end {
                self.tell_channel(end, actions);
            }
        }
    }

    /// What the channel should come to.
    fn goal(&self) -> Goal {
        if self.is_revived && !self.channel.is_over() {
            return Goal::Closed;
        }
        match (self.shutdown, self.vbd) {
            (Shutdown::Down, _) | (_, Vbd::Dead | Vbd::Recycled) => Goal::Closed,
            (_, Vbd::Unpaused) => Goal::Running,
            (_, Vbd::Pausing | Vbd::Paused) => Goal::AtRest,
            (_, Vbd::Broken) => Goal::Held,
        }
    }

    /// What brings the channel closer to what it should be; none if it is there, or something has to end first.
    fn next_step(&self) -> Option<channel::Event> {
        let goal = self.goal();
        let waits = match self.asked {
            None => false,
            Some(Asked::Close) => true,
            // Nobody waits for a tapdisk that is to be let go of.
            Some(_) => goal != Goal::Closed,
        };
        if waits {
            return None;
        }
        match (goal, self.channel) {
            (Goal::Running | Goal::AtRest, Channel::Dead | Channel::Closed) => {
                self.is_revived.then_some(channel::Event::Launch)
            }
            (Goal::Running, Channel::Pid) if self.is_told => Some(channel::Event::Resume),
            (Goal::Running, Channel::Pid) => Some(channel::Event::Serve),
            (Goal::Running, Channel::Paused) => Some(channel::Event::Resume),
            (Goal::AtRest, Channel::Pid | Channel::Running) => Some(channel::Event::Pause),
            (Goal::Closed, Channel::Pid | Channel::Running | Channel::Paused) => Some(channel::Event::Close),
            _ => None,
        }
    }

    fn take(&mut self, step: channel::Event, actions: &mut Vec<Action>) {
        match step {
            channel::Event::Launch => self.is_revived = false,
            channel::Event::Pause => self.asked = Some(Asked::Pause),
            channel::Event::Resume => self.asked = Some(Asked::Resume),
            channel::Event::Close => self.asked = Some(Asked::Close),
            _ => {}
        }
        self.tell_channel(step, actions);
    }

    /// What follows from where it all has come to.
    fn conclude(&mut self, actions: &mut Vec<Action>) {
        if self.asked == Some(Asked::Pause) && self.goal() == Goal::Running {
            self.asked = Some(Asked::TurnBack);
            actions.push(Action::TurnBack);
        }
        if self.asked == Some(Asked::Close) || self.channel.is_over() {
            self.is_served = false;
        }
        self.answer(actions);
        // A disk at rest holds what guests ask: they may have it. One that shall come to rest is not given to them before.
        let may_have =
            matches!((self.channel, self.vbd), (Channel::Running, Vbd::Unpaused) | (Channel::Paused, Vbd::Paused));
        if may_have && self.asked.is_none() && !self.is_served {
            self.is_served = true;
            actions.push(Action::Serve);
        }
        if self.vbd.has_lost_its_directory() && self.channel.is_over() {
            self.tell_vbd(vbd::Event::End, actions);
        }
    }

    /// Answers whoever wants a pause, or none any more.
    fn answer(&mut self, actions: &mut Vec<Action>) {
        let is_back = match self.vbd {
            Vbd::Dead | Vbd::Recycled => false,
            Vbd::Unpaused if self.channel.is_over() => true,
            _ => self.channel == Channel::Running,
        };
        if self.is_told && is_back {
            self.is_told = false;
            actions.push(Action::TellUnpaused);
        }
        let is_at_rest = self.channel == Channel::Paused || self.channel.is_over();
        if self.vbd == Vbd::Pausing && is_at_rest && self.asked.is_none() {
            self.tell_vbd(vbd::Event::Rest, actions);
        }
    }

    fn tell_shutdown(&mut self, event: shutdown::Event) {
        let (next, actions) = self.shutdown.apply(event);
        assert!(next == self.shutdown || self.shutdown.may_become(next), "{self:?}: {event:?}");
        // One that lives, and shall, is what was asked for.
        let is_alive = self.shutdown == Shutdown::Up && !self.channel.is_over() && !self.is_revived;
        self.shutdown = next;
        for action in actions {
            self.is_revived = *action == shutdown::Action::Revive && !is_alive;
        }
    }

    fn tell_level(&mut self, actions: &mut Vec<Action>) {
        self.tell_vbd(if self.rest_is_wanted { vbd::Event::Pause } else { vbd::Event::Unpause }, actions);
    }

    fn tell_vbd(&mut self, event: vbd::Event, actions: &mut Vec<Action>) {
        let (next, wanted) = self.vbd.apply(event);
        assert!(next == self.vbd || self.vbd.may_become(next), "{self:?}: {event:?}");
        self.vbd = next;
        for action in wanted {
            actions.push(match action {
                vbd::Action::TellPaused => {
                    self.is_told = true;
                    Action::TellPaused
                }
                vbd::Action::Report => Action::Report,
                vbd::Action::Reprobe => Action::Reprobe,
                vbd::Action::Forget => {
                    self.is_forgotten = true;
                    Action::Forget
                }
            });
        }
    }

    fn tell_channel(&mut self, event: channel::Event, actions: &mut Vec<Action>) {
        let (next, wanted) = self.channel.apply(event);
        assert!(next == self.channel || self.channel.may_become(next), "{self:?}: {event:?}");
        self.channel = next;
        actions.extend(wanted.iter().map(|action| match action {
            channel::Action::Launch => Action::Launch,
            channel::Action::Pause => Action::Pause,
            channel::Action::Resume => Action::Resume,
            channel::Action::Close => Action::Close,
        }));
    }
}

#[cfg(test)]
mod tests;
