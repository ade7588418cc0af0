#![forbid(unsafe_code)]
//! Owns the careful reading of JSON that a hypervisor sent: each field with its name in the error. Must never know its meaning.

use crate::error::{Error, ErrorKind, Result};
use serde_json::Value;

/// The error for an answer that breaks the protocol.
pub(super) fn wrong(field: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Damaged, format!("the field {field:?} of a QMP answer {why}"))
        .advise("checkmap knows QEMU 7.2 and later: look whether the socket is that of a QEMU monitor")
}

/// A field that has to be there.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> Result<&'a Value> {
    value.get(name).ok_or_else(|| wrong(name, "is missing"))
}

/// The items of a list.
pub(super) fn items<'a>(value: &'a Value, name: &str) -> Result<&'a [Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| wrong(name, "is no list"))
}

/// A flag that may be left out.
pub(super) fn flag(value: &Value, name: &str, default: bool) -> Result<bool> {
    value.get(name).map_or(Ok(default), |_| bool::take(value, name))
}

/// A type of which a field can be.
pub(super) trait Field: Sized {
    /// The field of this name, which has to be there.
    fn take(value: &Value, name: &str) -> Result<Self>;
}

impl Field for u64 {
    fn take(value: &Value, name: &str) -> Result<Self> {
        field(value, name)?.as_u64().ok_or_else(|| wrong(name, "is no number from 0 on"))
    }
}

impl Field for bool {
    fn take(value: &Value, name: &str) -> Result<Self> {
        field(value, name)?.as_bool().ok_or_else(|| wrong(name, "is neither true nor false"))
    }
}

impl Field for String {
    fn take(value: &Value, name: &str) -> Result<Self> {
        field(value, name)?.as_str().map(str::to_owned).ok_or_else(|| wrong(name, "is no string"))
    }
}
