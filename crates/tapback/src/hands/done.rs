//! Telling those who wait for it that nothing more is written for a guest: `shutdown-done`.
//!
//! ```text
//!   ring connected --let go of, all durable, the last writer's access gone--> shutdown-done = 1 --offered anew--> (gone)
//!         |                                                                        |
//!         |   no node: not done                                                    +-- directory removed: done
//!         +-- not all durable, or nobody is there who could know --> no node, and the reason in the error node
//! ```

use rustix::io::Errno;
use xenbus::State;

use super::{Hands, JobEnd, let_go};
use crate::{
    Guest, LetGo,
    directory::{Change, StateChange},
    nodes::refusal,
    offer::Node,
};

/// The node.
pub(super) const DONE: &str = "shutdown-done";

impl Hands {
    /// A ring was let go of, by us or by somebody else.
    pub(super) async fn note_let_go(&mut self, ended: LetGo) {
        let LetGo { is_answered, not_durable } = ended;
        self.is_done = is_answered && not_durable.is_none();
        if let Some(reason) = not_durable {
            self.trouble = Some(refusal(Errno::IO, format!("not all that was written is durable: {reason}")));
            self.report_trouble().await;
        }
        // With `Closed` it is told by itself.
        if self.is_done && self.directory.shown() == State::Closing {
            self.change(&Change { nodes: &[done()], removed: &[], state: StateChange::Keep }).await;
        }
    }

    /// What is to be told with a state.
    pub(super) fn done_with(&self, state: State) -> Vec<Node> {
        if self.is_done && state == State::Closed { vec![done()] } else { Vec::new() }
    }

    /// Somebody else has let go of the ring: a toolstack that releases a guest's disks before the guest has gone.
    pub(super) fn ask_whether_done(&mut self) {
        let Some(disk) = self.ring_disk else { return };
        let (host, name, shared) = (self.host.clone(), self.name.clone(), self.shared.clone());
        let asking = async move { shared.end(JobEnd::LetGo(let_go(&host, &name, disk, Guest::Waits).await)) };
        self.job = Some(self.host.executor.spawn(asking));
    }
}

fn done() -> Node {
    (DONE, "1".to_owned())
}
