//! Small pieces of output.

use std::io::{self, Write, stdout};

use block_core::{Result, ResultExt};
use serde::Serialize;

/// Prints text. A reader who has seen enough (`head`) is no error.
pub(super) fn print(text: &str) -> Result<()> {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("stdout"),
    }
}

/// Prints a value as JSON, for people to read, too.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("what we print has text for keys");
    print(&format!("{text}\n"))
}

/// What went wrong, in the words of who failed and in those that go with the number.
pub(super) fn failure(errno: i32, reason: &str) -> String {
    let meaning = control_api::describe(errno);
    if reason.is_empty() { meaning } else { format!("{reason}: {meaning}") }
}

/// Rows in columns: each as wide as its widest cell, two blanks between, nothing behind the last.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["PID", "IMAGE"], ["12345", "vhd:/a b"]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "PID    IMAGE\n12345  vhd:/a b\n");
    }
}
