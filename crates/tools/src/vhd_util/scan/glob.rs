//! Patterns of names, as shells and `fnmatch` have them: `*`, `?`, `[a-z]`, `\x`, `{a,b}`, and the extended
//! `@(a|b)`, `?(a)`, `*(a)`, `+(a)`, `!(a)`.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// Whether a whole name fits a pattern.
pub(super) fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let Some((&first, rest)) = pattern.split_first() else { return name.is_empty() };
    if let (b'?' | b'*' | b'+' | b'@' | b'!', [b'(', ..]) = (first, rest)
        && let Some((choices, behind)) = group(&rest[1..])
    {
        return fits_group(pattern, first, &choices, behind, name);
    }
    match first {
        b'*' => (0..=name.len()).any(|taken| fits(rest, &name[taken..])),
        b'?' => name
            .split_at_checked(letter_bytes(name))
            .is_some_and(|(letter, behind)| !letter.is_empty() && fits(rest, behind)),
        b'[' => match class(rest) {
            Some((holds, behind)) => name.split_first().is_some_and(|(byte, name)| holds(*byte) && fits(behind, name)),
            None => name.split_first().is_some_and(|(byte, name)| *byte == b'[' && fits(rest, name)),
        },
        b'\\' if !rest.is_empty() => name.first() == rest.first() && fits(&rest[1..], &name[1..]),
        byte => name.split_first().is_some_and(|(next, name)| *next == byte && fits(rest, name)),
    }
}

/// Bytes of the first letter, which may be several.
fn letter_bytes(name: &[u8]) -> usize {
    let more = name.iter().skip(1).take_while(|byte| **byte & 0xc0 == 0x80).count();
    name.len().min(1) + more
}

fn fits_group(whole: &[u8], kind: u8, choices: &[&[u8]], behind: &[u8], name: &[u8]) -> bool {
    let is_choice = |part: &[u8]| choices.iter().any(|choice| fits(choice, part));
    let splits = || (0..=name.len()).map(|taken| name.split_at(taken));
    // One more of the same, after one that took something.
    let again = [b"*", &whole[1..]].concat();
    match kind {
        b'!' => splits().any(|(part, rest)| !is_choice(part) && fits(behind, rest)),
        b'@' => splits().any(|(part, rest)| is_choice(part) && fits(behind, rest)),
        b'?' => fits(behind, name) || splits().any(|(part, rest)| is_choice(part) && fits(behind, rest)),
        b'*' if fits(behind, name) => true,
        _ => splits()
            .any(|(part, rest)| is_choice(part) && (fits(behind, rest) || !part.is_empty() && fits(&again, rest))),
    }
}

/// The choices of a group, and what follows it; `pattern` begins behind the opening bracket.
fn group(pattern: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    split_choices(pattern, b'(', b'|', b')')
}

