//! Owns the list of engines.

mod checkmap;
mod croaring;
mod extents;
mod flat;
mod roaring;

pub use flat::{or_into, roomy};

use crate::course::{Settings, run};
use crate::engine::Engine;
use crate::patterns::Scenario;
use crate::report::Book;

/// One engine's way through a scenario.
pub struct Runner {
    pub name: &'static str,
    pub run: fn(&Scenario, &Settings, &mut Book),
}

fn runner<E: Engine>() -> Runner {
    Runner { name: E::NAME, run: run::<E> }
}

/// Every engine, with and without run containers where there is a choice.
pub fn all() -> Vec<Runner> {
    vec![
        runner::<checkmap::Checkmap>(),
        runner::<croaring::Croaring<false>>(),
        runner::<croaring::Croaring<true>>(),
        runner::<croaring::Croaring64<false>>(),
        runner::<croaring::Croaring64<true>>(),
        runner::<roaring::Roaring<false>>(),
        runner::<roaring::Roaring<true>>(),
        runner::<roaring::Roaring64<false>>(),
        runner::<roaring::Roaring64<true>>(),
        runner::<flat::Flat>(),
        runner::<extents::Extents>(),
    ]
}
