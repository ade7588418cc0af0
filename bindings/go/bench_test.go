package checkmap

import (
	"math"
	"testing"
	"time"

	"checkmap/internal/native"
)

const (
	benchDisk = 2 * tib
	benchStep = 8 * mib // a quarter of a million extents
)

func walked(bitmap *Bitmap) (sum uint64) {
	walk := bitmap.Extents(0, ToEnd)
	for batch := walk.NextBatch(); len(batch) > 0; batch = walk.NextBatch() {
		for at := range batch {
			sum += batch[at].Offset ^ batch[at].Length
		}
	}
	return sum
}

func walkedByOne(bitmap *Bitmap) (sum uint64) {
	walk := bitmap.Extents(0, ToEnd)
	for walk.Next() {
		extent := walk.Extent()
		sum += extent.Offset ^ extent.Length
	}
	return sum
}

func benchBitmap(t testing.TB) *Bitmap {
	bitmap := bitmapOf(t, benchDisk, 64*kib)
	for at := uint64(0); at < benchDisk; at += benchStep {
		fine(t, bitmap.Set(at, 64*kib))
	}
	fine(t, bitmap.Optimize())
	return bitmap
}

// Tells what walking costs beside C, the best of many rounds, turn by turn; only the answers can fail it.
func TestOverhead(t *testing.T) {
	bitmap, inC := benchBitmap(t), native.New(benchDisk, 64*kib, benchStep, Batch)
	sum := inC.Walk()
	best := [3]time.Duration{math.MaxInt64, math.MaxInt64, math.MaxInt64}
	for round := 0; round < 30; round++ {
		for at, walk := range []func() uint64{inC.Walk, func() uint64 { return walked(bitmap) },
			func() uint64 { return walkedByOne(bitmap) }} {
			start := time.Now()
			equal(t, walk(), sum)
			if took := time.Since(start); took < best[at] {
				best[at] = took
			}
		}
	}
	batches, ones := float64(best[1])/float64(best[0]), float64(best[2])/float64(best[0])
	t.Logf("%d extents: C %v, Go by batches %v (%.2f), Go one by one %v (%.2f)", ok(bitmap.CountExtents()), best[0],
		best[1], batches, best[2], ones)
}

func BenchmarkExtentsC(b *testing.B) {
	inC := native.New(benchDisk, 64*kib, benchStep, Batch)
	b.ResetTimer()
	for n := 0; n < b.N; n++ {
		inC.Walk()
	}
}

func BenchmarkExtentsBatches(b *testing.B) {
	bitmap := benchBitmap(b)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n++ {
		walked(bitmap)
	}
}

func BenchmarkExtentsOneByOne(b *testing.B) {
	bitmap := benchBitmap(b)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n++ {
		walkedByOne(bitmap)
	}
}

func BenchmarkGetC(b *testing.B) {
	inC := native.New(benchDisk, 64*kib, benchStep, Batch)
	b.ResetTimer()
	inC.Get(64*kib, uint64(b.N)%(benchDisk/(64*kib)))
	for n := uint64(b.N) / (benchDisk / (64 * kib)); n > 0; n-- {
		inC.Get(64*kib, benchDisk/(64*kib))
	}
}

func BenchmarkGet(b *testing.B) {
	bitmap := benchBitmap(b)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n++ {
		_, _ = bitmap.Get(uint64(n) * 64 * kib % benchDisk)
	}
}

func BenchmarkError(b *testing.B) {
	bitmap := bitmapOf(b, 1, 1)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n++ {
		_, _ = bitmap.Get(2)
	}
}
