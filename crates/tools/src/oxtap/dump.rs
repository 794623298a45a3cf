//! `oxtap dump`: what the event loops of a disk have done last, and what they wait for. For finding out why it is slow.

use block_core::Result;
use control_api::native::{Command, LoopDump, ResultOf};

use super::{
    arguments::Dump,
    control::Disk,
    host::unexpected,
    size::describe_microseconds as time,
    text::{self, columns},
};

pub(super) fn run(arguments: &Dump) -> Result<()> {
    let mut disk = Disk::find(&arguments.disk)?;
    let ResultOf::Dump(mut dump) = disk.ask(Command::Dump {})? else { return Err(unexpected("dump")) };
    dump.loops.retain(|one| one.minor.is_none_or(|minor| minor == disk.place.minor));
    if arguments.json {
        return text::print_json(&dump);
    }
    let loops: Vec<String> = dump.loops.iter().map(|one| describe(one, arguments.turns)).collect();
    text::print(&loops.join("\n"))
}

fn describe(one: &LoopDump, turns: usize) -> String {
    let whose = match (one.minor, one.queue) {
        (Some(minor), Some(0)) => format!("home of minor {minor}"),
        (Some(minor), Some(queue)) => format!("queue {queue} of minor {minor}"),
        (Some(minor), None) => format!("for minor {minor}"),
        (None, _) => "for all disks".to_owned(),
    };
    let mut text = format!("thread {}, {whose}: last turn {} ago\n", one.thread, time(one.idle_us));
    if one.operations.is_empty() {
        text += "  nothing under way in storage\n";
    }
    for operation in &one.operations {
        text += &format!("  under way for {}: {}\n", time(operation.age_us), operation.what);
    }
    let shown = &one.turns[one.turns.len().saturating_sub(turns)..];
    if shown.is_empty() {
        return text;
    }
    let head = ["  SLEPT", "WORKED", "TASKS", "WOKEN BY"].map(str::to_owned);
    let rows = shown.iter().map(|turn| {
        let slept = format!("  {}", time(turn.slept_us));
        [slept, time(turn.lasted_us), turn.tasks.to_string(), turn.woken_by.clone()]
    });
    text + &columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::native::{LoopTurn, RunningOperation};

    #[test]
    fn a_loop_is_told_with_its_last_turns_and_what_it_waits_for() {
        let turn = |tasks| LoopTurn { slept_us: 1870, lasted_us: 12, woken_by: "1 completion".to_owned(), tasks };
        let one = LoopDump {
            thread: "disk-4".to_owned(),
            minor: Some(4),
            queue: Some(0),
            idle_us: 3_000_000,
            turns: vec![turn(1), turn(2), turn(3)],
            operations: vec![RunningOperation { what: "write /a.vhd 0x2000+0x1000".to_owned(), age_us: 3_000_000 }],
        };
        assert_eq!(
            describe(&one, 2),
            "thread disk-4, home of minor 4: last turn 3.00 s ago\n\
             \x20 under way for 3.00 s: write /a.vhd 0x2000+0x1000\n\
             \x20 SLEPT    WORKED  TASKS  WOKEN BY\n\
             \x20 1.87 ms  12 us   2      1 completion\n\
             \x20 1.87 ms  12 us   3      1 completion\n"
        );
        let idle = LoopDump { operations: Vec::new(), ..one };
        assert!(describe(&idle, 0).ends_with("ago\n  nothing under way in storage\n"));
    }
}
