//! Where our own programs were built.

use std::env;
use std::path::PathBuf;

/// The directory that holds our programs: `OXTAP_PROGRAMS`, else the target directory of the running test.
///
/// With it in front of `PATH`, the programs are installed.
pub fn program_directory() -> PathBuf {
    if let Some(directory) = env::var_os("OXTAP_PROGRAMS") {
        return PathBuf::from(directory);
    }
    let test = env::current_exe().expect("a running test has an executable");
    // target/<profile>/deps/<test>-<hash>
    test.ancestors().nth(2).expect("cargo puts tests two levels below the programs").to_path_buf()
}

/// The path of a program of ours, such as `tapdisk`.
///
/// # Panics
///
/// If it has not been built.
pub fn target_program(name: &str) -> PathBuf {
    let program = program_directory().join(name);
    assert!(
        program.is_file(),
        "{} has not been built: run cargo build --workspace --bins first, or cargo xtask test",
        program.display()
    );
    program
}
