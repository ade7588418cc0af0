#![forbid(unsafe_code)]
//! Owns a disk as a hypervisor told of it once, without a connection: what to send is planned, and nothing is sent. Pure.

use super::commands::{self, Commands};
use super::nodes::{Answers, Nodes};
use super::read;
use super::state::DiskState;
use crate::bitmap::Bitmap;
use crate::chain::{Action, BitmapState, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::host::{CheckReport, Facts, Host, Remarks, Summary, UnionRequest};
use crate::progress::Observer;
use serde_json::Value;
use std::time::Duration;

/// A disk in an answer to `query-named-block-nodes`. As a [`Host`] it can be planned on; nothing can be read or carried out.
#[derive(Clone, Debug)]
pub struct Snapshot {
    state: DiskState,
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
        Ok(Self { state: DiskState::of(&nodes, &layers)? })
    }

    /// The QMP commands that carry out these actions, one JSON document each, and how long every disk of the machine is expected to stand
    /// still.
    pub fn commands(&self, actions: &[Action]) -> Result<(Vec<String>, Duration)> {
        let mut commands = Commands::default();
        commands.add(&self.state.node, actions)?;
        Ok((commands.lines(), commands.stall()))
    }

    /// The QMP commands that export these bitmaps on an NBD server that runs, as `export`: an empty node of the disk's size carries them,
    /// so that nobody can read or write the guest's data through it.
    pub fn export_commands(&self, bitmaps: &[Name], export: &str) -> Result<Vec<String>> {
        let own = &self.state.node;
        let records = bitmaps.iter().any(|name| self.records(name));
        let (node, exported) = read::export_of(own, bitmaps, export, records);
        Ok(vec![commands::line("blockdev-add", &node), commands::line("block-export-add", &exported)])
    }

    /// Whether the bitmap records.
    pub fn records(&self, name: &Name) -> bool {
        self.state.bitmaps().any(|bitmap| bitmap.name == *name && bitmap.recording)
    }

    /// The name of the top node.
    pub fn node(&self) -> &str {
        &self.state.node.name
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

    fn union(&self, _request: &UnionRequest<'_>, _observer: &mut dyn Observer) -> Result<Bitmap> {
        not_here()
    }

    fn summary(&self, name: &Name) -> Result<Summary> {
        Ok(self.state.summary(name))
    }

    fn remarks(&self, actions: &[Action]) -> Remarks {
        self.state.remarks(actions)
    }

    fn apply(&mut self, _actions: &[Action], _observer: &mut dyn Observer) -> Result<Vec<String>> {
        not_here()
    }

    fn check(&self, _observer: &mut dyn Observer) -> Result<CheckReport> {
        Ok(self.state.check())
    }
}
