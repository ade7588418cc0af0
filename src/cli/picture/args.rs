#![forbid(unsafe_code)]
//! Owns the options of the verbs that draw: map, trend and report. Must never know how anything is drawn.

use crate::args::{LayersArg, ModelArg};
use crate::target::TargetArgs;
use clap::{Args, ValueEnum, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct DrawMapArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// More images, which are drawn in the same picture
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub(crate) others: Vec<OsString>,
    /// The checkpoint since which
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) since: OsString,
    /// The checkpoint until which; now without it
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) until: Option<OsString>,
    /// The medium [default: as FILE ends, else text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: Option<Medium>,
    #[command(flatten)]
    pub(crate) output: DrawnArgs,
    #[command(flatten)]
    pub(crate) layers: LayersArg,
    #[command(flatten)]
    pub(crate) model: ModelArg,
}

#[derive(Debug, Args)]
pub(crate) struct TrendArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// More images, which are drawn in the same picture, with the sum of all
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub(crate) others: Vec<OsString>,
    /// The medium: all but png [default: as FILE ends, else text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: Option<Medium>,
    #[command(flatten)]
    pub(crate) output: DrawnArgs,
    #[command(flatten)]
    pub(crate) layers: LayersArg,
    #[command(flatten)]
    pub(crate) model: ModelArg,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// An image: a file or a block device; or a backup directory
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// More images
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub(crate) others: Vec<OsString>,
    /// The page, which appears or is replaced in one step when all is on the disk; stdout without it
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// The checkpoint since which the map of a disk shows changes; the newest one without it
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) since: Option<OsString>,
    #[command(flatten)]
    pub(crate) layers: LayersArg,
    #[command(flatten)]
    pub(crate) model: ModelArg,
}

/// Where a picture goes, and how it looks in a terminal.
#[derive(Debug, Args)]
pub(crate) struct DrawnArgs {
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    /// Write to FILE, which appears or is replaced in one step when all is on the disk
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// How many columns a text may take, from 8 on [default: those of the terminal, else 80]
    #[arg(long, value_name = "COLUMNS", value_parser = clap::value_parser!(u16).range(8..=2000))]
    pub(crate) width: Option<u16>,
    /// When a text has colours: on a terminal, unless NO_COLOR is set; always; or never
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    pub(crate) color: Color,
}

/// A medium of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Medium {
    /// Block characters
    Text,
    /// One JSON document with the numbers of the picture
    Json,
    /// A vector image, with all words
    Svg,
    /// An image of dots: the cells and the colours of the scale, without words
    Png,
}

/// When a text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}
