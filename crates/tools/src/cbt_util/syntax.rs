//! What `cbt-util` understands.

use command_line::{Flag, Syntax, Value};

const LOG: Flag = Flag::letter(b'n', "name").with(Value::file("log")).required().explained("The log.");
const PARENT: Flag = Flag::letter(b'p', "parent's UUID");
const CHILD: Flag = Flag::letter(b'c', "child's UUID");
const SIZE: Flag = Flag::letter(b's', "size of the disk in bytes");

pub(super) const CREATE: Syntax = Syntax {
    name: "create",
    about: "Make a log",
    text: "Makes a log for a disk of this size: no block is marked, no other log belongs to it, and it is not consistent. \
           What was in the file before is gone.",
    flags: &[LOG, SIZE.with(Value::text("bytes")).required()],
    operands: &[],
};

pub(super) const SET: Syntax = Syntax {
    name: "set",
    about: "Change what the header of a log says",
    text: "Changes what the header says; at least one flag besides `-n` is needed.",
    flags: &[
        LOG,
        PARENT.with(Value::text("UUID")).explained("The log of the snapshot before. What is no UUID changes nothing."),
        CHILD.with(Value::text("UUID")).explained("The log of the snapshot after."),
        Flag::letter(b'f', "consistent: 0 | 1")
            .with(Value::one_of("number", &["0", "1"]))
            .explained("1 if the map is consistent with the disk, else 0."),
        SIZE.with(Value::text("bytes"))
            .explained("The size of a disk that has grown; its new blocks are not marked. No disk becomes smaller."),
    ],
    operands: &[],
};

pub(super) const GET: Syntax = Syntax {
    name: "get",
    about: "Show what a log says",
    text: "Prints one of these.",
    flags: &[
        LOG,
        PARENT.required().explained("The log of the snapshot before."),
        CHILD.or_the_last().explained("The log of the snapshot after."),
        Flag::letter(b'f', "consistent").or_the_last().explained("1 if the map is consistent with the disk, else 0."),
        SIZE.or_the_last(),
        Flag::letter(b'b', "bitmap").or_the_last().explained(
            "The bytes of the bitmap, in which block n is bit n modulo 8 of byte n / 8, counted from the least significant.",
        ),
    ],
    operands: &[],
};

pub(super) const COALESCE: Syntax = Syntax {
    name: "coalesce",
    about: "Mark in one log what is marked in another",
    text: "Marks in the child what is marked in the parent, whose map must not be the longer one. Nothing else changes. \
           Done twice, or again after it was killed, it is the same.",
    flags: &[
        Flag::letter(b'p', "parent log").with(Value::file("parent")).required(),
        Flag::letter(b'c', "child log").with(Value::file("child")).required(),
    ],
    operands: &[],
};
