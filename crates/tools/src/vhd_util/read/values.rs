//! `read --json`: the same facts as values. Bytes of the disk have no place there.

use std::ops::Range;

use block_core::{Error, Result};
use command_line::Options;
use image_format::Bitmap;
use serde_json::{Map, Value, json};

use super::{Complaint, Reading, as_unsigned};
use crate::vhd_util::{
    headers::Headers,
    json::{failure, name},
};

/// Letters whose answer is bytes of the disk.
const BYTES: [u8; 3] = [b'd', b'r', b'R'];

/// Whether something was asked for that is no value.
pub(super) fn is_bytes(options: &Options) -> bool {
    BYTES.iter().any(|letter| options.has(*letter))
}

/// What was asked for, up to the first failure, and that failure.
pub(super) async fn answer(reading: &Reading<'_>, options: &Options) -> Result<()> {
    let mut facts = Map::from_iter([("image".to_owned(), name(&reading.vhd.path))]);
    let found = reading.facts(options, &mut facts).await;
    if let Err(error) = &found {
        facts.insert("error".to_owned(), failure(error));
    }
    reading.session.say_json(&facts.into());
    found
}

/// What looks like headers in what is no image.
pub(super) fn broken(image: &std::path::Path, error: &Error, headers: Option<&Headers>) -> Value {
    json!({"image": name(image), "error": failure(error), "headers": headers.map(Headers::values)})
}

impl Reading<'_> {
    async fn facts(&self, options: &Options, facts: &mut Map<String, Value>) -> Result<()> {
        let asked = |letter| options.wide_number(letter).map(as_unsigned);
        let mut add = |fact: &str, value: Value| _ = facts.insert(fact.to_owned(), value);
        if options.has(b'p') {
            add("headers", Headers::of(&self.session.executor, self.vhd).await?.values());
        }
        if let Some(sector) = asked(b't') {
            add("sectors", self.sector_values(sector)?);
        }
        if let Some(block) = asked(b'b') {
            let value = |block| json!({"block": block, "file_offset": self.start_of(block).map(|start| start.get())});
            add("blocks", self.asked_blocks(block)?.map(value).collect());
        }
        if options.has(b'B') {
            let blocks = Bitmap::from_bytes(&self.blocks_as_bits(), self.table.len());
            add("allocated", runs_of(&blocks, 0..self.table.len()));
        }
        if let Some(block) = asked(b'm') {
            add("bitmaps", self.bitmap_values(block).await?);
        }
        if let Some(sector) = asked(b'i') {
            add("present", self.present_values(sector).await?);
        }
        if let Some(sector) = asked(b'e') {
            add("extents", self.extent_values(sector).await?);
        }
        if options.has(b'a') {
            let map = Bitmap::from_bytes(&self.batmap().await?.1, self.table.len());
            add("batmap", runs_of(&map, 0..self.table.len()));
        }
        if let Some(block) = asked(b'j') {
            let blocks = self.asked_blocks(block)?;
            let map = Bitmap::from_bytes(&self.batmap().await?.1, self.table.len());
            add("in_batmap", blocks.map(|block| json!({"block": block, "full": map.get(block)})).collect());
        }
        Ok(())
    }

    fn sector_values(&self, sector: u64) -> Result<Value> {
        self.check(sector, self.sectors(), "sector", Complaint::Nowhere)?;
        let value = |sector| {
            let (block, within) = self.place_in_block(sector);
            let place = self.start_of(block).map(|start| self.data_at(start, within).get());
            json!({"sector": sector, "block": block, "sector_in_block": within, "file_offset": place})
        };
        Ok((sector..sector + self.count).map(value).collect())
    }

    async fn bitmap_values(&self, block: u64) -> Result<Value> {
        let mut values = Vec::new();
        for block in self.asked_blocks(block)? {
            let bitmap = match self.start_of(block) {
                Some(_) => Some(self.bitmap(block).await?),
                None => None,
            };
            let present = bitmap.map(|bitmap| runs_of(&bitmap, 0..self.metadata.shape().sectors()));
            values.push(json!({"block": block, "present": present}));
        }
        Ok(values.into())
    }

    async fn present_values(&self, sector: u64) -> Result<Value> {
        self.check(sector, self.sectors(), "sector", Complaint::Nowhere)?;
        let mut values = Vec::new();
        let mut known: Option<(usize, Bitmap)> = None;
        for sector in sector..sector + self.count {
            let (block, within) = self.place_in_block(sector);
            let bitmap = match known.take() {
                Some((known, bitmap)) if known == block => bitmap,
                _ => self.bitmap(block).await?,
            };
            values.push(json!({"sector": sector, "present": bitmap.get(within)}));
            known = Some((block, bitmap));
        }
        Ok(values.into())
    }

    async fn extent_values(&self, sector: u64) -> Result<Value> {
        self.check(sector, self.sectors(), "sector", Complaint::Nowhere)?;
        let mut values = Vec::new();
        self.each_extent(sector, |first, count| values.push(run(first, count))).await?;
        Ok(values.into())
    }
}

fn run(first: u64, count: u64) -> Value {
    json!({"first": first, "count": count})
}

/// The runs of a map that are set.
fn runs_of(map: &Bitmap, range: Range<usize>) -> Value {
    let set = map.runs(range).filter(|(is_set, _)| *is_set);
    set.map(|(_, set)| run(set.start as u64, set.len() as u64)).collect()
}
