//! `query`: what an image says of itself, one line each, always in the same order.

use std::ffi::OsStr;

use block_core::Result;
use command_line::{Flag, Options, Syntax};
use control_api::errno;
use image_format::vhd::{FOOTER_BYTES, UNUSED_ENTRY};
use storage_io::Access;

use super::{
    Failure, IMAGE, Session, name,
    opened::{Demands, OpenedVhd},
    parents::{chain_of, parent_of, stored_parent_of},
    set,
};

/// Blocks of the table to MiB of the disk, as storage managers count them: 2 MiB each.
const BLOCK_MEBIBYTES: u64 = 2;

pub(super) const SYNTAX: Syntax = Syntax {
    name: "query",
    about: "Show what an image says of itself",
    text: "\
Prints one line for each letter, always in this order. \
An image that an unfinished resize has disabled can be queried. \
If several answers fail, the others are printed all the same and the status is that of the first failure.",
    flags: &[
        IMAGE.explained("The image to look at."),
        Flag::letter(b'v', "virtual size in MiB").explained("The size of the disk in MiB."),
        Flag::letter(b's', "physical size in bytes")
            .explained("The size of the image in bytes: the end of its last block, and a footer."),
        Flag::letter(b'p', "parent").explained(
            "The absolute path of the parent, which must exist; or \"*image* has no parent\", or \"query failed\".",
        ),
        Flag::letter(b'f', "hidden").explained("\"hidden: \" and the mark that `set` leaves."),
        Flag::letter(b'm', "marker").explained("\"marker: \" and the mark that `set` leaves."),
        Flag::letter(b'd', "depth of the chain")
            .explained("\"chain depth: \" and the number of images down to the base; 1 without a parent."),
        Flag::letter(b'a', "allocated blocks")
            .explained("The number of allocated blocks. Fixed images have no blocks: status 22."),
        Flag::letter(b'S', "largest size in MiB without moving data")
            .explained("The largest disk, in MiB, that the tables have room for."),
        Flag::letter(b'u', "the parent as it is stored")
            .explained("With `-p`: the parent's path as it is stored in the image, whether or not it leads anywhere."),
        Flag::letter(b'b', "by the footer at the start")
            .explained("Go by the copy of the footer at the start of the image alone."),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    // One that a resize left disabled can still be looked at.
    let demands = Demands { disabled: true, copy_only: options.has(b'b'), ..Demands::default() };
    let opened = session.executor.block_on(OpenedVhd::open(session, name, Access::Read, demands));
    let vhd = opened.inspect_err(|error| session.say_unopened(name.as_os_str(), error))?;
    let query = Query { session, vhd: &vhd, name: name.as_os_str() };
    Ok(session.executor.block_on(query.answer(options))?)
}

struct Query<'a> {
    session: &'a Session,
    vhd: &'a OpenedVhd,
    name: &'a OsStr,
}

impl Query<'_> {
    /// Answers all that was asked; the first failure is the command's, and what can be said is said all the same.
    async fn answer(&self, options: &Options) -> Result<()> {
        let mut result = Ok(());
        if options.has(b'v') {
            self.session.say((self.vhd.footer.bytes().current_size.get() >> 20).to_string());
        }
        if options.has(b's') {
            result = result.and(self.physical_size().await);
        }
        if options.has(b'p') {
            result = result.and(self.parent(options.has(b'u')).await);
        }
        if options.has(b'f') {
            self.session.say(format!("hidden: {}", self.vhd.footer.hidden()));
        }
        if options.has(b'm') {
            result = result.and(self.marker().await);
        }
        if options.has(b'd') {
            result = result.and(self.depth().await);
        }
        if options.has(b'a') {
            result = result.and(self.allocated().await);
        }
        if options.has(b'S') {
            let entries = self.vhd.header.as_ref().map_or(0, |header| header.table_entries());
            self.session.say((u64::from(entries) * BLOCK_MEBIBYTES).to_string());
        }
        result
    }

    async fn physical_size(&self) -> Result<()> {
        let end = self.vhd.end_of_data(&self.session.executor).await;
        let end = end.inspect_err(|error| {
            self.session.say(format!("failed to get physical size: -{}", errno(error)));
        })?;
        self.session.say((end + FOOTER_BYTES as u64).get().to_string());
        Ok(())
    }

    async fn parent(&self, as_stored: bool) -> Result<()> {
        let parent = if as_stored {
            stored_parent_of(self.session, self.vhd).await.map(|stored| stored.map(Into::into))
        } else {
            parent_of(self.session, self.vhd).await.map(|parent| parent.map(|parent| parent.path))
        };
        match parent.inspect_err(|_| self.session.say("query failed"))? {
            Some(path) => self.session.say(path.as_os_str().as_encoded_bytes()),
            None => self.session.say([self.name.as_encoded_bytes(), b" has no parent"].concat()),
        }
        Ok(())
    }

    async fn marker(&self) -> Result<()> {
        let marker = set::marker(self.session, self.vhd).await;
        let marker = marker.inspect_err(|error| {
            self.session.say(format!("error checking 'marker' field: -{}", errno(error)));
        })?;
        self.session.say(format!("marker: {marker}"));
        Ok(())
    }

    async fn depth(&self) -> Result<()> {
        let chain = chain_of(self.session, self.vhd).await;
        let chain = chain.inspect_err(|error| {
            self.session.say(format!("error checking chain depth: -{}", errno(error)));
        })?;
        self.session.say(format!("chain depth: {}", chain.len()));
        Ok(())
    }

    async fn allocated(&self) -> Result<()> {
        let table = self.vhd.table(&self.session.executor).await;
        let table = table.inspect_err(|error| self.session.say(format!("error reading bat: -{}", errno(error))))?;
        self.session.say(table.iter().filter(|entry| **entry != UNUSED_ENTRY).count().to_string());
        Ok(())
    }
}
