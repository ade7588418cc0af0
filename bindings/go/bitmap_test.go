package checkmap

import (
	"math"
	"math/rand"
	"syscall"
	"testing"
)

func Test100New(t *testing.T) {
	for granularity := uint64(1); granularity <= 1<<31; granularity *= 2 {
		bitmap := bitmapOf(t, granularity*10+1, granularity)
		equal(t, bitmap.Granularity(), granularity)
		equal(t, bitmap.Size(), granularity*10+1)
		equal(t, ok(bitmap.Granules()), 11)
	}
	for _, bad := range []uint64{0, 3, 65535, 1 << 32, math.MaxUint64} {
		invalid(t, second(NewBitmap(mib, bad)))
	}
	equal(t, ok(bitmapOf(t, 1<<41, 1).Granules()), 1<<41)
	invalid(t, second(NewBitmap(1<<41+1, 1)))
	largest := bitmapOf(t, math.MaxInt64, 1<<31)
	fine(t, largest.SetAll())
	equal(t, ok(largest.DirtyBytes()), math.MaxInt64)
	invalid(t, second(NewBitmap(math.MaxInt64+1, 1<<31)))
	empty := bitmapOf(t, 0, 65536)
	fine(t, empty.Set(0, ToEnd))
	equal(t, ok(empty.Count()), 0)
	check(t, none(empty.NextClean(0, ToEnd)))
}

func Test101Set(t *testing.T) {
	bitmap := bitmapOf(t, 100*kib+1, 4*kib)
	fine(t, bitmap.Set(4095, 2))
	equal(t, ok(bitmap.Count()), 2)
	fine(t, bitmap.Set(50, 0))
	fine(t, bitmap.Set(math.MaxUint64, 0))
	equal(t, ok(bitmap.Count()), 2)
	fine(t, bitmap.Set(100*kib+2, 10)) // past the disk, inside its last granule
	equal(t, ok(bitmap.DirtyBytes()), 2*4096+1)
	outOfRange(t, bitmap.Set(0, 104*kib+1))
	outOfRange(t, bitmap.Set(math.MaxUint64, 1))
	outOfRange(t, bitmap.Set(math.MaxUint64-1, math.MaxUint64-1))
	outOfRange(t, bitmap.Set(200*kib, ToEnd))
	equal(t, ok(bitmap.Count()), 3)
	fine(t, bitmap.Set(0, ToEnd))
	equal(t, ok(bitmap.Count()), 26)
}

func Test102Clear(t *testing.T) {
	bitmap := bitmapOf(t, 100*kib+1, 4*kib)
	fine(t, bitmap.SetAll())
	fine(t, bitmap.Clear(4*kib, 8*kib))
	equal(t, ok(bitmap.Count()), 24)
	invalid(t, bitmap.Clear(1, 4*kib))
	invalid(t, bitmap.Clear(16*kib, 1))
	outOfRange(t, bitmap.Clear(0, 200*kib))
	equal(t, ok(bitmap.Count()), 24)
	fine(t, bitmap.Clear(96*kib, 4*kib+1))
	equal(t, ok(bitmap.Count()), 22)
	fine(t, bitmap.Clear(88*kib, ToEnd))
	equal(t, ok(bitmap.Count()), 20)
	equal(t, ok(bitmap.IsEmpty()), false)
	fine(t, bitmap.ClearAll())
	equal(t, ok(bitmap.IsEmpty()), true)
}

func Test103Get(t *testing.T) {
	bitmap := bitmapOf(t, 10*kib, kib)
	fine(t, bitmap.Set(5*kib, 1))
	equal(t, ok(bitmap.Get(5*kib-1)), false)
	equal(t, ok(bitmap.Get(5*kib)), true)
	equal(t, ok(bitmap.Get(6*kib-1)), true)
	equal(t, ok(bitmap.Get(6*kib)), false)
	outOfRange(t, second(bitmap.Get(10*kib)))
	outOfRange(t, second(bitmap.Get(math.MaxUint64)))
}

