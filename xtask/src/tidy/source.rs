//! A Rust source file as the rules see it: code without comments and literals, test code marked, functions found.
//!
//! This is no parser. It knows just enough of the language to tell code from text and to match braces.

/// One `.rs` file.
pub(crate) struct SourceFile {
    /// Relative to the top of the tree.
    pub(crate) path: String,
    /// As it is.
    pub(crate) lines: Vec<String>,
    /// The same lines, with blanks in place of comments and the contents of literals.
    pub(crate) code: Vec<String>,
    /// For each line, whether it is compiled for tests only.
    pub(crate) is_test: Vec<bool>,
    /// Every function with a body.
    pub(crate) functions: Vec<Function>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// The line of its `fn`, counted from one.
    pub(crate) line: usize,
    /// From there to its closing brace.
    pub(crate) length: usize,
    pub(crate) is_test: bool,
}

impl SourceFile {
    pub(crate) fn new(path: &str, text: &str) -> SourceFile {
        let code = mask(text);
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let is_test = test_lines(&code, lines.len(), is_test_path(path));
        let functions = functions(&code, &is_test);
        let code = code.lines().map(str::to_owned).collect();
        SourceFile { path: path.to_owned(), lines, code, is_test, functions }
    }
}

/// Whether a whole file is test code, by its place.
fn is_test_path(path: &str) -> bool {
    let mut parts = path.split('/').rev();
    let is_test_file = parts.next().is_some_and(|file| file == "tests.rs" || file.ends_with("_tests.rs"));
    is_test_file || parts.any(|directory| matches!(directory, "tests" | "benches" | "examples"))
}

/// Replaces comments and the contents of literals by blanks. Lines and columns stay where they are.
pub(crate) fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut masked = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = text_length(bytes, at);
        if length == 0 {
            masked.push(if bytes[at].is_ascii() { bytes[at] } else { b' ' });
            at += 1;
        } else {
            let end = bytes.len().min(at + length);
            masked.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8(masked).expect("only ASCII was kept")
}

/// How long the comment or literal is that starts here; 0 if none does.
fn text_length(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let follows_word = at > 0 && is_word(bytes[at - 1]);
    match rest[0] {
        b'/' if rest.starts_with(b"//") => rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
        b'/' if rest.starts_with(b"/*") => block_comment_length(rest),
        b'"' => quoted_length(rest, b'"'),
        b'\'' => character_length(rest),
        b'r' | b'b' | b'c' if !follows_word => prefixed_length(rest),
        _ => 0,
    }
}

fn block_comment_length(bytes: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// The length of a literal that starts and ends with `quote` and knows backslashes.
fn quoted_length(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A character literal; 0 for a lifetime.
fn character_length(bytes: &[u8]) -> usize {
    let is_escape = bytes.get(1) == Some(&b'\\');
    let is_one_character = bytes.get(2) == Some(&b'\'') && bytes.get(1) != Some(&b'\'');
    let is_wide = bytes.get(1).is_some_and(|byte| !byte.is_ascii());
    if is_escape || is_one_character || is_wide { quoted_length(bytes, b'\'') } else { 0 }
}

/// Literals that start with letters: `b"`, `b'`, `c"`, `r"`, `r#"`, `br#"`, `cr#"`.
fn prefixed_length(bytes: &[u8]) -> usize {
    let letters = bytes.iter().take_while(|&&byte| matches!(byte, b'r' | b'b' | b'c')).count().min(2);
    let is_raw = bytes[..letters].contains(&b'r');
    let hashes = bytes[letters..].iter().take_while(|&&byte| byte == b'#').count();
    match bytes.get(letters + hashes) {
        Some(b'"') if is_raw => {
            let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            let start = letters + hashes + 1;
            let length = bytes[start..].windows(end.len()).position(|window| window == end);
            length.map_or(bytes.len(), |length| start + length + end.len())
        }
        Some(b'"') if hashes == 0 => letters + quoted_length(&bytes[letters..], b'"'),
        Some(b'\'') if hashes == 0 && bytes[0] == b'b' && letters == 1 => 1 + quoted_length(&bytes[1..], b'\''),
        _ => 0,
    }
}

pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands in `code` as a whole word.
pub(crate) fn find_words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_whole = |&(at, _): &(usize, &str)| {
        let before = at.checked_sub(1).is_some_and(|before| is_word(code.as_bytes()[before]));
        let after = code.as_bytes().get(at + word.len()).is_some_and(|&byte| is_word(byte));
        !before && !after
    };
    code.match_indices(word).filter(is_whole).map(|(at, _)| at)
}

fn line_of(code: &str, at: usize) -> usize {
    code.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count()
}

/// Marks the lines of items under `#[cfg(test)]`.
fn test_lines(code: &str, count: usize, whole_file: bool) -> Vec<bool> {
    let mut is_test = vec![whole_file; count];
    for attribute in ["#[cfg(test)]", "#[cfg(any(test", "#[cfg(all(test"] {
        for (at, _) in code.match_indices(attribute) {
            let Some(end) = item_end(code, at) else { continue };
            is_test[line_of(code, at)..=line_of(code, end)].fill(true);
        }
    }
    is_test
}

/// The end of the item that starts here: its closing brace, or the semicolon if it has no body.
fn item_end(code: &str, start: usize) -> Option<usize> {
    let body = body_start(code, start)?;
    if code.as_bytes()[body] == b';' { Some(body) } else { matching_brace(code, body) }
}

/// The first `{` or `;` that is not inside parentheses or brackets.
fn body_start(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' | b';' if depth == 0 => return Some(offset),
            _ => {}
        }
    }
    None
}

