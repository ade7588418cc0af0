#![forbid(unsafe_code)]
//! Owns the bits that get into bitmaps of a hypervisor from outside: they are written into a bitmap of an empty node, which the
//! transaction then merges. Must never know why they are wanted.
//!
//! QMP has no command that sets a block of a bitmap. A bitmap records writes, so zeroes are written over NBD to an empty node
//! (`null-co`) of the disk's size, which keeps nothing of them.
//!
//! For the blocks that a node holds itself, a bitmap that is not kept records from before they are read: a write until then is among
//! them, and a later one is in that bitmap.

use super::commands::{Bits, line};
use super::exports::{self, BITS, Exports};
use super::machine::{Connection, Shared};
use super::monitor::Failure;
use super::nodes::{Node, PREFIX};
use super::work::Work;
use crate::bitmap::Bitmap;
use crate::chain::Name;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Extent, Granularity};
use crate::nbd::{Address, Client, ConnectOptions};
use crate::progress::Observer;
use serde_json::{Value, json};

/// Bits that are wanted in a bitmap.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'b> {
    pub(super) node: String,
    pub(super) target: Name,
    pub(super) granularity: Granularity,
    /// The bits, of the node's size; without them all that the node holds itself.
    pub(super) bits: Option<&'b Bitmap>,
}

/// Bits, and all that was made for them, which goes when this is dropped.
#[derive(Debug)]
pub(super) struct Filled<'w, 'a> {
    exports: Exports<'w, 'a>,
    /// Bitmaps that record on nodes of the disks.
    recent: Vec<Bits>,
    ready: Vec<Fill>,
}

/// Bits that are ready to be merged into a bitmap of a node.
#[derive(Clone, Debug)]
pub(super) struct Fill {
    pub(super) node: String,
    pub(super) target: Name,
    pub(super) sources: Vec<Bits>,
}

impl<'w, 'a> Filled<'w, 'a> {
    /// Gathers the bits.
    pub(super) fn begin(work: &'w mut Work<'a>, wanted: &[Wanted<'_>], observer: &mut dyn Observer) -> Result<Self> {
        let mut filled = Self { exports: Exports::begin(work, false)?, recent: Vec::new(), ready: Vec::new() };
        for wanted in wanted {
            let node = filled.exports.work.connection.nodes.node(&wanted.node)?.clone();
            let mut sources = Vec::new();
            let held;
            let bits = match wanted.bits {
                Some(bits) => bits,
                None => {
                    sources.push(filled.record(&node, wanted.granularity)?);
                    held = filled.exports.allocated(&node, 0, u64::MAX, observer)?;
                    &held
                }
            };
            if !bits.is_empty() {
                sources.push(filled.write(&node, bits, wanted.granularity, observer)?);
            }
            filled.ready.push(Fill { node: wanted.node.clone(), target: wanted.target.clone(), sources });
        }
        Ok(filled)
    }

    pub(super) fn work(&mut self) -> &mut Work<'a> {
        self.exports.work
    }

    /// The merges to make.
    pub(super) fn ready(&self) -> &[Fill] {
        &self.ready
    }

    /// Lets a bitmap record on a node.
    fn record(&mut self, node: &Node, granularity: Granularity) -> Result<Bits> {
        let bitmap = format!("{}-{}", self.exports.work.owner.id(), self.recent.len());
        let bits = Bits { node: node.name.clone(), bitmap };
        // Noted before: where the answer does not come, it may be there.
        self.recent.push(bits.clone());
        self.exports.work.ask("block-dirty-bitmap-add", &recording(&bits, granularity))?;
        Ok(bits)
    }

