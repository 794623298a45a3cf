//! The guide for users is true: all its commands are run, and all its files are written, in the order in which they stand
//! there.

use std::fmt::Write as _;

const GUIDE: &str = include_str!("../../../../docs/xen.md");
const FENCE: &str = "```";

/// Something that the guide has the reader do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Commands, from this line on.
    Run { line: usize, commands: String },
    /// A file.
    Write { path: String, contents: String },
}

/// All blocks of the guide: commands are shell, a file has its path behind its language.
fn steps(guide: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = guide.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(kind) = line.strip_prefix(FENCE) else { continue };
        let body = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != FENCE);
        let text: String = body.flat_map(|line| [line, "\n"]).collect();
        steps.push(match kind.split_once(' ') {
            None if kind == "sh" => Step::Run { line: number + 2, commands: text },
            Some((_, path)) => Step::Write { path: path.to_owned(), contents: text },
            None => panic!("line {}: neither commands nor a file", number + 1),
        });
    }
    steps
}

/// The guide as a script: `guide_step` runs what stands in a block, `guide_file` writes a file.
pub(crate) fn script() -> String {
    let mut script = include_str!("guide.sh").to_owned();
    for step in steps(GUIDE) {
        let (call, body) = match &step {
            Step::Run { line, commands } => (format!("guide_step {line}"), commands),
            Step::Write { path, contents } => (format!("guide_file {path}"), contents),
        };
        write!(script, "{call} <<'END OF THE BLOCK'\n{body}END OF THE BLOCK\n").unwrap();
    }
    script + "guide_end\n"
}

#[test]
fn blocks_are_steps() {
    let step = |line, commands: &str| Step::Run { line, commands: commands.to_owned() };
    let file = Step::Write { path: "/etc/x".to_owned(), contents: "y = 1\n".to_owned() };
    let guide = "a\n```sh\nb\nc\n```\n```ini /etc/x\ny = 1\n```\n\n```sh\nd\n```\n";
    assert_eq!(steps(guide), [step(3, "b\nc\n"), file, step(11, "d\n")]);
}
