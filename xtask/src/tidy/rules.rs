//! The rules for single files.

use super::Complaint;
use super::source::{SourceFile, find_words, is_word};

/// Past this a file holds more than one noun.
const FILE_LINES_MAX: usize = 900;

/// The crates that talk to the kernel, to hypervisors and to foreign memory; all others forbid unsafe code.
const UNSAFE_CRATES: &[&str] = &["storage-io", "xen", "export"];

/// Where the time may be asked for. Everything else gets it from its executor, so that tests can make it up.
const CLOCK_OWNERS: &[&str] = &[
    // The clock of the executors.
    "crates/storage-io/src/time.rs",
    // Blocking clients without an executor: deadlines and log lines.
    "crates/control-api/src/spawn.rs",
    "crates/control-api/src/host_log/",
    "crates/benchmarks/src/budget.rs",
    "crates/benchmarks/src/control.rs",
    "crates/benchmarks/src/images.rs",
    "crates/benchmarks/src/pipeline.rs",
    // How long a machine may take.
    "crates/xen-lab/",
    // A thread that sleeps on behalf of all executors of a process.
    "crates/xen/src/budget/bell.rs",
    // The program around the executors: its start, its log, its wait for a lock.
    "crates/tapdisk/src/main.rs",
    "crates/tapdisk/src/log/",
    "crates/control-api/src/stale.rs",
    "crates/tools/",
    "crates/test-support/",
    "xtask/",
];

// Taken apart, so that this file passes its own rules.
const UNFINISHED_WORDS: &[&str] = &[concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
const UNFINISHED_MACROS: &[&str] = &["todo", "unimplemented"];
const PRIVATE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// The rules for every text file.
pub(crate) fn check_text(path: &str, text: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    // Prose may need other letters, names of people for one; code and configuration do not.
    let is_prose = path.ends_with(".md");
    for (line, number) in text.lines().zip(1..) {
        if !is_prose && !line.is_ascii() {
            complaints.push(Complaint::new(path, number, "a character that is not ASCII"));
        }
        for word in UNFINISHED_WORDS {
            if find_words(line, word).next().is_some() {
                complaints.push(Complaint::new(path, number, format!("unfinished: {word}")));
            }
        }
        for private in PRIVATE_PATHS {
            if mentions_path(line, private) {
                complaints.push(Complaint::new(path, number, format!("a path of somebody's machine: {private}")));
            }
        }
    }
    complaints
}

/// Whether an absolute path starts with `prefix`, and not just the middle of some path.
fn mentions_path(line: &str, prefix: &str) -> bool {
    let starts_path = |&(at, _): &(usize, &str)| {
        let before = at.checked_sub(1).map(|before| line.as_bytes()[before]);
        before.is_none_or(|byte| !is_word(byte) && !matches!(byte, b'.' | b'-' | b'}' | b'>' | b'~' | b'*'))
    };
    line.match_indices(prefix).any(|found| starts_path(&found))
}

/// The rules for Rust sources.
pub(crate) fn check_source(source: &SourceFile) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut complain = |line: usize, reason: String| complaints.push(Complaint::new(&source.path, line, reason));
    if !source.lines.first().is_some_and(|line| line.starts_with("//!")) {
        complain(1, "a module starts with //! and what it is for".to_owned());
    }
    if source.lines.len() > FILE_LINES_MAX {
        complain(0, format!("{} lines; {FILE_LINES_MAX} is the most: split it", source.lines.len()));
    }
    if must_forbid_unsafe(&source.path) && !source.code.iter().any(|line| line.contains("#![forbid(unsafe_code)]")) {
        complain(1, "#![forbid(unsafe_code)] is missing".to_owned());
    }
    for (index, code) in source.code.iter().enumerate() {
        if let Some(name) = UNFINISHED_MACROS.iter().find(|name| calls_macro(code, name)) {
            complain(index + 1, format!("unfinished: {name}!()"));
        }
        if asks_the_time(code) && !source.is_test[index] && !owns_the_clock(&source.path) {
            complain(index + 1, "the time comes from the executor, not from the system".to_owned());
        }
        if opens_unsafe(code) && !is_explained(source, index) {
            complain(index + 1, "unsafe without `// SAFETY:` in front of it".to_owned());
        }
    }
    complaints
}

/// Whether the file is the root of a library or program that may not use unsafe code.
fn must_forbid_unsafe(path: &str) -> bool {
    let Some((package, file)) = path.split_once("/src/") else {
        return false;
    };
    let is_root = matches!(file, "lib.rs" | "main.rs") || (file.starts_with("bin/") && file.matches('/').count() == 1);
    is_root && !UNSAFE_CRATES.iter().any(|name| package == format!("crates/{name}"))
}

fn calls_macro(code: &str, name: &str) -> bool {
    find_words(code, name).any(|at| code[at + name.len()..].starts_with('!'))
}

fn asks_the_time(code: &str) -> bool {
    ["Instant::now", "SystemTime::now", "UNIX_EPOCH.elapsed"].iter().any(|call| find_words(code, call).next().is_some())
}

fn owns_the_clock(path: &str) -> bool {
    CLOCK_OWNERS.iter().any(|owner| path.starts_with(owner))
}