fn matching_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(offset);
        }
    }
    None
}

fn functions(code: &str, is_test: &[bool]) -> Vec<Function> {
    find_words(code, "fn").filter_map(|at| function(code, at, is_test)).collect()
}

/// The function whose `fn` stands here; none for function types and for declarations without a body.
fn function(code: &str, at: usize, is_test: &[bool]) -> Option<Function> {
    let rest = code[at + 2..].trim_start();
    let name: String = rest.chars().take_while(|&character| is_word(u8::try_from(character).unwrap_or(0))).collect();
    let body = body_start(code, at)?;
    if name.is_empty() || code.as_bytes()[body] == b';' {
        return None;
    }
    let first = line_of(code, at);
    let last = line_of(code, matching_brace(code, body)?);
    Some(Function { name, line: first + 1, length: last - first + 1, is_test: is_test[first] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_is_kept() {
        let cases = [
            ("a /* b /* c */ d */ e", "a                   e"),
            ("f(\"x { \\\" y\") // tail", "f(          )        "),
            ("r#\"a \" { \"#; g", "           ; g"),
            ("br\"\\\"; x", "     ; x"),
            ("let q = '{'; let l: &'a str;", "let q =    ; let l: &'a str;"),
            ("'\\'' + b'\\\\' + '\\u{7f}'", "     +       +         "),
            ("c\"no\" abc\"yes\"", "      abc     "),
            ("r#type = 1", "r#type = 1"),
        ];
        for (text, expected) in cases {
            assert_eq!(mask(text), expected, "{text}");
        }
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "a\n\"b\nc\"\n/* d\n e */ f\n";
        assert_eq!(mask(text).lines().count(), text.lines().count());
        assert_eq!(mask(text).lines().last(), Some("      f"));
    }

    const FILE: &str = "\
//! A module.
fn short() {}
trait T { fn declared(&self, f: fn(u8) -> u8); }
fn longer<const N: usize>(a: [u8; 4]) -> u8
where
    u8: Copy,
{
    let text = \"}\";
    0
}
#[cfg(test)]
mod tests {
    fn inside() {
    }
}
fn after() {}
";

    #[test]
    fn functions_are_measured() {
        let source = SourceFile::new("crates/x/src/lib.rs", FILE);
        let found: Vec<(&str, usize, usize, bool)> = source
            .functions
            .iter()
            .map(|function| (function.name.as_str(), function.line, function.length, function.is_test))
            .collect();
        assert_eq!(
            found,
            [("short", 2, 1, false), ("longer", 4, 7, false), ("inside", 13, 2, true), ("after", 16, 1, false)]
        );
    }

    #[test]
    fn files_of_tests_are_known_by_their_place() {
        for path in ["crates/x/tests/a.rs", "crates/x/src/vhd/tests.rs", "crates/x/src/vhd/tests/open.rs"] {
            assert!(is_test_path(path), "{path}");
        }
        assert!(!is_test_path("crates/test-support/src/lib.rs"));
    }
}
