//go:build go1.23

package checkmap

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestIterators(t *testing.T) {
	const count = 3*Batch + 5
	bitmap := bitmapOf(t, 16*gib, 4*kib)
	for at := uint64(0); at < count; at++ {
		fine(t, bitmap.Set(at*8*kib, 4*kib))
	}
	var expected []Extent
	for walk := bitmap.Extents(0, ToEnd); walk.Next(); {
		expected = append(expected, walk.Extent())
	}
	equal(t, len(expected), count)

	walk, at := bitmap.Extents(0, ToEnd), 0
	for extent := range walk.All() {
		equal(t, extent, expected[at])
		if at++; at == Batch+7 {
			break
		}
	}
	equal(t, at, Batch+7)
	check(t, walk.Next() && walk.Extent() == expected[at])
	for range walk.All() {
		at++
	}
	fine(t, walk.Err())
	equal(t, at, count-1)

	at = 0
	for batch := range bitmap.Extents(0, ToEnd).Batches() {
		check(t, len(batch) <= Batch)
		at += len(batch)
		if at > 2*Batch {
			break
		}
	}
	equal(t, at, 3*Batch)

	place := filepath.Join(t.TempDir(), "segment")
	ok(bitmap.WriteSegment(place))
	segment := ok(OpenSegment(place))
	other := ok(bitmap.Clone())
	fine(t, other.Clear(0, 4*kib))
	ok(other.WriteSegment(place + "2"))
	second := ok(OpenSegment(place + "2"))
	for round := 0; round < 2; round++ { // each range begins anew
		at = 0
		for extent, err := range bitmap.Ranges(0, ToEnd) {
			fine(t, err)
			equal(t, extent, expected[at])
			at++
		}
		equal(t, at, count)
		at = 0
		for extent, err := range segment.Ranges(8*kib, ToEnd) {
			fine(t, err)
			equal(t, extent, expected[at+1])
			if at++; at == 10 {
				break
			}
		}
		equal(t, at, 10)
		at = 0
		for extent, err := range segment.Differences(second, 0, ToEnd) {
			fine(t, err)
			equal(t, extent, Extent{Offset: 0, Length: 4 * kib, Flags: OnlyInFirst})
			at++
		}
		equal(t, at, 1)
	}

	fine(t, bitmap.Close())
	at = 0
	for extent, err := range bitmap.Ranges(0, ToEnd) {
		check(t, extent == Extent{} && errors.Is(err, ErrInvalidArgument))
		at++
	}
	equal(t, at, 1)
}
