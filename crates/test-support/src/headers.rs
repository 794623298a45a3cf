//! What we take from headers in C, compared by a C compiler.

use std::{fmt::Display, fs, path::Path, process::Command};

/// Constant expressions in C, and what we take them for.
#[derive(Debug, Default)]
pub struct Facts(String);

impl Facts {
    /// The expression has this value.
    pub fn is(&mut self, expression: &str, ours: impl Display) {
        self.0 += &format!("_Static_assert(({expression}) == ({ours}), \"{expression} is not {ours}\");\n");
    }

    /// Has a compiler look whether all of it holds behind `head`, with headers from `directory`.
    ///
    /// # Panics
    /// With what the compiler says when it does not.
    pub fn hold(&self, head: &str, directory: &Path, options: &[&str]) {
        let place = tempfile::tempdir().expect("a directory for a test");
        let source = place.path().join("facts.c");
        fs::write(&source, format!("{head}\n{}", self.0)).expect("a file for a test");
        let mut compiler = Command::new("cc");
        compiler.arg("-fsyntax-only").args(options).arg("-I").arg(directory).arg(&source);
        let compiled = compiler.output().expect("there is a C compiler where Rust programs are linked");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    }
}
