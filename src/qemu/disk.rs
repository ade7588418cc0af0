#![forbid(unsafe_code)]
//! Owns one disk of a running hypervisor as a host of bitmaps. Must never know who asks.

use super::fill::Wanted;
use super::machine::{self, Shared};
use super::read;
use super::state::DiskState;
use crate::bitmap::Bitmap;
use crate::chain::{self, Action, BitmapState, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::host::{
    CheckReport, Facts, Fill, Host, LayerBelow, Membership, Remarks, Share, Summary, Transaction, UnionRequest,
};
use crate::memory;
use crate::progress::Observer;
use std::sync::Arc;

/// A disk, as it was read.
#[derive(Debug)]
pub(super) struct DiskHost {
    shared: Arc<Shared>,
    state: DiskState,
}

impl DiskHost {
    /// The disk whose top node is this one.
    pub(super) fn open(shared: &Arc<Shared>, node: &str) -> Result<Self> {
        let connection = shared.connection();
        let mut state = DiskState::of(&connection.nodes, &connection.nodes.layers(node)?)?;
        state.theirs = connection.theirs();
        drop(connection);
        shared.know(&state.node);
        Ok(Self { shared: Arc::clone(shared), state })
    }
}

impl Host for DiskHost {
    fn facts(&self) -> Facts<'_> {
        self.state.facts()
    }

    fn bitmaps(&self) -> Box<dyn Iterator<Item = BitmapState> + '_> {
        self.state.bitmaps()
    }

    fn trouble(&self) -> Option<&Error> {
        self.state.unfit.as_ref()
    }

    fn is_unchanged(&self) -> Result<bool> {
        let own = &self.state.node;
        let now = self.shared.look_at(&own.name)?;
        Ok(now.size_bytes == own.size_bytes && machine::is_same(now.bitmaps.iter(), own.bitmaps.iter()))
    }

    fn is_live(&self) -> bool {
        true
    }

    fn default_granularity(&self) -> Result<Granularity> {
        self.state.default_granularity()
    }

    fn check_granularity(&self, granularity: Granularity) -> Result<()> {
        self.state.check_granularity(granularity)
    }

    fn fitting_granularity(&self, smallest: Granularity) -> Result<Granularity> {
        self.state.fitting_granularity(smallest)
    }

    fn union(&self, request: &UnionRequest<'_>, observer: &mut dyn Observer) -> Result<Bitmap> {
        read::union(&self.shared, &self.state.node.name, &self.state.node.bitmaps, request, observer)
    }

    fn allocated(&self, offset: u64, len_bytes: u64, observer: &mut dyn Observer) -> Result<Option<Bitmap>> {
        read::allocated(&self.shared, &self.state.node, offset, len_bytes, observer).map(Some)
    }

    fn layers_below(&self) -> Result<Option<Vec<LayerBelow>>> {
        let layers = self.shared.connection().nodes.layers(&self.state.node.name)?;
        let mut below = Vec::new();
        for (at, node) in layers.iter().enumerate().skip(1) {
            let host = Self::open(&self.shared, node)?;
            let title = host.state.title();
            match (host.state.unfit.is_none(), at + 1 < layers.len()) {
                (true, _) => below.push(LayerBelow::new(title, Some(Box::new(host)))),
                (false, false) => below.push(LayerBelow::new(title, None)),
                (false, true) => {
                    let message = format!("the layer {title} of format {:?} stands on others", host.state.node.driver);
                    return Err(Error::new(ErrorKind::BackingLayer, message));
                }
            }
        }
        Ok(Some(below))
    }

    fn summary(&self, name: &Name) -> Result<Summary> {
        Ok(self.state.summary(name))
    }

    fn sha256(&self, name: &Name, observer: &mut dyn Observer) -> Result<Option<[u8; 32]>> {
        read::sha256(&self.shared, &self.state.node.name, name, observer)
    }

    fn remarks(&self, actions: &[Action]) -> Remarks {
        self.state.remarks(actions)
    }

    fn rehearse(&self, actions: &[Action], observer: &mut dyn Observer) -> Result<Option<Vec<String>>> {
        self.shared.plan(&[Share::new(&self.state.node.name, actions)], observer)?;
        let reads = actions.iter().any(|action| matches!(action, Action::AddAllocated { .. }));
        let reading = "before the transaction, the blocks that the disk's own layer holds are read over NBD, and zeroes are \
             written over the same blocks of the empty node, whose bitmap then has them";
        Ok(Some(reads.then(|| reading.to_owned()).into_iter().collect()))
    }

    fn apply(&mut self, actions: &[Action], observer: &mut dyn Observer) -> Result<Vec<String>> {
        self.apply_filled(actions, &[], observer)
    }

    fn apply_filled(&mut self, actions: &[Action], fills: &[Fill], observer: &mut dyn Observer) -> Result<Vec<String>> {
        let after =
            memory::gather(self.state.bitmaps()).map_err(Error::from).and_then(|own| chain::after(&own, actions));
        let after = after.map_err(Error::nothing_changed)?;
        let mut wanted = Vec::new();
        for Fill { name, bits, .. } in fills {
            let target = after.iter().find(|bitmap| bitmap.name == *name);
            let target = target.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("no bitmap is named {name}")).nothing_changed()
            })?;
            let (node, granularity) = (self.state.node.name.clone(), target.granularity);
            wanted.push(Wanted { node, target: name.clone(), granularity, bits: Some(bits) });
        }
        let mut warnings = self.shared.change((&[Share::new(&self.state.node.name, actions)], &wanted), observer)?;
        // The change is done, also where the disk cannot be read again.
        let unread = self.read_again().err();
        let warning =
            |error: Error| format!("done, but the hypervisor's disk could not be read again: {}", error.reason());
        warnings.extend(unread.map(warning));
        Ok(warnings)
    }

    fn rehearse_filled(
        &self,
        actions: &[Action],
        _fills: &[Fill],
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<String>>> {
        self.rehearse(actions, observer)
    }

    fn membership(&self) -> Option<Membership> {
        let transaction = Arc::clone(&self.shared) as Arc<dyn Transaction>;
        Some(Membership::new(transaction, self.state.node.name.clone()))
    }

    fn read_again(&mut self) -> Result<()> {
        self.state.node = self.shared.look_at(&self.state.node.name)?;
        self.state.theirs = self.shared.connection().theirs();
        self.shared.know(&self.state.node);
        Ok(())
    }

    fn check(&self, _observer: &mut dyn Observer) -> Result<CheckReport> {
        Ok(self.state.check())
    }
}
