//! What `td-util` understands.

use command_line::{Flag, Operand, Syntax, Value};

const TYPE: Operand = Operand::one_of("type", &["vhd", "aio"]);
const VHD: Operand = Operand::one_of("vhd", &["vhd"]);
const NAME: Operand = Operand::file("name");

pub(super) const CREATE: Syntax = Syntax {
    name: "create",
    about: "Make an image",
    text: "Makes an image of so many MiB. What was in the file before is gone.",
    flags: &[Flag::letter(b'r', "all room at once").explained(
        "It has all its room from the beginning, which a raw image always has: there the flag must be given.",
    )],
    operands: &[TYPE, Operand::text("size in MiB"), NAME],
};

pub(super) const SNAPSHOT: Syntax = Syntax {
    name: "snapshot",
    about: "Make an image that continues another",
    text: "Makes an image that continues its parent.",
    flags: &[
        Flag::letter(b'm', "the parent is raw").explained("The parent is a raw image."),
        Flag::letter(b'l', "longest chain").with(Value::text("depth")).explained("No chain becomes longer than this."),
    ],
    operands: &[VHD, NAME, Operand::file("parent")],
};

pub(super) const QUERY: Syntax = Syntax {
    name: "query",
    about: "Show what an image says of itself",
    text: "Prints what is asked, one line each, in this order.",
    flags: &[
        Flag::letter(b'v', "size in MiB").explained("The size of the disk in MiB."),
        Flag::letter(b'p', "parent").explained("The parent's path, or that there is none."),
        Flag::letter(b'f', "hidden").explained("Whether the image is hidden."),
        Flag::letter(b'd', "depth of the chain").explained("How many images the chain has."),
        Flag::letter(b'b', "by the footer at the start").explained(
            "A VHD answers by the copy of its footer at the start, which is right also while a tapdisk writes the image.",
        ),
    ],
    operands: &[TYPE, NAME],
};

pub(super) const SET: Syntax = Syntax {
    name: "set",
    about: "Hide an image, or show it again",
    text: "Hides an image from those who look for images, or shows it again.",
    flags: &[],
    operands: &[VHD, NAME, Operand::one_of("field", &["hidden"]), Operand::text("0..255")],
};
