//! What `tap-ctl` understands.

use command_line::{Flag, Syntax, Value};

/// Taken anywhere behind the command.
pub(super) const DEBUG: Flag = Flag::long("debug", "the messages that are exchanged are shown");

const PID: Flag = Flag::letter(b'p', "pid").with(Value::text("pid")).explained("The tapdisk, by its process id.");
const MINOR: Flag = Flag::letter(b'm', "minor").with(Value::text("minor")).explained("The minor.");
const IMAGE: Flag = Flag::letter(b'a', "type:path").with(Value::text("type:path")).explained("The image.");
const PATIENCE: Flag = Flag::letter(b't', "seconds").with(Value::text("seconds")).explained(
    "How long to wait for the answer; then the status is 110, and the line on standard error says what the disk is doing \
     instead. This bounds the waiting of `tap-ctl` alone: the tapdisk goes on with what it was told, and may end it later. \
     A deadline after which a pause is given up and the disk runs on is `oxtap pause --deadline`. \
     Without it, as storage managers expect, for as long as storage takes: where a device stays suspended, for ever.",
);
const NOT_OFFERED: &str = "Understood, and refused with status 38 where this tapdisk does not offer it.";

// What an image is opened with.
const READ_ONLY: Flag = Flag::letter(b'R', "readonly").explained("Read only.");
const CACHED: Flag = Flag::letter(b'D', "no O_DIRECT").explained("Through the page cache, where the image allows it.");
const READ_CACHE: Flag = Flag::letter(b'r', "local read cache").explained(NOT_OFFERED);
const PARENT_MINOR: Flag = Flag::letter(b'e', "parent minor").with(Value::text("minor")).explained(NOT_OFFERED);
const SECONDARY: Flag = Flag::letter(b'2', "secondary").with(Value::text("type:path")).explained(NOT_OFFERED);
const STANDBY: Flag = Flag::letter(b's', "standby").explained(NOT_OFFERED);
const RETRIES: Flag = Flag::letter(b't', "request timeout")
    .with(Value::text("seconds"))
    .explained("How long a request is tried again that failed with what may pass; 120 if this is left out, or 0.");
const CHANGE_LOG: Flag = Flag::letter(b'C', "change log").with(Value::file("path")).explained(NOT_OFFERED);

pub(super) const LIST: Syntax = Syntax {
    name: "list",
    about: "Show disks, processes and minors",
    text: "\
One line for each disk, for each tapdisk without one, and for each minor that no tapdisk has. \
To a terminal in columns; else as fields, of which those that are not known are left out: \
`pid=19403 minor=0 state=0 args=vhd:/images/a.vhd`",
    flags: &[
        PID,
        MINOR,
        Flag::letter(b't', "type").with(Value::one_of("type", &["vhd", "aio"])).explained("Disks of this type only."),
        Flag::letter(b'f', "file").with(Value::file("path")).explained("Disks of this image only."),
    ],
    operands: &[],
};

pub(super) const ALLOCATE: Syntax = Syntax {
    name: "allocate",
    about: "Reserve a minor",
    text: "Reserves the lowest free minor; prints the path of its marker.",
    flags: &[],
    operands: &[],
};

pub(super) const FREE: Syntax = Syntax {
    name: "free",
    about: "Give a minor back",
    text: "Gives a minor back. Status 11 if a tapdisk has it, 2 if it is not reserved.",
    flags: &[MINOR.required()],
    operands: &[],
};

pub(super) const CREATE: Syntax = Syntax {
    name: "create",
    about: "Serve an image with a tapdisk of its own",
    text: "\
Reserves a minor, starts a tapdisk, attaches the minor and opens the image. \
Prints the path of the minor's marker. A failure undoes what was done.",
    flags: &[
        IMAGE.required(),
        Flag::letter(b'd', "name").with(Value::text("name")).explained("Taken, and of no effect."),
        READ_ONLY,
        CACHED,
        READ_CACHE,
        PARENT_MINOR,
        SECONDARY,
        STANDBY,
        RETRIES,
        CHANGE_LOG,
    ],
    operands: &[],
};