func Test104Next(t *testing.T) {
	bitmap := bitmapOf(t, 10*kib, kib)
	check(t, none(bitmap.NextDirty(0, ToEnd)))
	fine(t, bitmap.Set(4*kib, 2*kib))
	equal(t, at(bitmap.NextDirty(0, ToEnd)), 4*kib)
	check(t, none(bitmap.NextDirty(0, 4*kib)))
	equal(t, at(bitmap.NextDirty(0, 4*kib+1)), 4*kib)
	equal(t, at(bitmap.NextDirty(4*kib+7, ToEnd)), 4*kib+7)
	check(t, none(bitmap.NextDirty(6*kib, ToEnd)))
	equal(t, at(bitmap.NextClean(4*kib+7, ToEnd)), 6*kib)
	check(t, none(bitmap.NextClean(4*kib+7, kib)))
	equal(t, at(bitmap.NextClean(3, 5)), 3)
	check(t, none(bitmap.NextClean(10*kib, ToEnd)))
	check(t, none(bitmap.NextDirty(math.MaxUint64, math.MaxUint64)))
	check(t, none(bitmap.NextDirty(0, 0)))
}

func Test105Previous(t *testing.T) {
	bitmap := bitmapOf(t, 10*kib+1, kib)
	check(t, none(bitmap.PreviousDirty(0, ToEnd)))
	equal(t, at(bitmap.PreviousClean(0, ToEnd)), 10*kib)
	fine(t, bitmap.Set(4*kib, 2*kib))
	equal(t, at(bitmap.PreviousDirty(0, ToEnd)), 6*kib-1)
	equal(t, at(bitmap.PreviousDirty(0, 5*kib)), 5*kib-1)
	equal(t, at(bitmap.PreviousClean(0, 5*kib)), 4*kib-1)
	check(t, none(bitmap.PreviousClean(4*kib, kib)))
	check(t, none(bitmap.PreviousDirty(6*kib, ToEnd)))
	check(t, none(bitmap.PreviousDirty(math.MaxUint64, 1)))
}

func Test105RankSelectAndComplement(t *testing.T) {
	bitmap := bitmapOf(t, 10*kib+1, kib)
	equal(t, ok(bitmap.Rank(math.MaxUint64)), 0)
	check(t, none(bitmap.Select(0)))
	fine(t, bitmap.Set(4*kib, 2*kib))
	equal(t, ok(bitmap.Rank(5*kib)), 1)
	equal(t, ok(bitmap.Rank(math.MaxUint64)), 2)
	equal(t, at(bitmap.Select(1)), 5*kib)
	check(t, none(bitmap.Select(2)))
	fine(t, bitmap.Complement())
	equal(t, ok(bitmap.Count()), 9)
	equal(t, ok(bitmap.DirtyBytes()), 8*kib+1)
}

func Test106Extents(t *testing.T) {
	// More than two batches, and exactly two.
	for _, count := range []uint64{1, Batch - 1, Batch, Batch + 1, 2 * Batch, 2*Batch + 5} {
		bitmap := bitmapOf(t, count*8*kib+5, kib)
		for n := uint64(0); n < count; n++ {
			fine(t, bitmap.Set(n*8*kib, 2*kib))
		}
		equal(t, ok(bitmap.CountExtents()), count)
		walk, seen := bitmap.Extents(0, ToEnd), uint64(0)
		for walk.Next() {
			equal(t, walk.Extent(), Extent{Offset: seen * 8 * kib, Length: 2 * kib, Flags: Dirty})
			seen++
		}
		fine(t, walk.Err())
		equal(t, seen, count)
		check(t, !walk.Next())
		walk, seen = bitmap.Extents(0, ToEnd), 0
		for batch := walk.NextBatch(); len(batch) > 0; batch = walk.NextBatch() {
			seen += uint64(len(batch))
		}
		equal(t, seen, count)
		// A window.
		walk, seen = bitmap.Extents(kib, count*8*kib-7*kib), 0
		for walk.Next() {
			seen += walk.Extent().Length
		}
		fine(t, walk.Err())
		equal(t, seen, count*2*kib-kib)
	}
	bitmap := bitmapOf(t, mib+5, kib)
	fine(t, bitmap.Set(0, 2*kib))
	fine(t, bitmap.Set(mib, 1))
	extents := make([]Extent, 10)
	equal(t, ok(bitmap.FillExtents(0, ToEnd, extents)), 2)
	equal(t, extents[1], Extent{Offset: mib, Length: 5, Flags: Dirty})
	equal(t, extents[1].End(), bitmap.Size())
	equal(t, ok(bitmap.FillExtents(1000, 100, extents)), 1)
	equal(t, extents[0], Extent{Offset: 1000, Length: 100, Flags: Dirty})
	equal(t, ok(bitmap.FillExtents(math.MaxUint64, math.MaxUint64, extents)), 0)
	equal(t, ok(bitmap.FillExtents(0, 0, extents)), 0)
	invalid(t, second(bitmap.FillExtents(0, 1, nil)))
	for _, range_ := range [][2]uint64{{math.MaxUint64, math.MaxUint64}, {0, 0}, {math.MaxUint64, 0}, {mib + 5, 1}} {
		check(t, !bitmap.Extents(range_[0], range_[1]).Next())
	}
}

