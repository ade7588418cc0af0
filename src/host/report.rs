#![forbid(unsafe_code)]
//! Owns the report of a check, as plain data. Must never know how anything is checked.

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// A rule is broken; data may be lost when the image is written to.
    Error,
    /// A bitmap cannot be used for a backup.
    Unusable,
    /// Room is counted as used that nothing uses.
    Leak,
    /// Odd, and harmless.
    Warning,
}

impl Severity {
    /// The word that stands for it in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Unusable => "unusable",
            Severity::Leak => "leak",
            Severity::Warning => "warning",
        }
    }
}

/// One finding of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The structure that is wrong.
    pub structure: String,
    /// Where it is wrong: a byte offset in the file.
    pub offset: Option<u64>,
    /// The fault.
    pub message: String,
}

impl Problem {
    /// A fault of `structure`, and how bad it is.
    pub fn new(severity: Severity, structure: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity, structure: structure.into(), offset: None, message: message.into() }
    }

    /// The same, at a byte offset of the file where one is known.
    #[must_use]
    pub fn at(self, offset: Option<u64>) -> Self {
        Self { offset, ..self }
    }
}

/// The findings of a check of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// How many rules are broken.
    pub errors: u64,
    /// How many bitmaps, or all of them together, cannot be used.
    pub unusable: u64,
    /// The bytes of clusters that are counted as used and that nothing uses.
    pub leaked_bytes: u64,
    /// The findings: the first thousand where there are more.
    pub problems: Vec<Problem>,
}
