#![forbid(unsafe_code)]
//! Owns the layer of a disk below another, as a host hands it out. Must never know how it was found.

use super::Host;

/// A layer below a disk's top one: its name in messages, and the host that keeps its bitmaps.
#[derive(Debug)]
#[non_exhaustive]
pub struct LayerBelow {
    /// The name for messages.
    pub name: String,
    /// The bitmaps; `None` for a layer that can hold none and stands on no other layer that could.
    pub host: Option<Box<dyn Host>>,
}

impl LayerBelow {
    /// The layer `name`, whose bitmaps `host` keeps.
    pub fn new(name: impl Into<String>, host: Option<Box<dyn Host>>) -> Self {
        Self { name: name.into(), host }
    }
}