func Test107CountRange(t *testing.T) {
	bitmap := bitmapOf(t, 10*kib+1, kib)
	fine(t, bitmap.SetAll())
	for _, is := range []struct{ offset, length, count uint64 }{
		{0, ToEnd, 11}, {1023, 2, 2}, {1024, 1024, 1}, {10 * kib, ToEnd, 1}, {10*kib + 1, ToEnd, 0},
		{math.MaxUint64, math.MaxUint64, 0}, {0, 0, 0},
	} {
		equal(t, ok(bitmap.CountRange(is.offset, is.length)), is.count)
	}
}

func Test108Resize(t *testing.T) {
	bitmap := bitmapOf(t, 10*kib+1, kib)
	fine(t, bitmap.SetAll())
	fine(t, bitmap.Resize(5*kib+1))
	equal(t, ok(bitmap.Count()), 6)
	fine(t, bitmap.Resize(20*kib))
	equal(t, ok(bitmap.DirtyBytes()), 6*kib)
	invalid(t, bitmap.Resize(math.MaxUint64))
	invalid(t, bitmap.Resize(math.MaxInt64))
	equal(t, bitmap.Size(), 20*kib)
	fine(t, bitmap.Resize(0))
	equal(t, ok(bitmap.IsEmpty()), true)
	fine(t, bitmap.Validate())
}

func Test109Clone(t *testing.T) {
	bitmap := bitmapOf(t, gib, 4*kib)
	fine(t, bitmap.Set(12345, 99999))
	copied := ok(bitmap.Clone())
	equal(t, ok(bitmap.Equal(copied)), true)
	fine(t, bitmap.Set(gib-1, 1))
	equal(t, ok(bitmap.Equal(copied)), false)
	equal(t, ok(copied.Get(gib-1)), false)
	fine(t, bitmap.Close())
	fine(t, copied.Validate())
	fine(t, copied.Optimize())
	check(t, ok(copied.HeapBytes()) > 0)
	fine(t, copied.Close())
}

func Test110HugeDisk(t *testing.T) {
	const disk = 4096 * tib
	bitmap := bitmapOf(t, disk, 4*kib)
	fine(t, bitmap.SetAll())
	equal(t, ok(bitmap.Count()), disk/(4*kib))
	check(t, ok(bitmap.HeapBytes()) < 4096)
	walk := bitmap.Extents(0, ToEnd)
	check(t, walk.Next() && walk.Extent().Length == disk && !walk.Next())
	fine(t, bitmap.Clear(disk/2, 4*kib))
	equal(t, at(bitmap.NextClean(0, ToEnd)), disk/2)
	equal(t, at(bitmap.PreviousClean(0, ToEnd)), disk/2+4*kib-1)
}

func Test120Union(t *testing.T) {
	fineBitmap, coarse := bitmapOf(t, mib, kib), bitmapOf(t, mib, 64*kib)
	fine(t, fineBitmap.Set(100*kib, 1))
	fine(t, coarse.Set(0, 1))
	fine(t, coarse.Union(fineBitmap, coarse, fineBitmap))
	equal(t, ok(coarse.Count()), 2)
	equal(t, coarse.Granularity(), 64*kib)
	fine(t, fineBitmap.Union(coarse))
	equal(t, ok(fineBitmap.Count()), 128)
	fine(t, fineBitmap.Union(fineBitmap))
	fine(t, fineBitmap.Union())
	equal(t, ok(fineBitmap.Count()), 128)
}

func Test121UnionMismatch(t *testing.T) {
	a, b, c := bitmapOf(t, mib, kib), bitmapOf(t, mib, kib), bitmapOf(t, mib+1, kib)
	fine(t, b.Set(0, 1))
	mismatch := func(err error) {
		t.Helper()
		fails(t, err, ErrSizeMismatch, syscall.EINVAL)
	}
	mismatch(a.Union(b, c))
	equal(t, ok(a.IsEmpty()), true)
	mismatch(second(UnionOf([]*Bitmap{b, c}, 0, nil)))
	mismatch(a.Intersect(c))
	mismatch(a.Subtract(c))
	mismatch(a.Xor(c))
	mismatch(second(a.IsSubset(c)))
	equal(t, ok(a.Equal(c)), false)
	equal(t, ok(a.IsEmpty()), true)
}

