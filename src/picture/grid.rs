#![forbid(unsafe_code)]
//! Owns the grid of a disk: its cells along a Hilbert curve, how much of each is dirty, and the largest extents. Must never know
//! how a cell is drawn.

use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Extent;
use crate::memory;

/// The most cells that a grid may have.
pub const MAX_CELLS: u64 = 1 << 20;

/// That of a square of [`MAX_CELLS`] cells.
const LARGEST_ORDER: u32 = MAX_CELLS.ilog2() / 2;

/// The shape of a grid: squares side by side, each of which a Hilbert curve fills.
///
/// The curve begins at the top left, and goes through the squares from left to right, without a jump: cells that follow one another
/// on the disk are neighbours in the grid, and neighbours in the grid are near on the disk for the most part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    squares: u32,
    order: u32,
}

impl Shape {
    /// `squares` squares, from 1 on, with 2 to the power of `order` cells on each side. More than [`MAX_CELLS`] cells are
    /// [`ErrorKind::InvalidArgument`].
    pub fn new(squares: u32, order: u32) -> Result<Self> {
        let shape = Self { squares, order };
        if squares == 0 || order > LARGEST_ORDER || shape.cells() > MAX_CELLS {
            let message = format!("{squares} squares of order {order} are none, or more than {MAX_CELLS} cells");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(shape)
    }

    /// The shape of the largest squares that fits into a number of columns and of rows. Both are at least 1, or the shape is refused.
    pub fn within(columns: u32, rows: u32) -> Result<Self> {
        let order = columns.min(rows).checked_ilog2().unwrap_or_default().min(LARGEST_ORDER);
        Self::new(if rows == 0 { 0 } else { columns >> order }, order)
    }

    /// The cells on a side of one square.
    fn side(self) -> u32 {
        1 << self.order
    }

    /// The number of columns.
    pub fn columns(self) -> u32 {
        self.squares * self.side()
    }

    /// The number of rows.
    pub fn rows(self) -> u32 {
        self.side()
    }

    /// The number of cells.
    pub fn cells(self) -> u64 {
        u64::from(self.squares) << (2 * self.order)
    }

    /// The column and the row of a cell, by its number along the curve; `None` past the last one.
    pub fn place(self, number: u64) -> Option<(u32, u32)> {
        if number >= self.cells() {
            return None;
        }
        let square = u32::try_from(number >> (2 * self.order)).ok()?;
        let (mut column, mut row) = (0, 0);
        for level in 0..self.order {
            let side = 1 << level;
            let quarter = (number >> (2 * level)) & 3;
            let (right, down) = (quarter >= 2, quarter == 1 || quarter == 2);
            (column, row) = turned(column, row, side, right, down);
            column += if right { side } else { 0 };
            row += if down { side } else { 0 };
        }
        Some((square * self.side() + column, row))
    }

    /// The number along the curve of the cell at a column and a row; `None` outside of the grid.
    pub fn number(self, column: u32, row: u32) -> Option<u64> {
        if column >= self.columns() || row >= self.rows() {
            return None;
        }
        let square = u64::from(column >> self.order);
        let (mut column, mut row) = (column & (self.side() - 1), row);
        let mut number = 0;
        for level in (0..self.order).rev() {
            let side = 1 << level;
            let (right, down) = (column >= side, row >= side);
            let quarter = match (right, down) {
                (false, false) => 0,
                (false, true) => 1,
                (true, true) => 2,
                (true, false) => 3,
            };
            number = number << 2 | quarter;
            (column, row) = turned(column & (side - 1), row & (side - 1), side, right, down);
        }
        Some((square << (2 * self.order)) + number)
    }

    /// This shape with smaller or fewer squares, so that each cell of a disk of `granules` granules has one at least.
    fn for_granules(self, granules: u64) -> Self {
        let fits = |order: &u32| u64::from(self.squares) << (2 * order) <= granules;
        match (0..=self.order).rev().find(fits) {
            Some(order) => Self { order, ..self },
            None => Self { squares: u32::try_from(granules.max(1)).unwrap_or(self.squares), order: 0 },
        }
    }
}

/// A place in the upper left or upper right quarter of a square, as the whole curve has it there: turned, and mirrored on the right.
/// The same call turns it back.
fn turned(column: u32, row: u32, side: u32, right: bool, down: bool) -> (u32, u32) {
    match (right, down) {
        (_, true) => (column, row),
        (false, false) => (row, column),
        (true, false) => (side - 1 - row, side - 1 - column),
    }
}

/// A stretch of the disk, and how much of it is dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The bytes of the disk for which the cell stands; it begins with a granule, and ends with one or with the disk.
    pub extent: Extent,
    /// How many of these bytes are dirty.
    pub dirty_bytes: u64,
}

