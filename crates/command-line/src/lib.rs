//! What a program understands, said once: a table of commands and their flags.
//!
//! ```text
//!                     +--> Options    what a command line says (as getopt reads it)
//!   Program, Syntax --+--> usage      what those are told who did not get it right
//!     and Flag        +--> manual     the page
//!                     +--> whoever makes completions of it reads the table itself
//! ```
//!
//! For the programs that storage managers start thousands of times a day: nothing is built when they start, and the
//! table is read only as far as the command line goes. It opens no file and prints nothing.
//!
//! ```
//! use command_line::{Flag, Syntax, Value};
//!
//! const QUERY: Syntax = Syntax {
//!     name: "query",
//!     about: "Show what an image says of itself",
//!     text: "Prints one line for each letter, always in this order.",
//!     flags: &[
//!         Flag::letter(b'n', "name").with(Value::file("image")).required().explained("The image to look at."),
//!         Flag::letter(b'v', "virtual size in MiB").explained("The size of the disk in MiB."),
//!         Flag::long("json", "as JSON"),
//!     ],
//!     operands: &[],
//! };
//! let words = ["-n", "a.vhd", "--json"].map(Into::into);
//! let options = QUERY.parse(&words).expect("these are its flags");
//! assert!(options.has("json") && !options.has(b'v'));
//! assert_eq!(QUERY.usage(), "<-n name> [-v virtual size in MiB] [--json as JSON]");
//! ```

#![forbid(unsafe_code)]

mod manual;
mod options;
mod syntax;

pub use options::{Options, leading_number};
pub use syntax::{Completes, Flag, HELP, Key, Operand, Program, Syntax, Value};
