//! Owns the list of engines.

mod checkmap;
mod croaring;
mod extents;
mod flat;
mod hbitmap;
mod roaring;

pub use checkmap::{Checkmap, ON_THREADS};
pub use croaring::{Croaring, Croaring64};
pub use flat::{Flat, or_into, roomy};
pub use hbitmap::Hbitmap;
pub use roaring::{Roaring, Roaring64};

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
        runner::<Checkmap>(),
        runner::<Croaring<false>>(),
        runner::<Croaring<true>>(),
        runner::<Croaring64<false>>(),
        runner::<Croaring64<true>>(),
        runner::<Roaring<false>>(),
        runner::<Roaring<true>>(),
        runner::<Roaring64<false>>(),
        runner::<Roaring64<true>>(),
        runner::<Flat>(),
        runner::<Hbitmap>(),
        runner::<extents::Extents>(),
    ]
}
