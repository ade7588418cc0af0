#![forbid(unsafe_code)]
//! Owns the making of a directory from stretches of granules that come in ascending order. Must never know where they come
//! from.

use super::container::{Made, View, Workspace};
use super::directory::Directory;
use super::span::{Span, split};
use crate::kernels::Measure;
use crate::memory::{self, Result};

/// Builds a directory from spans whose first and last granules ascend; they may overlap and touch.
#[derive(Default)]
pub(super) struct Collector {
    directory: Directory,
    /// The chunk whose runs are being gathered.
    key: u32,
    runs: Vec<[u16; 2]>,
    pending: Option<Span>,
    workspace: Option<Workspace>,
}

impl Collector {
    pub(super) fn push(&mut self, span: Span) -> Result<()> {
        match &mut self.pending {
            Some(pending) if span.first <= pending.last + 1 => {
                pending.last = span.last;
                Ok(())
            }
            _ => {
                let ready = self.pending.replace(span);
                self.store(ready)
            }
        }
    }

    /// Adds one chunk, which begins behind all spans so far and ends before all that come.
    pub(super) fn push_chunk(&mut self, key: u32, measure: Measure, view: View<'_>) -> Result<()> {
        let ready = self.pending.take();
        self.store(ready)?;
        self.close_chunk()?;
        self.directory.push(key, measure, view)
    }

    pub(super) fn finish(mut self) -> Result<Directory> {
        let ready = self.pending.take();
        self.store(ready)?;
        self.close_chunk()?;
        self.directory.shrink();
        Ok(self.directory)
    }

    fn store(&mut self, span: Option<Span>) -> Result<()> {
        let Some(span) = span else { return Ok(()) };
        let ((mut key, mut first), (end, last)) = (split(span.first), split(span.last));
        if key < end && first != 0 {
            self.add(key, [first, u16::MAX])?;
            (key, first) = (key + 1, 0);
        }
        if key < end {
            self.close_chunk()?;
            self.directory.push_full(key, end - key)?;
        }
        self.add(end, [first, last])
    }

    fn add(&mut self, key: u32, run: [u16; 2]) -> Result<()> {
        if key != self.key {
            self.close_chunk()?;
            self.key = key;
        }
        memory::push(&mut self.runs, run)
    }

    fn close_chunk(&mut self) -> Result<()> {
        if self.runs.is_empty() {
            return Ok(());
        }
        let Made { view, measure } = self.workspace.get_or_insert_with(Workspace::new).smallest_of_runs(&self.runs)?;
        self.directory.push(self.key, measure, view)?;
        self.runs.clear();
        Ok(())
    }
}
