#![forbid(unsafe_code)]
//! Owns the refusal of a build that has no Parquet: no file can begin in it. Must never know what would stand in one.

use super::RowsWish;
use crate::exit::Failure;
use crate::map::Subject;
use checkmap::Bitmap;
use std::convert::Infallible;
use std::io::Write;
use std::marker::PhantomData;

pub(crate) struct Sheet<'a>(Infallible, PhantomData<&'a ()>);

impl Sheet<'_> {
    pub(crate) fn check_built() -> Result<(), Failure> {
        let how = "build it with `cargo build --release --locked --features cli,parquet`";
        Err(Failure::Usage(format!("this checkmap was built without Parquet: {how}")))
    }

    pub(crate) fn begin(_: &RowsWish, _: &[u8], _: &mut dyn Write) -> Result<Self, Failure> {
        Self::check_built()?;
        Err(Failure::Usage("no rows can be written".into()))
    }

    pub(crate) fn add(&mut self, _: &Subject, _: &Bitmap) -> Result<(), Failure> {
        match self.0 {}
    }

    pub(crate) fn end(self) -> Result<(), Failure> {
        match self.0 {}
    }
}
