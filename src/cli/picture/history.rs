#![forbid(unsafe_code)]
//! Owns what changed on a disk from checkpoint to checkpoint, and what its next increment would carry. Must never know a medium.

use crate::disks::Disk;
use crate::exit::{Failure, Status, status_of};
use crate::session::Session;
use crate::words::{amount, count, one_line, spelled};
use checkmap::chain::{KnownModel, Model, Name, Until};
use checkmap::image::{DiffRequest, Layers, Scope};
use checkmap::picture::{Increment, increments};
use checkmap::{ErrorKind, Granularity};

/// A chart has no more bars than these; the oldest give way.
const MOST_BARS: usize = 60;

/// The time between two checkpoints, or since one.
pub(super) struct Span {
    pub(super) since: Name,
    pub(super) until: Option<Name>,
    /// The sums of the changes; or why they cannot be told.
    pub(super) changed: Result<Changes, String>,
}

pub(super) struct Changes {
    pub(super) bytes: u64,
    pub(super) extents: u64,
    pub(super) increments: Vec<Increment>,
}

/// A disk and its spans.
pub(super) struct History {
    pub(super) title: String,
    pub(super) node: Option<String>,
    pub(super) size_bytes: u64,
    pub(super) model: Model,
    /// Intervals, oldest first; of cumulative checkpoints the time from each of them until now.
    pub(super) spans: Vec<Span>,
}

/// A span that has not been read yet.
struct Wanted {
    since: Name,
    until: Option<Name>,
    /// Whether a gap follows.
    ends_in_gap: bool,
    /// The coarsest granularity at which its writes were recorded.
    recorded: Granularity,
}

impl History {
    pub(super) fn read(
        disk: &Disk,
        layers: Layers,
        model: Option<KnownModel>,
        session: &Session,
    ) -> Result<Self, Failure> {
        let image = &disk.image;
        let overview = image.overview(model, Scope::Increments, &mut session.watch())?;
        let chain = overview.chain.clone()?;
        chain.check_known().map_err(|error| error.in_file(image.path()))?;
        let mut wanted: Vec<Wanted> = Vec::new();
        let below = overview.below.iter().map(|below| &below.checkpoint);
        // A layer can count with all that it holds, by clusters.
        let of_layers = match overview.below.is_empty() {
            true => None,
            false => below.clone().map(|checkpoint| checkpoint.granularity).chain(cluster(image)).max(),
        };
        for checkpoint in below {
            if let Some(before) = wanted.last_mut() {
                before.until = Some(checkpoint.name.clone());
            }
            wanted.push(Wanted {
                since: checkpoint.name.clone(),
                until: chain.checkpoints().first().map(|first| first.name.clone()),
                ends_in_gap: false,
                recorded: checkpoint.granularity.max(of_layers.unwrap_or(checkpoint.granularity)),
            });
        }
        for checkpoint in chain.checkpoints() {
            let until = chain.interval_of(&checkpoint.bitmap).map(|interval| interval.until);
            wanted.push(Wanted {
                since: checkpoint.name.clone(),
                until: until.as_ref().and_then(Until::checkpoint).cloned(),
                ends_in_gap: until == Some(Until::Gap),
                recorded: checkpoint.granularity.max(of_layers.unwrap_or(checkpoint.granularity)),
            });
        }
        let mut spans = Vec::new();
        for Wanted { since, until, ends_in_gap, recorded } in wanted {
            let request = DiffRequest::since(since.as_bytes()).layers(layers).model(model);
            let request = until.as_ref().map_or(request, |until| request.until(until.as_bytes()));
            let changed = match ends_in_gap {
                true => Err("the checkpoint that followed is missing".to_owned()),
                false => match image.diff(&request, &mut session.watch()) {
                    Ok(diff) => Ok(Changes {
                        bytes: diff.bitmap.dirty_bytes(),
                        extents: diff.bitmap.extent_count(),
                        increments: increments(&diff.bitmap, recorded)?,
                    }),
                    Err(error) if status_of(error.kind()) == Status::Refused && error.kind() != ErrorKind::Changed => {
                        Err(spelled(&error))
                    }
                    Err(error) => return Err(error.into()),
                },
            };
            spans.push(Span { since, until, changed });
        }
        Ok(Self {
            title: image.path().to_string_lossy().into_owned(),
            node: disk.node().map(str::to_owned),
            size_bytes: image.virtual_size(),
            model: chain.model(),
            spans,
        })
    }

    /// What changed since the newest checkpoint, where that can be told.
    pub(super) fn next(&self) -> Option<(&Name, &Changes)> {
        let span = self.spans.last().filter(|span| span.until.is_none())?;
        Some((&span.since, span.changed.as_ref().ok()?))
    }

    /// The mean of the increments of the spans that are over, at the granularities of `next`.
    pub(super) fn mean(&self, granularity: Granularity) -> Option<Mean> {
        let over = self.spans.iter().filter(|span| span.until.is_some()).filter_map(|span| span.changed.as_ref().ok());
        let same = over.filter_map(|changes| changes.increments.iter().find(|one| one.granularity == granularity));
        let (number, bytes, is_upper_bound) = same.fold((0u64, 0u128, false), |(number, bytes, bound), one| {
            (number + 1, bytes + u128::from(one.dirty_bytes), bound || one.is_upper_bound)
        });
        let bytes = u64::try_from(bytes.checked_div(number.into())?).ok()?;
        Some(Mean { bytes, is_upper_bound })
    }