/// Whether a line opens an unsafe block, or makes an unsafe promise; types and attributes do neither.
fn opens_unsafe(code: &str) -> bool {
    find_words(code, "unsafe").any(|at| {
        let rest = code[at + "unsafe".len()..].trim_start();
        let is_function_type = rest.starts_with("fn(") || (rest.starts_with("extern") && rest.contains("fn("));
        !rest.starts_with('(') && !is_function_type
    })
}

/// Whether the statement or item around this line has an explanation in front of it, or on the line itself.
fn is_explained(source: &SourceFile, index: usize) -> bool {
    let explains = |line: &str| line.contains("// SAFETY:") || line.contains("/// # Safety");
    if explains(&source.lines[index]) {
        return true;
    }
    for above in (0..index).rev() {
        let (line, code) = (source.lines[above].trim(), source.code[above].trim());
        if explains(line) {
            return true;
        }
        let is_comment = code.is_empty() && !line.is_empty();
        let is_attribute = code.starts_with("#[");
        let ends_something = code.is_empty() || code.ends_with([';', '{', '}']);
        if !is_comment && !is_attribute && ends_something {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(path: &str, text: &str) -> Vec<String> {
        let source = SourceFile::new(path, text);
        check_source(&source).into_iter().map(|complaint| format!("{}: {}", complaint.line, complaint.reason)).collect()
    }

    #[test]
    fn a_tidy_file_passes() {
        let text = "//! A module.\n#![forbid(unsafe_code)]\nfn f() {}\n";
        assert_eq!(reasons("crates/x/src/lib.rs", text), Vec::<String>::new());
    }

    #[test]
    fn a_module_says_what_it_is_for() {
        assert_eq!(reasons("crates/x/src/a.rs", "fn f() {}\n"), ["1: a module starts with //! and what it is for"]);
    }

    #[test]
    fn crate_roots_forbid_unsafe_code() {
        let missing = ["1: #![forbid(unsafe_code)] is missing"];
        for path in ["crates/x/src/lib.rs", "crates/x/src/bin/y.rs", "xtask/src/main.rs"] {
            assert_eq!(reasons(path, "//! M.\n// #![forbid(unsafe_code)]\n"), missing, "{path}");
        }
        for path in ["crates/x/src/a.rs", "crates/storage-io/src/lib.rs", "crates/x/tests/lib.rs"] {
            assert_eq!(reasons(path, "//! M.\n"), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn unsafe_code_is_explained() {
        let good = "//! M.
fn f() {
    // SAFETY: because,
    // on two lines.
    let x = g(
        unsafe { h() },
    );
}
/// # Safety
///
/// The caller promises.
#[inline]
unsafe fn h() {}
type F = unsafe extern \"C\" fn(u8);
#[unsafe(no_mangle)]
fn i() {}
";
        assert_eq!(reasons("crates/storage-io/src/a.rs", good), Vec::<String>::new());
        let bad = "//! M.
fn f() {
    // SAFETY: for the first only.
    unsafe { g() };
    unsafe { h() };
}
unsafe impl Send for X {}
";
        let reason = "unsafe without `// SAFETY:` in front of it";
        assert_eq!(reasons("crates/storage-io/src/a.rs", bad), [format!("5: {reason}"), format!("7: {reason}")]);
    }

    #[test]
    fn the_time_is_asked_for_in_few_places() {
        let text = "//! M.\nfn f() { Instant::now(); }\n#[cfg(test)]\nmod tests { fn g() { Instant::now(); } }\n";
        assert_eq!(
            reasons("crates/image-chain/src/a.rs", text),
            ["2: the time comes from the executor, not from the system"]
        );
        assert_eq!(reasons("crates/storage-io/src/time.rs", text), Vec::<String>::new());
    }

    #[test]
    fn unfinished_work_is_refused() {
        let macro_call = format!("//! M.\nfn f() {{ {}!() }}\n", "todo");
        assert_eq!(reasons("crates/x/src/a.rs", &macro_call).len(), 1);
        let text = "a\n# TO~DO: later\nTO~DOS is a word\nmktemp a.XXXXXX\n".replace('~', "");
        let lines: Vec<usize> = check_text("deny.toml", &text).iter().map(|complaint| complaint.line).collect();
        assert_eq!(lines, [2]);
    }

    #[test]
    fn paths_of_a_machine_are_refused() {
        let text = "a /wo~rk/x\n\"/ro~ot/y\"\nhome/wo~rk/z\n${HOME}/wo~rk/z\n".replace('~', "");
        let lines: Vec<usize> = check_text("README.md", &text).iter().map(|complaint| complaint.line).collect();
        assert_eq!(lines, [1, 2]);
    }

    #[test]
    fn code_is_ascii_and_prose_need_not_be() {
        assert_eq!(check_text("a.rs", "// \u{2192}\n").len(), 1);
        assert_eq!(check_text("a.md", "\u{2192}\n").len(), 0);
    }

    #[test]
    fn a_long_file_is_refused() {
        let text = format!("//! M.\n{}", "fn f() {}\n".repeat(FILE_LINES_MAX));
        assert_eq!(reasons("crates/x/src/a.rs", &text), ["0: 901 lines; 900 is the most: split it"]);
    }
}
