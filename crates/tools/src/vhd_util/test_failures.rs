//! Failures on demand: storage managers test what they do when a command dies half-way, by naming the place in the
//! environment.

use std::{cell::Cell, env};

use block_core::{Error, ErrorKind, Result};

use super::Session;

/// Where a command can be made to fail.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    ReparentBegin,
    ReparentLocator,
    ReparentEnd,
    ResizeBegin,
    ResizeDataMoved,
    ResizeMetadataMoved,
    ResizeEnd,
}

impl Place {
    /// The variable that names it.
    fn variable(self) -> &'static str {
        match self {
            Place::ReparentBegin => "VHD_UTIL_TEST_FAIL_REPARENT_BEGIN",
            Place::ReparentLocator => "VHD_UTIL_TEST_FAIL_REPARENT_LOCATOR",
            Place::ReparentEnd => "VHD_UTIL_TEST_FAIL_REPARENT_END",
            Place::ResizeBegin => "VHD_UTIL_TEST_FAIL_RESIZE_BEGIN",
            Place::ResizeDataMoved => "VHD_UTIL_TEST_FAIL_RESIZE_DATA_MOVED",
            Place::ResizeMetadataMoved => "VHD_UTIL_TEST_FAIL_RESIZE_METADATA_MOVED",
            Place::ResizeEnd => "VHD_UTIL_TEST_FAIL_RESIZE_END",
        }
    }
}

/// The failures of one command.
pub(super) struct TestFailures<'a> {
    session: &'a Session,
    has_failed: Cell<bool>,
}

impl<'a> TestFailures<'a> {
    pub(super) fn new(session: &'a Session) -> TestFailures<'a> {
        TestFailures { session, has_failed: Cell::new(false) }
    }

    /// Fails if somebody wants a failure here.
    pub(super) fn at(&self, place: Place) -> Result<()> {
        let variable = place.variable();
        if env::var_os(variable).is_none() {
            return Ok(());
        }
        self.has_failed.set(true);
        let words = format!("Failing at {variable}");
        self.session.say(&words);
        Err(Error::new(ErrorKind::Invalid, words))
    }

    /// Whether that is why the command has failed: then nothing more is said of it on stdout.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.get()
    }
}
