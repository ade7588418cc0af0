#![forbid(unsafe_code)]
//! Owns a disk as a hypervisor told of it once, without a connection: what to send is planned, and nothing is sent. Pure.

use super::commands::{self, Commands, Place};
use super::exports;
use super::nodes::{Answers, Nodes};
use super::state::DiskState;
use crate::bitmap::Bitmap;
use crate::chain::{Action, BitmapState, Layer, Name, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::host::{
    CheckReport, Facts, Host, LayerBelow, Membership, Remarks, Share, Summary, Transaction, UnionRequest,
};
use crate::progress::Observer;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// A disk in an answer to `query-named-block-nodes`. As a [`Host`] it can be planned on; nothing can be read or carried out.
#[derive(Clone, Debug)]
pub struct Snapshot {
    state: DiskState,
    /// The layers below, the nearest first.
    below: Vec<DiskState>,
    /// The step in which the layers would change.
    step: Arc<Unsent>,
}

/// A step that is planned only.
#[derive(Debug, Default)]
struct Unsent;

impl Transaction for Unsent {
    fn apply(&self, _shares: &[Share<'_>], _observer: &mut dyn Observer) -> Result<Vec<Vec<String>>> {
        not_here()
    }
}

impl Snapshot {
    /// The disk of `chain`, the names of its block nodes with the top first, in the JSON that `query-named-block-nodes` gave: the list, or
    /// the whole answer with `return`.
    ///
    /// Fails with [`ErrorKind::Damaged`] where the JSON is none of QEMU's, and with [`ErrorKind::NotFound`] for a node that is not in it.
    pub fn read(nodes: &[u8], chain: &[&str]) -> Result<Self> {
        let nodes: Value = serde_json::from_slice(nodes)
            .map_err(|error| Error::new(ErrorKind::Damaged, format!("the block nodes are no JSON: {error}")))?;
        let nodes = nodes.get("return").cloned().unwrap_or(nodes);
        let nodes = Nodes::read(&Answers { nodes, ..Answers::default() })?;
        for node in chain {
            if nodes.get(node).is_none() {
                let known: Vec<&str> = nodes.names().collect();
                let message = format!("no block node is called {node:?}");
                return Err(Error::new(ErrorKind::NotFound, message).advise(format!("there are {}", known.join(", "))));
            }
        }
        let layers: Vec<String> = chain.iter().map(|node| (*node).to_owned()).collect();
        let mut below = Vec::new();
        for at in 1..layers.len() {
            below.push(DiskState::of(&nodes, layers.get(at..).unwrap_or_default())?);
        }
        Ok(Self { state: DiskState::of(&nodes, &layers)?, below, step: Arc::default() })
    }

    /// The QMP commands that carry out a plan, one JSON document each, and how long every disk of the machine is expected to stand
    /// still.
    pub fn commands(&self, plan: &Plan) -> Result<(Vec<String>, Duration)> {
        let mut commands = Commands::default();
        commands.add(&self.state.node, plan.actions(), Place::Top)?;
        for below in plan.below() {
            let layer = self.below.iter().find(|layer| layer.node.name == below.disk);
            let layer = layer
                .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("the disk has no layer {:?}", below.disk)))?;
            commands.add(&layer.node, &below.actions, Place::Below)?;
        }
        commands.check_filled()?;
        Ok((commands.lines(), commands.stall()))
    }

    /// The QMP commands that export bitmaps of a layer, the top one being 0, on an NBD server that runs, as `export`: an empty node of the
    /// layer's size carries them, so that nobody can read or write the guest's data through it.
    pub fn export_commands(&self, layer: usize, bitmaps: &[Name], export: &str) -> Result<Vec<String>> {
        let own = &self.layer(layer)?.node;
        let is_recorded = |name: &Name| own.kept().any(|bitmap| bitmap.state.name == *name && bitmap.state.recording);
        let (node, exported) =
            exports::export_of(own, bitmaps, export, !own.is_read_only && bitmaps.iter().any(is_recorded));
        Ok(vec![commands::line("blockdev-add", &node), commands::line("block-export-add", &exported)])
    }

    /// The QMP command that exports a layer for reading, as `export`, with the context `qemu:allocation-depth`: 1 where the layer holds a
    /// block itself.
    pub fn allocation_command(&self, layer: usize, export: &str) -> Result<String> {
        let arguments = exports::allocation_of(&self.layer(layer)?.node, export);
        Ok(commands::line("block-export-add", &arguments))
    }

    /// The layers, the top first, as the chain of checkpoints reads them.
    pub fn layers(&self) -> Vec<Layer> {
        let all = std::iter::once(&self.state).chain(&self.below);
        all.map(|one| Layer::new(one.title(), one.bitmaps().collect(), one.node.size_bytes)).collect()
    }

    /// The name of the top node.
    pub fn node(&self) -> &str {
        &self.state.node.name
    }

    fn layer(&self, layer: usize) -> Result<&DiskState> {
        let state = layer.checked_sub(1).map_or(Some(&self.state), |below| self.below.get(below));
        state.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("the disk has no layer {layer}")))
    }
}

fn not_here<T>() -> Result<T> {
    let message = "there is no connection to the hypervisor: nothing can be read or carried out";
    Err(Error::new(ErrorKind::Unsupported, message).nothing_changed())
}

impl Host for Snapshot {
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
        Ok(true)
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

    fn layers_below(&self) -> Result<Option<Vec<LayerBelow>>> {
        let below = self.below.iter().enumerate().map(|(at, state)| {
            let lower = self.below.get(at + 1..).unwrap_or_default().to_vec();
            let host = Snapshot { state: state.clone(), below: lower, step: Arc::clone(&self.step) };
            LayerBelow::new(state.title(), state.unfit.is_none().then(|| Box::new(host) as Box<dyn Host>))
        });
        Ok(Some(below.collect()))
    }

    fn union(&self, _request: &UnionRequest<'_>, _observer: &mut dyn Observer) -> Result<Bitmap> {
        not_here()
    }

    fn summary(&self, name: &Name) -> Result<Summary> {
        Ok(self.state.summary(name))
    }

    fn remarks(&self, actions: &[Action]) -> Remarks {
        self.state.remarks(actions)
    }

    fn membership(&self) -> Option<Membership> {
        let step = Arc::clone(&self.step) as Arc<dyn Transaction>;
        Some(Membership::new(step, self.state.node.name.clone()))
    }

    fn apply(&mut self, _actions: &[Action], _observer: &mut dyn Observer) -> Result<Vec<String>> {
        not_here()
    }

    fn check(&self, _observer: &mut dyn Observer) -> Result<CheckReport> {
        Ok(self.state.check())
    }
}