func Test122UnionNew(t *testing.T) {
	var bitmaps []*Bitmap
	for n := uint64(0); n < 64; n++ {
		bitmap := bitmapOf(t, gib, []uint64{64 * kib, 4 * kib}[n%2])
		fine(t, bitmap.Set(n*mib, 1))
		bitmaps = append(bitmaps, bitmap)
	}
	out := ok(UnionOf(bitmaps, 0, nil))
	equal(t, out.Granularity(), 4*kib)
	equal(t, ok(out.DirtyBytes()), 32*4*kib+32*64*kib)
	fine(t, out.Validate())
	out = ok(UnionOf(bitmaps, mib, &Options{Threads: 2}))
	equal(t, ok(out.Count()), 64)
	equal(t, ok(out.CountExtents()), 1)
	invalid(t, second(UnionOf(bitmaps, 3, nil)))
	invalid(t, second(UnionOf(nil, 0, nil)))
}

func Test123Combine(t *testing.T) {
	a, b := bitmapOf(t, mib, kib), bitmapOf(t, mib, kib)
	fine(t, a.Set(0, 10*kib))
	fine(t, b.Set(5*kib, 10*kib))
	out := ok(a.Clone())
	fine(t, out.Intersect(b))
	equal(t, ok(out.Count()), 5)
	equal(t, ok(out.IsSubset(a)), true)
	equal(t, ok(a.IsSubset(out)), false)
	fine(t, out.Xor(a))
	equal(t, ok(out.Count()), 5)
	fine(t, a.Subtract(b))
	equal(t, ok(a.Equal(out)), true)
	fine(t, b.Intersect(b))
	equal(t, ok(b.Count()), 10)
	equal(t, ok(b.Equal(b)), true)
	fine(t, b.Subtract(b))
	equal(t, ok(b.Count()), 0)
	fine(t, a.Xor(a))
	equal(t, ok(a.Count()), 0)
}

func Test124Granularity(t *testing.T) {
	bitmap := bitmapOf(t, mib, kib)
	fine(t, bitmap.Set(5*kib, kib))
	coarse := ok(bitmap.ToGranularity(4 * kib))
	equal(t, ok(coarse.Count()), 1)
	back := ok(coarse.ToGranularity(kib))
	equal(t, ok(back.Count()), 4)
	equal(t, ok(bitmap.IsSubset(back)), true)
	fine(t, coarse.Subtract(bitmap))
	equal(t, ok(coarse.Count()), 1)
	fine(t, coarse.Intersect(bitmap))
	equal(t, ok(coarse.Count()), 1)
	fine(t, coarse.Subtract(back))
	equal(t, ok(coarse.Count()), 0)
	invalid(t, coarse.Xor(bitmap))
	invalid(t, second(bitmap.ToGranularity(0)))
}

func Test130ToBits(t *testing.T) {
	bitmap := bitmapOf(t, 20*kib+1, kib)
	fine(t, bitmap.SetAll())
	equal(t, string(ok(bitmap.ToBits(0, ToEnd))), "\xff\xff\x1f")
	equal(t, string(ok(bitmap.ToBits(8*kib, kib+1))), "\x03")
	equal(t, len(ok(bitmap.ToBits(8*kib, 0))), 0)
	equal(t, len(ok(bitmap.ToBits(80*kib, ToEnd))), 0)
	invalid(t, second(bitmap.ToBits(4*kib, kib)))
	invalid(t, second(bitmap.ToBits(1, kib)))
	fine(t, bitmap.ClearAll())
	fine(t, bitmap.Set(9*kib, 1))
	equal(t, string(ok(bitmap.ToBits(0, ToEnd))), "\x00\x02\x00")
}

func Test131FromBits(t *testing.T) {
	bitmap := bitmapOf(t, 20*kib+1, kib)
	bits := []byte{0x01, 0x80, 0xff, 0xff}
	fine(t, bitmap.SetAll())
	fine(t, bitmap.FromBits(0, bits[:2]))
	equal(t, ok(bitmap.Count()), 2+5)
	fine(t, bitmap.ClearAll())
	fine(t, bitmap.FromBits(16*kib, bits[2:]))
	equal(t, ok(bitmap.Count()), 5)
	fine(t, bitmap.Validate())
	fine(t, bitmap.FromBits(8*kib, bits[:1]))
	fine(t, bitmap.FromBits(0, nil))
	equal(t, ok(bitmap.Count()), 6)
	invalid(t, bitmap.FromBits(4*kib, bits[:1]))
	outOfRange(t, bitmap.FromBits(24*kib, bits[:1]))
	outOfRange(t, bitmap.FromBits(24*kib, nil))
	equal(t, ok(bitmap.Count()), 6)
}