pub(super) const DESTROY: Syntax = Syntax {
    name: "destroy",
    about: "Close a disk and give its minor back",
    text: "\
Closes the disk, detaches the minor and frees it. Stops at the first step that fails and says which it was. \
If the tapdisk has died, what it has left of the disk is taken away, and that is no failure, nor is it if there is nothing \
left; a disk that another tapdisk has by now is destroyed there if it belongs to the device whose script this runs in, and \
else left alone.",
    flags: &[PID.required(), MINOR.required(), PATIENCE, FORCE],
    operands: &[],
};

pub(super) const SPAWN: Syntax = Syntax {
    name: "spawn",
    about: "Start a tapdisk",
    text: "\
Starts a tapdisk; prints its process id. \
It has answered before the command ends. If it could not start, what it said is the reason.",
    flags: &[],
    operands: &[],
};

pub(super) const ATTACH: Syntax = Syntax {
    name: "attach",
    about: "Make a minor known to a tapdisk",
    text: "Makes a minor known to a tapdisk.",
    flags: &[PID.required(), MINOR.required()],
    operands: &[],
};

pub(super) const DETACH: Syntax = Syntax {
    name: "detach",
    about: "Take a minor away from a tapdisk",
    text: "Takes a minor away from a tapdisk, which ends with its last one.",
    flags: &[PID.required(), MINOR.required()],
    operands: &[],
};

pub(super) const OPEN: Syntax = Syntax {
    name: "open",
    about: "Open an image and serve it",
    text: "Opens an image, with all its parents, and serves it.",
    flags: &[
        PID.required(),
        MINOR.required(),
        IMAGE.required(),
        READ_ONLY,
        CACHED,
        READ_CACHE,
        PARENT_MINOR,
        SECONDARY,
        STANDBY,
        RETRIES,
        CHANGE_LOG,
        Flag::letter(b'E', "key on stdin").explained(
            "The images are encrypted, and their key is on standard input: 32 or 64 bytes, written at once. Every VHD of the \
             chain must have its hash: status 126 if one has that of another key, 22 if one has none. (Nor are encrypted images \
             opened without `-E`.) The tapdisk keeps the key until the disk is closed.",
        ),
    ],
    operands: &[],
};

pub(super) const CLOSE: Syntax = Syntax {
    name: "close",
    about: "Flush a disk and close its images",
    text: "Finishes what is under way, flushes, and closes the images.",
    flags: &[PID.required(), MINOR.required(), FORCE, PATIENCE],
    operands: &[],
};

const FORCE: Flag = Flag::letter(b'f', "force")
    .explained("Requests that wait are answered with an error, and it ends in bounded time.");

pub(super) const PAUSE: Syntax = Syntax {
    name: "pause",
    about: "Flush a disk and close its images until it is resumed",
    text: "\
Finishes what is under way, flushes, and closes the images, which may then be changed, moved or replaced. \
Clients stay connected; what they ask is held.",
    flags: &[PID.required(), MINOR.required(), PATIENCE],
    operands: &[],
};

pub(super) const UNPAUSE: Syntax = Syntax {
    name: "unpause",
    about: "Open the images of a disk again",
    text: "\
Opens the images again, or those of another path, and answers what was held. \
The disk may be larger than before, and not smaller.",
    flags: &[
        PID.required(),
        MINOR.required(),
        IMAGE.explained("Another image than before."),
        SECONDARY,
        Flag::letter(b'c', "change log").with(Value::file("path")).explained(NOT_OFFERED),
    ],
    operands: &[],
};

pub(super) const STATS: Syntax = Syntax {
    name: "stats",
    about: "Show the counters of a disk",
    text: "Prints the disk's counters as JSON.",
    flags: &[PID.required(), MINOR.required()],
    operands: &[],
};
