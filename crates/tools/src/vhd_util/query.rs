//! `query`: what an image says of itself, one line each, always in the same order.

use std::ffi::{OsStr, OsString};

use block_core::Result;
use command_line::{Flag, Options, Syntax};
use control_api::errno;
use image_format::vhd::{FOOTER_BYTES, UNUSED_ENTRY};
use storage_io::Access;

use super::{
    Failure, IMAGE, Session,
    json::{self, Facts, JSON},
    name,
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
        JSON.explained(
            "One JSON object, with what the letters ask for, or with everything: `image`, `virtual_bytes`, `physical_bytes`, \
             `parent`, `hidden`, `marker`, `depth`, `allocated_blocks`, `largest_bytes`. What cannot be said is null, and \
             has its reason below `errors`.",
        ),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    // One that a resize left disabled can still be looked at.
    let demands = Demands { disabled: true, copy_only: options.has(b'b'), ..Demands::default() };
    let opened = session.executor.block_on(OpenedVhd::open(session, name, Access::Read, demands));
    let is_json = options.has("json");
    let vhd = opened.inspect_err(|error| match is_json {
        true => session.say_json(&json::unopened(name.as_os_str(), error)),
        false => session.say_unopened(name.as_os_str(), error),
    })?;
    let query = Query { session, vhd: &vhd, name: name.as_os_str() };
    if is_json {
        return Ok(session.executor.block_on(query.answer_json(options))?);
    }
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
            self.session.say(self.largest_mebibytes().to_string());
        }
        result
    }

    /// The same as JSON: what was asked, or everything.
    async fn answer_json(&self, options: &Options) -> Result<()> {
        let asked = |letter| options.has(letter) || !b"vspfmdaS".iter().any(|letter| options.has(*letter));
        let mut facts = Facts::of(self.name);
        let mut result = Ok(());
        if asked(b'v') {
            result = result.and(facts.add("virtual_bytes", Ok(self.vhd.footer.bytes().current_size.get())));
        }
        if asked(b's') {
            result = result.and(facts.add("physical_bytes", self.physical_bytes().await));
        }
        if asked(b'p') {
            let parent = self.parent_path(options.has(b'u')).await;
            result = result.and(facts.add("parent", parent.map(|path| path.map(json::name))));
        }
        if asked(b'f') {
            result = result.and(facts.add("hidden", Ok(self.vhd.footer.hidden())));
        }
        if asked(b'm') {
            result = result.and(facts.add("marker", set::marker(self.session, self.vhd).await));
        }
        if asked(b'd') {
            let chain = chain_of(self.session, self.vhd).await;
            result = result.and(facts.add("depth", chain.map(|chain| chain.len())));
        }
        // A fixed image has no blocks: that is a failure only for those who ask for them.
        if options.has(b'a') || (asked(b'a') && self.vhd.header.is_some()) {
            result = result.and(facts.add("allocated_blocks", self.allocated_blocks().await));
        }
        if asked(b'S') {
            result = result.and(facts.add("largest_bytes", Ok(self.largest_mebibytes() << 20)));
        }
        self.session.say_json(&facts.value());
        result
    }

    async fn physical_bytes(&self) -> Result<u64> {
        let end = self.vhd.end_of_data(&self.session.executor).await?;
        Ok((end + FOOTER_BYTES as u64).get())
    }

    async fn parent_path(&self, as_stored: bool) -> Result<Option<OsString>> {
        if as_stored {
            return Ok(stored_parent_of(self.session, self.vhd).await?.map(Into::into));
        }
        Ok(parent_of(self.session, self.vhd).await?.map(|parent| parent.path.into_os_string()))
    }

    async fn allocated_blocks(&self) -> Result<usize> {
        let table = self.vhd.table(&self.session.executor).await?;
        Ok(table.iter().filter(|entry| **entry != UNUSED_ENTRY).count())
    }

    fn largest_mebibytes(&self) -> u64 {
        u64::from(self.vhd.header.as_ref().map_or(0, |header| header.table_entries())) * BLOCK_MEBIBYTES
    }

    async fn physical_size(&self) -> Result<()> {
        let bytes = self.physical_bytes().await.inspect_err(|error| {
            self.session.say(format!("failed to get physical size: -{}", errno(error)));
        })?;
        self.session.say(bytes.to_string());
        Ok(())
    }

    async fn parent(&self, as_stored: bool) -> Result<()> {
        let parent = self.parent_path(as_stored).await;
        match parent.inspect_err(|_| self.session.say("query failed"))? {
            Some(path) => self.session.say(path.as_encoded_bytes()),
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
        let blocks = self.allocated_blocks().await;
        let blocks = blocks.inspect_err(|error| self.session.say(format!("error reading bat: -{}", errno(error))))?;
        self.session.say(blocks.to_string());
        Ok(())
    }
}