func Test132Roaring(t *testing.T) {
	bitmap := bitmapOf(t, tib, 64*kib)
	for at := uint64(0); at < tib; at += tib / 777 {
		fine(t, bitmap.Set(at, at%16+1))
	}
	data := ok(bitmap.Serialize())
	back := ok(Deserialize(data, tib, 64*kib))
	equal(t, ok(bitmap.Equal(back)), true)
	damaged := func(err error) {
		t.Helper()
		fails(t, err, ErrDamaged, syscall.EBADMSG)
	}
	damaged(second(Deserialize(data, gib, 64*kib)))
	damaged(second(Deserialize(data[:len(data)-1], tib, 64*kib)))
	damaged(second(Deserialize(nil, tib, 64*kib)))
	damaged(second(Deserialize(append(data[:len(data):len(data)], 0), tib, 64*kib)))
	invalid(t, second(Deserialize(data, tib, 3)))
	for at := range data {
		data[at] = 0xff
	}
	damaged(second(Deserialize(data, tib, 64*kib)))
}

// Random calls, held against a map of dirty granules.
func TestAgainstMap(t *testing.T) {
	for seed := int64(0); seed < 40; seed++ {
		random := rand.New(rand.NewSource(seed))
		granularity := uint64(1) << random.Intn(18)
		disk := granularity*uint64(random.Intn(3000)) + uint64(random.Int63n(int64(granularity)))
		granules := (disk + granularity - 1) / granularity
		bitmaps, models := [2]*Bitmap{}, [2]map[uint64]bool{}
		for n := range bitmaps {
			bitmaps[n], models[n] = bitmapOf(t, disk, granularity), map[uint64]bool{}
		}
		for step := 0; step < 60 && disk > 0; step++ {
			n := random.Intn(2)
			bitmap, model, other := bitmaps[n], models[n], models[1-n]
			offset := uint64(random.Int63n(int64(disk)))
			length := uint64(random.Int63n(int64(disk-offset)) + 1)
			first, end := offset/granularity, (offset+length+granularity-1)/granularity
			switch random.Intn(6) {
			case 0, 1:
				fine(t, bitmap.Set(offset, length))
				for granule := first; granule < end; granule++ {
					model[granule] = true
				}
			case 2:
				err := bitmap.Clear(first*granularity, (end-first)*granularity)
				fine(t, err)
				for granule := first; granule < end; granule++ {
					delete(model, granule)
				}
			case 3:
				fine(t, bitmap.Union(bitmaps[1-n]))
				for granule := range other {
					model[granule] = true
				}
			case 4:
				fine(t, bitmap.Subtract(bitmaps[1-n]))
				for granule := range other {
					delete(model, granule)
				}
			case 5:
				copied := ok(Deserialize(ok(bitmap.Serialize()), disk, granularity))
				equal(t, ok(copied.Equal(bitmap)), true)
				fine(t, bitmap.Close())
				bitmaps[n], bitmap = copied, copied
			}
			equal(t, ok(bitmap.Count()), uint64(len(model)))
			inRange := uint64(0)
			for granule := range model {
				if granule >= first && granule < end {
					inRange++
				}
			}
			equal(t, ok(bitmap.CountRange(offset, length)), inRange)
			equal(t, ok(bitmap.Get(offset)), model[first])
		}
		for n, bitmap := range bitmaps {
			fine(t, bitmap.Validate())
			walk, seen, behind := bitmap.Extents(0, ToEnd), uint64(0), uint64(0)
			for walk.Next() {
				extent := walk.Extent()
				check(t, seen == 0 || extent.Offset > behind)
				behind = extent.End()
				check(t, extent.Length > 0 && behind <= disk)
				for granule := extent.Offset / granularity; granule*granularity < behind; granule++ {
					check(t, models[n][granule] && granule < granules)
					seen++
				}
			}
			fine(t, walk.Err())
			equal(t, seen, uint64(len(models[n])))
		}
	}
}