    /// Writes bits into a bitmap of a node of its own.
    fn write(
        &mut self,
        node: &Node,
        bits: &Bitmap,
        granularity: Granularity,
        observer: &mut dyn Observer,
    ) -> Result<Bits> {
        let made = self.exports.add_bits(node.size_bytes, granularity)?;
        let options = ConnectOptions::new(made.node.as_bytes())
            .timeout(self.exports.work.shared().options.timeout)
            .disk_bytes(node.size_bytes);
        let mut client = Client::connect(&Address::Unix(self.exports.address.clone()), &options, observer)?;
        client.write_zeroes(bits, observer)?;
        drop(client);
        self.exports.work.refresh(observer)?;
        let own = self.exports.work.connection.nodes.node(&made.node)?;
        let there = own.bitmaps.iter().find(|one| one.state.name.as_bytes() == made.bitmap.as_bytes());
        let expected = whole_granules(bits, granularity);
        match there.map(|there| there.dirty_bytes) {
            Some(there) if there == expected => Ok(made),
            there => {
                let message =
                    format!("{expected} bytes were written into a bitmap, and the hypervisor counts {there:?}");
                Err(Error::new(ErrorKind::Hypervisor, message))
            }
        }
    }
}

/// The commands before and behind a transaction that merges the allocation of a node, and its sources.
pub(super) struct Around {
    pub(super) before: Vec<String>,
    pub(super) sources: Vec<Bits>,
    pub(super) after: Vec<String>,
}

/// The commands around the allocation number `at`, but for its reading and writing.
pub(super) fn around(node: &Node, at: usize, granularity: Granularity) -> Around {
    let recent = Bits { node: node.name.clone(), bitmap: format!("{PREFIX}recent-{at}") };
    let written = Bits { node: format!("{PREFIX}{at}"), bitmap: BITS.to_owned() };
    let (empty, bitmap) = exports::bits_of(&written.node, node.size_bytes, granularity);
    let before = vec![
        line("block-dirty-bitmap-add", &recording(&recent, granularity)),
        line("blockdev-add", &empty),
        line("block-dirty-bitmap-add", &bitmap),
    ];
    let after = vec![
        line("blockdev-del", &json!({ "node-name": written.node })),
        line("block-dirty-bitmap-remove", &json!({ "node": recent.node, "name": recent.bitmap })),
    ];
    Around { before, sources: vec![recent, written], after }
}

/// The arguments that make a bitmap record that is not kept.
fn recording(bits: &Bits, granularity: Granularity) -> Value {
    json!({ "node": bits.node, "name": bits.bitmap, "granularity": granularity.bytes(), "persistent": false })
}

/// The bytes of all granules that the bits touch, as QEMU counts them: the last one whole.
fn whole_granules(bits: &Bitmap, granularity: Granularity) -> u64 {
    let (mut count, mut reached) = (0, 0);
    for Extent { offset, len_bytes } in bits.extents(0, u64::MAX) {
        let first = (offset >> granularity.bits()).max(reached);
        let end = (offset + len_bytes).div_ceil(granularity.bytes());
        count += end.saturating_sub(first);
        reached = reached.max(end);
    }
    count << granularity.bits()
}

impl Drop for Filled<'_, '_> {
    fn drop(&mut self) {
        for Bits { node, bitmap } in std::mem::take(&mut self.recent) {
            match self.exports.work.surely("block-dirty-bitmap-remove", &json!({ "node": node, "name": bitmap })) {
                Ok(_) => {}
                Err(Failure::Refused(refusal)) if refusal.is_of_absence() => {}
                Err(_) => self.exports.work.is_untidy(),
            }
        }
    }
}

/// Removes the bitmaps of a dead client that record on nodes of the disks.
pub(super) fn clear(
    shared: &Shared,
    connection: &mut Connection,
    is_of_it: &dyn Fn(&str) -> bool,
    observer: &mut dyn Observer,
) -> Result<()> {
    for (node, bitmap) in connection.nodes.transient_bitmaps(is_of_it) {
        connection.ask(shared, "block-dirty-bitmap-remove", &json!({ "node": node, "name": bitmap }), observer)?;
    }
    Ok(())
}