    pub(super) fn chart(&self) -> Chart {
        let left_out = self.spans.len().saturating_sub(MOST_BARS);
        let is_cumulative = self.model == Model::Cumulative;
        let bars = self.spans.iter().skip(left_out).map(|span| Bar {
            label: match &span.until {
                Some(until) => format!("{} to {until}", span.since),
                None => format!("{} to now", span.since),
            },
            bytes: span.changed.as_ref().ok().map(|changes| changes.bytes),
            is_upper_bound: false,
            why: span.changed.as_ref().err().cloned(),
        });
        let rows = self
            .next()
            .into_iter()
            .flat_map(|(_, changes)| &changes.increments)
            .map(|next| Row { next: *next, mean: self.mean(next.granularity) });
        let rows: Vec<Row> = rows.collect();
        let bars_title = match (self.spans.is_empty(), is_cumulative, left_out) {
            (true, ..) => "There is no checkpoint.".to_owned(),
            (_, true, _) => "Changed since each checkpoint:".to_owned(),
            (_, _, 0) => "Changed in each interval:".to_owned(),
            (.., more) => format!("Changed in each interval ({more} older ones are left out):"),
        };
        let rows_title = match self.next() {
            Some((since, _)) => format!("The next increment, since {since}, by granularity of its bitmap:"),
            None if self.spans.is_empty() => String::new(),
            None => "What the next increment would carry cannot be told.".to_owned(),
        };
        Chart {
            title: one_line(&self.title),
            headline: format!(
                "{}, {}, model {}",
                amount(self.size_bytes),
                count(self.spans.len() as u64, "checkpoint"),
                self.model
            ),
            bars_title,
            bars: bars.collect(),
            rows_title,
            rows,
        }
    }
}

fn cluster(image: &checkmap::Image) -> Option<Granularity> {
    Granularity::from_bytes(image.cluster_bytes()).ok()
}

/// A mean of increments.
#[derive(Clone, Copy)]
pub(super) struct Mean {
    pub(super) bytes: u64,
    pub(super) is_upper_bound: bool,
}

/// A history as it is drawn: bars, and a row for each granularity.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) headline: String,
    pub(super) bars_title: String,
    pub(super) bars: Vec<Bar>,
    pub(super) rows_title: String,
    pub(super) rows: Vec<Row>,
}

pub(super) struct Bar {
    pub(super) label: String,
    /// Nothing where it cannot be told.
    pub(super) bytes: Option<u64>,
    pub(super) is_upper_bound: bool,
    pub(super) why: Option<String>,
}

/// A granularity, with the next increment and the mean of those before.
pub(super) struct Row {
    pub(super) next: Increment,
    pub(super) mean: Option<Mean>,
}

impl Chart {
    /// Why some figures are upper bounds, where any is.
    pub(super) fn note(&self) -> Option<String> {
        let is_bound = |row: &Row| row.next.is_upper_bound || row.mean.is_some_and(|mean| mean.is_upper_bound);
        self.rows.iter().any(is_bound).then(|| {
            "≤: at most, as the writes were recorded at a coarser granularity. Nobody knows what finer bits would have told.".to_owned()
        })
    }

    /// What cannot be told, with the reasons.
    pub(super) fn reasons(&self) -> impl Iterator<Item = String> {
        self.bars.iter().filter_map(|bar| Some(format!("{}: {}", bar.label, bar.why.as_ref()?)))
    }
}

impl Row {
    /// The row as a bar.
    pub(super) fn bar(&self) -> Bar {
        Bar {
            label: amount(self.next.granularity.bytes()),
            bytes: Some(self.next.dirty_bytes),
            is_upper_bound: self.next.is_upper_bound,
            why: None,
        }
    }
}

/// An amount, or its upper bound.
pub(super) fn bounded(bytes: u64, is_upper_bound: bool) -> String {
    format!("{}{}", if is_upper_bound { "≤ " } else { "" }, amount(bytes))
}

/// The sum over all disks: what all next increments carry at each granularity that every disk can have.
pub(super) fn together(all: &[History]) -> Option<Chart> {
    let [first, others @ ..] = all else { return None };
    let (_, changes) = first.next().filter(|_| !others.is_empty())?;
    let mut rows = Vec::new();
    for next in &changes.increments {
        let mut row = Row { next: *next, mean: first.mean(next.granularity) };
        let mut has_all = true;
        for other in others {
            let own = other
                .next()
                .and_then(|(_, changes)| changes.increments.iter().find(|own| own.granularity == next.granularity));
            let Some(own) = own else {
                has_all = false;
                break;
            };
            row.next.dirty_bytes = row.next.dirty_bytes.saturating_add(own.dirty_bytes);
            row.next.bitmap_bytes = row.next.bitmap_bytes.saturating_add(own.bitmap_bytes);
            row.next.is_upper_bound |= own.is_upper_bound;
            row.next.extents = row.next.extents.zip(own.extents).map(|(a, b)| a + b);
            row.mean = row.mean.zip(other.mean(next.granularity)).map(|(a, b)| Mean {
                bytes: a.bytes.saturating_add(b.bytes),
                is_upper_bound: a.is_upper_bound || b.is_upper_bound,
            });
        }
        if has_all {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return None;
    }
    let size = all.iter().fold(0u64, |sum, history| sum.saturating_add(history.size_bytes));
    Some(Chart {
        title: "All disks".to_owned(),
        headline: format!("{}, {}", count(all.len() as u64, "disk"), amount(size)),
        bars_title: String::new(),
        bars: Vec::new(),
        rows_title: "The next increments of all disks, by granularity of their bitmaps:".to_owned(),
        rows,
    })
}
