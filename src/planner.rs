#![forbid(unsafe_code)]
//! Planning for hypervisor managers, as a pure call: from what QEMU told of its block nodes to the QMP commands to send.
//!
//! ```no_run
//! use checkmap::planner::{Verb, plan};
//!
//! // The answer to `query-named-block-nodes`, and the nodes of the disk, the top first.
//! let answer = std::fs::read("nodes.json").expect("an answer");
//! let step = plan(&answer, &["disk0"], &Verb::Create { checkpoint: b"tuesday", granularity: None, model: None })?;
//! for command in &step.commands {
//!     println!("{command}");
//! }
//! println!("the machine is expected to stand still for {} ms", step.stall.as_millis());
//! # Ok::<(), checkmap::Error>(())
//! ```
//!
//! Nothing is sent and nothing is kept. The same code plans for [`qemu::Machine`](crate::qemu::Machine). Between the answer and the commands nobody
//! else may change the bitmaps.

// Owns the way from a verb to commands. Brings snapshots and images together; must never know a connection.

use crate::chain::{KnownModel, Plan, Stack};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Extent, Granularity};
use crate::image::{Access, Image, Layers, OpenOptions};
use crate::nbd::context_of;
use crate::qemu::{ALLOCATION_DEPTH, Snapshot};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// An operation to plan.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Verb<'a> {
    /// A new checkpoint.
    Create {
        /// Its name.
        checkpoint: &'a [u8],
        /// The granularity of its bitmap, or the default.
        granularity: Option<Granularity>,
        /// The model, where the bitmaps leave it open.
        model: Option<KnownModel>,
    },
    /// The deletion of checkpoints in one step.
    Delete {
        /// Their names.
        checkpoints: &'a [&'a [u8]],
        /// Whether older checkpoints go with one that is inconsistent.
        force_inconsistent: bool,
        /// The model, where the bitmaps leave it open.
        model: Option<KnownModel>,
    },
    /// Another name for a checkpoint.
    Rename {
        /// The name until now.
        checkpoint: &'a [u8],
        /// The name from now on.
        new_name: &'a [u8],
        /// The model, where the bitmaps leave it open.
        model: Option<KnownModel>,
    },
    /// The union of bitmaps into one of them, by their stored names.
    Merge {
        /// The bitmaps to read.
        sources: &'a [&'a [u8]],
        /// The bitmap that grows.
        into: &'a [u8],
    },
    /// The export of all bitmaps whose union is a diff, on an NBD server that runs already.
    Diff {
        /// The checkpoint since which.
        since: &'a [u8],
        /// The checkpoint until which; now without it.
        until: Option<&'a [u8]>,
        /// The model, where the bitmaps leave it open.
        model: Option<KnownModel>,
        /// The name of the node and of the export that are made.
        export: &'a str,
    },
}

/// What an operation comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// The QMP commands in their order, one JSON document each. Without one there is nothing to do.
    pub commands: Vec<String>,
    /// How long every disk of the machine is expected to stand still, by measurements on two loaded cores.
    pub stall: Duration,
    /// For a diff: the exports that the commands make. The union of all their contexts is the answer.
    pub exports: Vec<Export>,
    /// For a diff: stretches of the disk that changed beside.
    pub cut_off: Vec<Extent>,
    /// For a diff: the finest granularity of the bitmaps.
    pub granularity: Option<Granularity>,
    /// What a person should know, one sentence each.
    pub warnings: Vec<String>,
}

/// An export of a hypervisor's NBD server, and what to ask it for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Export {
    /// The name of the export; its node has the same name, where one was made for it.
    pub name: String,
    /// The contexts: bits of `qemu:dirty-bitmap:NAME` are dirty where the flag is 1; of `qemu:allocation-depth`, where it is 1.
    pub contexts: Vec<Vec<u8>>,
}

