#![forbid(unsafe_code)]
//! Owns `checkmap map`: where on the disks the changes are. Must never know how a medium draws it.

use super::args::{DrawMapArgs, Medium};
use super::{Changed, Picture, look, medium, open, png, svg, text};
use crate::exit::{Failure, Outcome, Status};
use crate::session::Session;
use crate::words::{hex, text as name_text};
use checkmap::chain::Name;
use checkmap::image::DiffRequest;
use checkmap::picture::Shape;
use serde_json::{Map, Value, json};
use std::os::unix::ffi::OsStrExt;

/// The grid of files: two squares of 64 cells on each side.
pub(super) fn shape() -> Result<Shape, Failure> {
    Ok(Shape::new(2, 6)?)
}

pub(crate) fn run(args: &DrawMapArgs, session: &Session) -> Outcome {
    let (medium, destination) = medium(args.format, &args.output, &args.target)?;
    let disks = open(&args.target, &args.others, session)?;
    disks.iter().try_for_each(|disk| destination.refuse_parts_of(&disk.image))?;
    let mut all = Vec::new();
    for disk in &disks {
        let request = DiffRequest::since(args.since.as_bytes()).layers(args.layers.wanted()).model(args.model.wanted());
        let request = args.until.as_ref().map_or(request, |until| request.until(until.as_bytes()));
        let diff = disk.image.diff(&request, &mut session.watch())?;
        all.push(Changed {
            title: disk.image.path().to_string_lossy().into_owned(),
            node: disk.node().map(str::to_owned),
            since: diff.since,
            until: diff.until,
            bitmap: diff.bitmap,
        });
    }
    destination.write(session, |out| {
        let pictures = |shape| all.iter().map(|changed| changed.picture(shape)).collect::<Result<Vec<_>, _>>();
        match medium {
            Medium::Text => {
                let (width, has_colors) = look(&args.output);
                let pictures = pictures(text::shape(width, has_colors)?)?;
                Ok(text::write_maps(&pictures, width, has_colors, out)?)
            }
            Medium::Svg => Ok(svg::write_maps(&pictures(shape()?)?, out)?),
            Medium::Png => Ok(png::write_maps(&pictures(shape()?)?, out)?),
            Medium::Json => {
                let disks: Vec<Value> = all.iter().map(value).collect::<Result<_, _>>()?;
                Ok(writeln!(out, "{}", json!({ "disks": disks }))?)
            }
        }
    })?;
    Ok(Status::Done)
}

fn value(changed: &Changed) -> Result<Value, Failure> {
    let Picture { grid, largest, .. } = changed.picture(shape()?)?;
    let mut object = Map::new();
    object.insert("disk".to_owned(), changed.title.as_str().into());
    if let Some(node) = &changed.node {
        object.insert("node".to_owned(), node.as_str().into());
    }
    put_name(&mut object, "since", Some(&changed.since));
    put_name(&mut object, "until", changed.until.as_ref());
    let cells = grid.cells().iter().enumerate().filter(|(_, cell)| cell.dirty_bytes > 0);
    let cells = cells.filter_map(|(number, cell)| {
        let (column, row) = grid.shape().place(number as u64)?;
        Some(json!({
            "start": cell.extent.offset, "length": cell.extent.len_bytes, "dirty_bytes": cell.dirty_bytes,
            "column": column, "row": row,
        }))
    });
    let largest = largest.iter().map(|extent| json!({ "start": extent.offset, "length": extent.len_bytes }));
    let rest = json!({
        "virtual_size": changed.bitmap.size_bytes(),
        "granularity": changed.bitmap.granularity().bytes(),
        "dirty_bytes": changed.bitmap.dirty_bytes(),
        "dirty_extents": changed.bitmap.extent_count(),
        "columns": grid.shape().columns(),
        "rows": grid.shape().rows(),
        "cells": cells.collect::<Vec<_>>(),
        "largest_extents": largest.collect::<Vec<_>>(),
    });
    if let Value::Object(rest) = rest {
        object.extend(rest);
    }
    Ok(Value::Object(object))
}

/// A member whose value is a name or null, and its exact bytes where JSON cannot carry them.
pub(super) fn put_name(object: &mut Map<String, Value>, key: &str, name: Option<&Name>) {
    object.insert(key.to_owned(), name.map(name_text).into());
    if let Some(hex) = name.and_then(hex) {
        object.insert(format!("{key}_hex"), hex.into());
    }
}
