//! The project's own commands: set up, test, check, demonstrate.

fn main() {}