impl Step {
    /// The step as one JSON document: `commands`, `stall_ms`, `warnings`, and for a diff `granularity`, `exports`
    /// and `cut_off`.
    pub fn to_json(&self) -> String {
        // Every command was made as JSON.
        let commands = self.commands.iter().map(|command| serde_json::from_str(command).unwrap_or(Value::Null));
        let mut step = json!({
            "commands": commands.collect::<Vec<Value>>(),
            "stall_ms": u64::try_from(self.stall.as_millis()).unwrap_or(u64::MAX),
            "warnings": self.warnings,
        });
        if let (Some(granularity), Some(step)) = (self.granularity, step.as_object_mut()) {
            let export = |export: &Export| {
                let contexts: Vec<_> = export.contexts.iter().map(|one| String::from_utf8_lossy(one)).collect();
                json!({ "name": export.name, "contexts": contexts })
            };
            let cut_off = |extent: &Extent| json!({ "start": extent.offset, "length": extent.len_bytes });
            step.insert("granularity".to_owned(), json!(granularity.bytes()));
            step.insert("exports".to_owned(), self.exports.iter().map(export).collect());
            step.insert("cut_off".to_owned(), self.cut_off.iter().map(cut_off).collect());
        }
        step.to_string()
    }
}

/// Plans `verb` on the disk of `chain`, the names of its block nodes with the top first; `nodes` is the JSON that
/// `query-named-block-nodes` gave.
///
/// Fails as the operation on an image does, and with [`ErrorKind::Damaged`] for JSON that is none of QEMU's.
pub fn plan(nodes: &[u8], chain: &[&str], verb: &Verb<'_>) -> Result<Step> {
    let snapshot = Snapshot::read(nodes, chain)?;
    let title = snapshot.node().to_owned();
    let image = Image::on(Box::new(snapshot.clone()), Path::new(&title), &OpenOptions::new(Access::Write));
    let layers = Layers::Check;
    let of_plan = |plan: Plan| {
        let (commands, stall) = snapshot.commands(&plan)?;
        let warnings = plan.risks().iter().chain(plan.warnings()).cloned().collect();
        Ok(Step { commands, stall, warnings, ..Step::default() })
    };
    match *verb {
        Verb::Create { checkpoint, granularity, model } => {
            of_plan(image.plan_create(checkpoint, granularity, model)?)
        }
        Verb::Delete { checkpoints, force_inconsistent, model } => {
            of_plan(image.plan_delete_many(checkpoints, force_inconsistent, layers, model)?)
        }
        Verb::Rename { checkpoint, new_name, model } => {
            of_plan(image.plan_rename(checkpoint, new_name, layers, model)?)
        }
        Verb::Merge { sources, into } => of_plan(image.plan_merge(sources, into)?),
        Verb::Diff { since, until, model, export } => plan_diff(&snapshot, since, until, model, export),
    }
}

fn plan_diff(
    snapshot: &Snapshot,
    since: &[u8],
    until: Option<&[u8]>,
    model: Option<KnownModel>,
    export: &str,
) -> Result<Step> {
    if export.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "the export has no name"));
    }
    let span = Stack::read(&snapshot.layers(), false, model)?.plan_diff(since, until)?;
    let mut step = Step { granularity: Some(span.granularity), ..Step::default() };
    for part in &span.parts {
        if !part.bitmaps.is_empty() {
            let name = format!("{export}-{}", part.layer);
            step.commands.extend(snapshot.export_commands(part.layer, &part.bitmaps, &name)?);
            let contexts = part.bitmaps.iter().map(|name| context_of(name.as_bytes()));
            step.exports.push(Export { name, contexts: contexts.collect::<Result<_>>()? });
        }
        if part.allocation {
            let name = format!("{export}-{}-allocation", part.layer);
            step.commands.push(snapshot.allocation_command(part.layer, &name)?);
            step.exports.push(Export { name, contexts: vec![ALLOCATION_DEPTH.to_vec()] });
        }
        if !part.cut_off.is_empty() {
            let (from, to) = (part.cut_off.start, part.cut_off.end);
            step.warnings.push(format!("bytes {from} to {to} count as changed: a layer ended before them"));
            step.cut_off.push(Extent { offset: from, len_bytes: to - from });
        }
    }
    Ok(step)
}