/// Parts between separators up to the closing bracket, and what follows that.
fn split_choices(pattern: &[u8], open: u8, separator: u8, close: u8) -> Option<(Vec<&[u8]>, &[u8])> {
    let (mut depth, mut start, mut choices, mut at) = (0, 0, Vec::new(), 0);
    while at < pattern.len() {
        match pattern[at] {
            b'\\' => at += 1,
            byte if byte == open => depth += 1,
            byte if byte == separator && depth == 0 => {
                choices.push(&pattern[start..at]);
                start = at + 1;
            }
            byte if byte == close && depth == 0 => {
                choices.push(&pattern[start..at]);
                return Some((choices, &pattern[at + 1..]));
            }
            byte if byte == close => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

/// What a class in brackets holds, and what follows it; `pattern` begins behind the bracket.
fn class(pattern: &[u8]) -> Option<(impl Fn(u8) -> bool + '_, &[u8])> {
    let (is_not, members) = match pattern {
        [b'!' | b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    // A bracket that comes first is a member.
    let end = 1 + members.iter().skip(1).position(|byte| *byte == b']')?;
    let (members, behind) = (&members[..end], &members[end + 1..]);
    let holds = move |byte: u8| {
        let mut rest = members;
        let mut is_member = false;
        while let Some((&first, more)) = rest.split_first() {
            if let [b'-', last, behind @ ..] = more {
                is_member |= (first..=*last).contains(&byte);
                rest = behind;
            } else {
                is_member |= first == byte;
                rest = more;
            }
        }
        is_member != is_not
    };
    Some((holds, behind))
}

/// The patterns that a pattern with braces stands for.
fn without_braces(pattern: &[u8]) -> Vec<Vec<u8>> {
    let open = pattern.iter().position(|byte| *byte == b'{');
    let parts = open.and_then(|open| Some((open, split_choices(&pattern[open + 1..], b'{', b',', b'}')?)));
    let Some((open, (choices, behind))) = parts else { return vec![pattern.to_vec()] };
    let whole = |choice: &[u8]| without_braces(&[&pattern[..open], choice, behind].concat());
    choices.into_iter().flat_map(whole).collect()
}

/// The files that a pattern of paths names: sorted, or as the directories have them.
pub(super) fn files(pattern: &OsStr, is_sorted: bool) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for pattern in without_braces(pattern.as_bytes()) {
        let mut found = expand(&pattern);
        if is_sorted {
            found.sort();
        }
        files.extend(found);
    }
    files
}

fn expand(pattern: &[u8]) -> Vec<PathBuf> {
    let start = if pattern.starts_with(b"/") { PathBuf::from("/") } else { PathBuf::new() };
    let mut paths = vec![start];
    for part in pattern.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        paths = paths.iter().flat_map(|path| members(path, part)).collect();
    }
    paths.retain(|path| !path.as_os_str().is_empty() && path.symlink_metadata().is_ok());
    paths
}

/// The members of a directory that fit a part of a pattern. Hidden ones must be meant.
fn members(directory: &Path, part: &[u8]) -> Vec<PathBuf> {
    if !part.iter().any(|byte| b"*?[\\(".contains(byte)) {
        return vec![directory.join(OsStr::from_bytes(part))];
    }
    let place = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let names = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_meant = |name: &OsString| part.starts_with(b".") || !name.as_bytes().starts_with(b".");
    let fitting = names.filter(|name| is_meant(name) && fits(part, name.as_bytes()));
    fitting.map(|name| directory.join(OsString::from_vec(name.into_vec()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_patterns_as_in_a_shell() {
        let all = ["", "a", "ab", "abc", "VHD-1", "VHD-2", "a.vhd", "[x"];
        let fitting = |pattern: &str| {
            all.into_iter().filter(|name| fits(pattern.as_bytes(), name.as_bytes())).collect::<Vec<_>>()
        };
        assert_eq!(fitting("*"), all);
        assert_eq!(fitting("a*"), ["a", "ab", "abc", "a.vhd"]);
        assert_eq!(fitting("??"), ["ab", "[x"]);
        assert_eq!(fitting("VHD-[13-9]"), ["VHD-1"]);
        assert_eq!(fitting("VHD-[!1]"), ["VHD-2"]);
        assert_eq!(fitting("\\[x"), ["[x"]);
        assert_eq!(fitting("[x"), ["[x"]);
        assert_eq!(fitting("@(a|*.vhd)"), ["a", "a.vhd"]);
        assert_eq!(fitting("!(*-*|a*)"), ["", "[x"]);
        assert_eq!(fitting("+([a-c])"), ["a", "ab", "abc"]);
        assert_eq!(fitting("a?(b)"), ["a", "ab"]);
        assert_eq!(fitting("*(a|b)"), ["", "a", "ab"]);
        assert!(fits(b"?", "\u{e4}".as_bytes()));
    }

    #[test]
    fn braces_are_choices() {
        let choices = |pattern: &str| without_braces(pattern.as_bytes());
        assert_eq!(choices("{a,b{c,d}}.vhd"), [b"a.vhd".to_vec(), b"bc.vhd".to_vec(), b"bd.vhd".to_vec()]);
        assert_eq!(choices("{a"), [b"{a".to_vec()]);
    }
}
