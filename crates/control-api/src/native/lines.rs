//! Cutting what arrives into lines, with a bound.

use std::fmt;

/// Cuts bytes, as they arrive, into lines. Pure: it reads nothing itself.
#[derive(Debug)]
pub struct LineReader {
    line: Vec<u8>,
    bytes_max: usize,
}

/// A line was longer than it may be. Nothing can be read behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineTooLong {
    /// How long it may be.
    pub bytes_max: usize,
}

impl fmt::Display for LineTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a line is longer than {} bytes", self.bytes_max)
    }
}

impl LineReader {
    /// A reader of lines that have at most so many bytes, their end not counted.
    pub fn new(bytes_max: usize) -> LineReader {
        LineReader { line: Vec::new(), bytes_max }
    }

    /// Takes bytes up to the end of a line, and gives how many, and the line if it is whole.
    ///
    /// # Errors
    /// The line is too long, whether its end was seen or not.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Vec<u8>>), LineTooLong> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if self.line.len() + part.len() > self.bytes_max {
            return Err(LineTooLong { bytes_max: self.bytes_max });
        }
        self.line.extend_from_slice(part);
        match end {
            Some(end) => Ok((end + 1, Some(std::mem::take(&mut self.line)))),
            None => Ok((bytes.len(), None)),
        }
    }

    /// Whether a line has begun and not ended.
    pub fn is_in_line(&self) -> bool {
        !self.line.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(reader: &mut LineReader, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let (taken, line) = reader.feed(bytes).unwrap();
            bytes = &bytes[taken..];
            lines.extend(line.map(|line| String::from_utf8(line).unwrap()));
        }
        lines
    }

    #[test]
    fn lines_are_the_same_wherever_they_are_cut() {
        let bytes = b"one\n\nthree\nfo";
        for split in 0..=bytes.len() {
            let mut reader = LineReader::new(5);
            let mut found = lines(&mut reader, &bytes[..split]);
            found.extend(lines(&mut reader, &bytes[split..]));
            assert_eq!(found, ["one", "", "three"]);
            assert!(reader.is_in_line());
        }
    }

    #[test]
    fn a_line_may_be_as_long_as_the_bound_and_no_longer() {
        let too_long = Err(LineTooLong { bytes_max: 3 });
        assert_eq!(LineReader::new(3).feed(b"abc\n"), Ok((4, Some(b"abc".to_vec()))));
        assert_eq!(LineReader::new(3).feed(b"abcd\n"), too_long);
        // Also before its end is seen: it is not kept until memory is full.
        let mut reader = LineReader::new(3);
        assert_eq!(reader.feed(b"ab"), Ok((2, None)));
        assert_eq!(reader.feed(b"cd"), too_long);
    }
}
