//go:build go1.23

package checkmap

import "iter"

// All ranges over the extents that Next would go to:
//
//	extents := bitmap.Extents(0, checkmap.ToEnd)
//	for extent := range extents.All() {
//		fmt.Println(extent.Offset)
//	}
//	if err := extents.Err(); err != nil { ... }
//
// After a break the rest is still there, for another range, or for Next. It needs Go 1.23, as all that gives an iter.Seq.
func (e *Extents) All() iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		for e.Next() {
			if !yield(e.Extent()) {
				return
			}
		}
	}
}

// Batches ranges over what NextBatch would give: each batch is good until the next one.
func (e *Extents) Batches() iter.Seq[[]Extent] {
	return func(yield func([]Extent) bool) {
		for batch := e.NextBatch(); len(batch) > 0; batch = e.NextBatch() {
			if !yield(batch) {
				return
			}
		}
	}
}

// ranged begins a walk anew for each range over it. An error is the last pair, with an empty extent.
func ranged(begin func() *Extents) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		extents := begin()
		defer extents.release()
		for extents.Next() {
			if !yield(extents.Extent(), nil) {
				return
			}
		}
		if err := extents.Err(); err != nil {
			yield(Extent{}, err)
		}
	}
}

// Ranges ranges over the dirty extents of the range, as Extents walks them, each with nil; where the walk fails, the last
// pair has the error:
//
//	for extent, err := range bitmap.Ranges(0, checkmap.ToEnd) {
//		if err != nil {
//			return err
//		}
//		copyRange(extent.Offset, extent.Length)
//	}
func (b *Bitmap) Ranges(offset, length uint64) iter.Seq2[Extent, error] {
	return ranged(func() *Extents { return b.Extents(offset, length) })
}

// Ranges ranges over the dirty extents of the range, as Bitmap.Ranges does.
func (s *Segment) Ranges(offset, length uint64) iter.Seq2[Extent, error] {
	return ranged(func() *Extents { return s.Extents(offset, length) })
}

// Differences ranges over what Diff walks, as Bitmap.Ranges does.
func (s *Segment) Differences(second *Segment, offset, length uint64) iter.Seq2[Extent, error] {
	return ranged(func() *Extents { return s.Diff(second, offset, length) })
}