impl Cell {
    /// The dirty share of the cell, from 0 to 1. It is 0 only where nothing is dirty, and 1 only where all is.
    pub fn share(&self) -> f64 {
        if self.dirty_bytes >= self.extent.len_bytes {
            return 1.0;
        }
        // Shares so near to 1 that they would round up.
        (self.dirty_bytes as f64 / self.extent.len_bytes as f64).min(1.0 - f64::EPSILON)
    }
}

/// A disk as cells in a [`Shape`], in the order of the curve. All cells are equally large, but for one granule more or less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    shape: Shape,
    cells: Vec<Cell>,
}

impl Grid {
    /// The grid of a bitmap. Where the disk has fewer granules than the shape has cells, the squares are smaller or fewer; a disk of
    /// 0 bytes has no cell.
    ///
    /// The time does not depend on the size of the disk: each cell is one [`Bitmap::count_range`].
    pub fn new(bitmap: &Bitmap, shape: Shape) -> Result<Self> {
        let (granularity, size) = (bitmap.granularity(), bitmap.size_bytes());
        let granules = granularity.granules(size);
        let shape = shape.for_granules(granules);
        let number = if granules == 0 { 0 } else { shape.cells() };
        // Granules are 2^41 at most and cells 2^20.
        let start = |cell: u64| (granules * cell / shape.cells() * granularity.bytes()).min(size);
        let cells = (0..number).map(|cell| {
            let (offset, end) = (start(cell), if cell + 1 == number { size } else { start(cell + 1) });
            let extent = Extent { offset, len_bytes: end - offset };
            let whole = bitmap.count_range(offset, extent.len_bytes) << granularity.bits();
            // The last granule can reach past the end of the disk.
            let past_end = granularity.granules(end) * granularity.bytes() - end;
            let last_is_dirty = past_end > 0 && bitmap.get(end - 1).unwrap_or(true);
            Cell { extent, dirty_bytes: whole - if last_is_dirty { past_end } else { 0 } }
        });
        Ok(Self { shape, cells: memory::gather(cells)? })
    }

    /// The shape that the grid has.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The cells, in the order of the disk.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// The cell at a column and a row.
    pub fn cell_at(&self, column: u32, row: u32) -> Option<&Cell> {
        self.cells.get(usize::try_from(self.shape.number(column, row)?).ok()?)
    }

    /// The column and the row of the cell that holds the byte at `offset`.
    pub fn place_of(&self, offset: u64) -> Option<(u32, u32)> {
        let after = self.cells.partition_point(|cell| cell.extent.offset <= offset);
        let number = after.checked_sub(1)?;
        self.cells.get(number).filter(|cell| offset < cell.extent.end())?;
        self.shape.place(number as u64)
    }
}

