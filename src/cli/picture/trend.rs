#![forbid(unsafe_code)]
//! Owns `checkmap trend`: how much changed from checkpoint to checkpoint, and what the next increment would carry at other
//! granularities. Must never know how a medium draws it.

use super::args::{Medium, TrendArgs};
use super::history::{Chart, History, Row, Span, together};
use super::map::put_name;
use super::{look, medium, open, svg, text};
use crate::exit::{Failure, Outcome, Status};
use crate::session::Session;
use serde_json::{Map, Value, json};

pub(crate) fn run(args: &TrendArgs, session: &Session) -> Outcome {
    let (medium, destination) = medium(args.format, &args.output, &args.target)?;
    if medium == Medium::Png {
        return Err(Failure::Usage("a trend is made of words and numbers, which a PNG has not: take svg".into()));
    }
    let disks = open(&args.target, &args.others, session)?;
    disks.iter().try_for_each(|disk| destination.refuse_parts_of(&disk.image))?;
    let read = |disk| History::read(disk, args.layers.wanted(), args.model.wanted(), session);
    let all: Vec<History> = disks.iter().map(read).collect::<Result<_, _>>()?;
    let charts: Vec<Chart> = all.iter().map(History::chart).chain(together(&all)).collect();
    destination.write(session, |out| match medium {
        Medium::Json => {
            let disks: Vec<Value> = all.iter().map(value).collect();
            Ok(writeln!(out, "{:#}", json!({ "disks": disks }))?)
        }
        Medium::Svg => Ok(svg::write_charts(&charts, out)?),
        Medium::Text | Medium::Png => {
            let (width, has_colors) = look(&args.output);
            Ok(text::write_charts(&charts, width, has_colors, out)?)
        }
    })?;
    if medium != Medium::Json {
        for chart in &charts {
            chart.reasons().for_each(|reason| session.warn(&format!("{}: {reason}", chart.title)));
        }
    }
    Ok(Status::Done)
}

fn value(history: &History) -> Value {
    let mut object = Map::new();
    object.insert("disk".to_owned(), history.title.as_str().into());
    if let Some(node) = &history.node {
        object.insert("node".to_owned(), node.as_str().into());
    }
    let rows: Vec<Row> = history.chart().rows;
    let next = rows.iter().map(|Row { next, mean }| {
        json!({
            "granularity": next.granularity.bytes(),
            "dirty_bytes": next.dirty_bytes,
            "dirty_extents": next.extents,
            "upper_bound": next.is_upper_bound,
            "mean_dirty_bytes": mean.map(|mean| mean.bytes),
            "mean_upper_bound": mean.map(|mean| mean.is_upper_bound),
            "bitmap_bytes": next.bitmap_bytes,
        })
    });
    let rest = json!({
        "virtual_size": history.size_bytes,
        "model": history.model.to_string(),
        "intervals": history.spans.iter().map(span).collect::<Vec<_>>(),
        "next_increment": next.collect::<Vec<_>>(),
    });
    if let Value::Object(rest) = rest {
        object.extend(rest);
    }
    Value::Object(object)
}

fn span(span: &Span) -> Value {
    let mut object = Map::new();
    put_name(&mut object, "since", Some(&span.since));
    put_name(&mut object, "until", span.until.as_ref());
    let changes = span.changed.as_ref().ok();
    object.insert("dirty_bytes".to_owned(), changes.map(|changes| changes.bytes).into());
    object.insert("dirty_extents".to_owned(), changes.map(|changes| changes.extents).into());
    if let Err(why) = &span.changed {
        object.insert("reason".to_owned(), why.as_str().into());
    }
    Value::Object(object)
}
