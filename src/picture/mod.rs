#![forbid(unsafe_code)]
//! The numbers behind pictures of a [`Bitmap`](crate::Bitmap): how much is dirty in each cell of a [`Grid`], the largest extents,
//! and what an increment would carry at other granularities.
//!
//! ```
//! use checkmap::picture::{Grid, Shape, increments, largest_extents};
//! use checkmap::{Bitmap, Granularity};
//!
//! let mut bitmap = Bitmap::new(1 << 40, Granularity::from_bytes(65536)?)?;
//! bitmap.set(1 << 39, 100_000)?;
//! let grid = Grid::new(&bitmap, Shape::new(2, 6)?)?;
//! assert_eq!((grid.shape().columns(), grid.shape().rows()), (128, 64));
//! assert_eq!(grid.cells().iter().map(|cell| cell.dirty_bytes).sum::<u64>(), 2 * 65536);
//! // The second square begins in the middle of the disk.
//! assert_eq!(grid.cell_at(64, 0).map(|cell| cell.dirty_bytes), Some(2 * 65536));
//! assert_eq!(largest_extents(&bitmap, 5)?.len(), 1);
//! let at_4_mib = increments(&bitmap, bitmap.granularity())?.pop();
//! assert_eq!(at_4_mib.map(|increment| increment.dirty_bytes), Some(4 << 20));
//! # Ok::<(), checkmap::Error>(())
//! ```

// Owns plain data that whatever draws can use. Must never know colours, units, or a medium.

mod grid;
mod increments;

pub use grid::{Cell, Grid, MAX_CELLS, Shape, largest_extents};
pub use increments::{Increment, increments};