/// The largest dirty extents of a bitmap, `number` of them at most: the largest first, and of equal ones the first on the disk.
///
/// Every extent is looked at once.
pub fn largest_extents(bitmap: &Bitmap, number: usize) -> Result<Vec<Extent>> {
    let mut largest: Vec<Extent> = memory::room(number.saturating_add(1))?;
    for extent in bitmap.extents(0, u64::MAX) {
        let at = largest.partition_point(|other| other.len_bytes >= extent.len_bytes);
        if at < number {
            largest.insert(at, extent);
            largest.truncate(number);
        }
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Granularity, MAX_GRANULES};

    fn bitmap(size: u64, granularity: u64, extents: &[(u64, u64)]) -> Bitmap {
        let mut bitmap = Bitmap::new(size, Granularity::from_bytes(granularity).unwrap()).unwrap();
        extents.iter().for_each(|(offset, len)| bitmap.set(*offset, *len).unwrap());
        bitmap
    }

    #[test]
    fn the_curve_visits_every_cell_once_and_goes_to_neighbours_only() {
        for (squares, order) in [(1, 0), (1, 1), (1, 2), (1, 5), (2, 1), (3, 4), (7, 0), (2, 6)] {
            let shape = Shape::new(squares, order).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            let mut before: Option<(u32, u32)> = None;
            for number in 0..shape.cells() {
                let place = shape.place(number).unwrap();
                assert!(place.0 < shape.columns() && place.1 < shape.rows(), "{shape:?} {number} {place:?}");
                assert!(seen.insert(place), "{shape:?} {number}");
                assert_eq!(shape.number(place.0, place.1), Some(number), "{shape:?}");
                if let Some(before) = before {
                    assert_eq!(before.0.abs_diff(place.0) + before.1.abs_diff(place.1), 1, "{shape:?} {number}");
                }
                before = Some(place);
            }
            assert_eq!(shape.place(0), Some((0, 0)));
            assert_eq!(before, Some((shape.columns() - 1, 0)), "{shape:?}");
            assert_eq!(shape.place(shape.cells()), None);
            assert_eq!(shape.number(shape.columns(), 0), None);
        }
    }

    #[test]
    fn a_shape_fits_and_is_bounded() {
        for (columns, rows, expected) in
            [(80, 32, (64, 32)), (40, 32, (32, 32)), (200, 32, (192, 32)), (5, 100, (4, 4)), (1, 1, (1, 1))]
        {
            let shape = Shape::within(columns, rows).unwrap();
            assert_eq!((shape.columns(), shape.rows()), expected, "{columns} {rows}");
        }
        assert_eq!(Shape::within(1 << 12, 1 << 11).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert!(Shape::within(1, 0).is_err() && Shape::within(0, 1).is_err());
        assert_eq!(Shape::within(1 << 11, 1 << 20).map(|shape| shape.columns()).ok(), None);
        for (squares, order) in [(0, 3), (2, 10), (1, 11), (u32::MAX, 10)] {
            assert_eq!(Shape::new(squares, order).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }

    /// Cells hold what the extents say, byte by byte.
    #[test]
    fn cells_are_those_of_a_naive_count() {
        let random = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *state >> 33
        };
        let mut state = 7;
        for (size, granularity) in [
            (1, 1),
            (1, 65536),
            (65536, 65536),
            (65537, 65536),
            (5000, 1),
            (10_001_920, 65536),
            (1 << 20, 512),
            (777, 8),
        ] {
            let mut bitmap = bitmap(size, granularity, &[]);
            for _ in 0..random(&mut state) % 20 {
                let offset = random(&mut state) % size;
                bitmap.set(offset, 1 + random(&mut state) % (size - offset).min(3 * granularity)).unwrap();
            }
            for (squares, order) in [(1, 0), (2, 2), (3, 3), (2, 6)] {
                let grid = Grid::new(&bitmap, Shape::new(squares, order).unwrap()).unwrap();
                let mut end = 0;
                for (number, cell) in grid.cells().iter().enumerate() {
                    assert_eq!(cell.extent.offset, end);
                    assert!(cell.extent.len_bytes > 0);
                    end = cell.extent.end();
                    let overlap =
                        |extent: Extent| end.min(extent.end()).saturating_sub(cell.extent.offset.max(extent.offset));
                    assert_eq!(cell.dirty_bytes, bitmap.extents(0, u64::MAX).map(overlap).sum::<u64>());
                    let place = grid.shape().place(number as u64).unwrap();
                    assert_eq!(grid.place_of(cell.extent.offset), Some(place));
                    assert_eq!(grid.place_of(end - 1), Some(place));
                    assert_eq!(grid.cell_at(place.0, place.1), Some(cell));
                }
                assert_eq!(end, size);
                let lens = grid.cells().iter().map(|cell| cell.extent.len_bytes.div_ceil(granularity));
                assert!(lens.clone().max().unwrap() - lens.min().unwrap() <= 1);
            }
        }
    }

    #[test]
    fn from_no_granule_to_the_most() {
        let shape = Shape::new(2, 6).unwrap();
        let none = Grid::new(&bitmap(0, 65536, &[]), shape).unwrap();
        assert!(none.cells().is_empty() && none.cell_at(0, 0).is_none() && none.place_of(0).is_none());
        let one = Grid::new(&bitmap(100, 65536, &[(0, 1)]), shape).unwrap();
        assert_eq!(one.cells(), [Cell { extent: Extent { offset: 0, len_bytes: 100 }, dirty_bytes: 100 }]);
        let mut most = bitmap(MAX_GRANULES, 1, &[(MAX_GRANULES - 1, 1)]);
        let grid = Grid::new(&most, Shape::new(1, 10).unwrap()).unwrap();
        assert_eq!(grid.cells().len() as u64, MAX_CELLS);
        assert_eq!(grid.cells().last().map(|cell| cell.dirty_bytes), Some(1));
        most.set_all().unwrap();
        let grid = Grid::new(&most, shape).unwrap();
        assert!(grid.cells().iter().all(|cell| cell.share() == 1.0 && cell.extent.len_bytes == MAX_GRANULES >> 13));
    }

    #[test]
    fn a_share_says_none_and_all_only_where_it_is_so() {
        let cell = |dirty_bytes| Cell { extent: Extent { offset: 0, len_bytes: 1 << 62 }, dirty_bytes };
        assert_eq!((cell(0).share(), cell(1 << 62).share()), (0.0, 1.0));
        assert!(cell(1).share() > 0.0 && cell((1 << 62) - 1).share() < 1.0);
    }

    #[test]
    fn the_largest_extents_come_first() {
        let bitmap = bitmap(1 << 20, 4096, &[(0, 4096), (16384, 8192), (65536, 4096), (131_072, 40960)]);
        let sizes = |number| {
            let found = largest_extents(&bitmap, number).unwrap();
            found.iter().map(|extent| (extent.offset, extent.len_bytes)).collect::<Vec<_>>()
        };
        assert_eq!(sizes(3), [(131_072, 40960), (16384, 8192), (0, 4096)]);
        assert_eq!((sizes(0).len(), sizes(9).len()), (0, 4));
    }
}
