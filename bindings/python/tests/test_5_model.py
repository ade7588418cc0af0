"""Random calls do to bitmaps what they do to Python's sets of granules."""

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from checkmap import Bitmap, InvalidArgumentError, OutOfRangeError

GRANULARITY = 512
GRANULES = 1000
SIZE = GRANULES * GRANULARITY - 100

offsets = st.integers(0, SIZE + 300)
lengths = st.one_of(st.none(), st.integers(0, 4000), st.integers(0, SIZE))
which = st.integers(0, 1)


def touched(offset, length):
    """The granules that a range touches, which is cut at the end of the disk."""
    end = SIZE if length is None else min(offset + length, SIZE)
    return set(range(offset // GRANULARITY, -(-end // GRANULARITY))) if offset < end else set()


def extents_of(granules, offset, length):
    end = SIZE if length is None else min(offset + length, SIZE)
    out = []
    for granule in sorted(granules):
        first, last = max(granule * GRANULARITY, offset), min((granule + 1) * GRANULARITY, end)
        if first >= last:
            continue
        if out and sum(out[-1]) == first:
            out[-1] = (out[-1][0], last - out[-1][0])
        else:
            out.append((first, last - first))
    return out


class Model(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.bitmaps = [Bitmap(SIZE, GRANULARITY) for _ in range(2)]
        self.sets = [set(), set()]

    @rule(n=which, offset=offsets, length=lengths)
    def set(self, n, offset, length):
        end = SIZE if length is None else offset + length
        try:
            self.bitmaps[n].set(offset, length)
        except OutOfRangeError:
            assert end > GRANULES * GRANULARITY or (length is None and offset > SIZE)
        else:
            assert length == 0 or end <= GRANULES * GRANULARITY
            # Inside of the last granule, past the disk, still counts.
            last = -(-end // GRANULARITY)
            if length != 0 and offset < end:
                self.sets[n] |= set(range(offset // GRANULARITY, last))

    @rule(n=which, granule=st.integers(0, GRANULES), count=st.integers(0, 50), ragged=st.booleans())
    def clear(self, n, granule, count, ragged):
        offset, length = granule * GRANULARITY, min(count * GRANULARITY, max(SIZE - granule * GRANULARITY, 0))
        if ragged and 1 < length < SIZE - offset:
            try:
                self.bitmaps[n].clear(offset, length - 1)
                raise AssertionError("a ragged clear went through")
            except InvalidArgumentError:
                return
        self.bitmaps[n].clear(offset, length)
        self.sets[n] -= touched(offset, length)

    @rule(n=which, operation=st.sampled_from(["or", "and", "sub", "xor"]), in_place=st.booleans(), own=st.booleans())
    def combine(self, n, operation, in_place, own):
        other = n if own else 1 - n
        name = f"__{'i' if in_place else ''}{operation}__"
        self.bitmaps[n] = getattr(self.bitmaps[n], name)(self.bitmaps[other])
        self.sets[n] = getattr(set(self.sets[n]), f"__{operation}__")(self.sets[other])

    @rule(n=which, at=st.integers(0, GRANULES // 8 - 1), bits=st.binary(max_size=20))
    def from_bits(self, n, at, bits):
        self.bitmaps[n].from_bits(bits, at * 8 * GRANULARITY)
        for bit in range(len(bits) * 8):
            granule = at * 8 + bit
            self.sets[n].discard(granule)
            if bits[bit // 8] >> bit % 8 & 1 and granule < GRANULES:
                self.sets[n].add(granule)

    @rule(n=which)
    def all(self, n):
        self.bitmaps[n].set_all()
        self.sets[n] = set(range(GRANULES))

    @rule(n=which)
    def there_and_back(self, n):
        self.bitmaps[n] = Bitmap.deserialize(self.bitmaps[n].serialize(), SIZE, GRANULARITY)

    @rule(n=which, offset=offsets, length=lengths)
    def ask(self, n, offset, length):
        bitmap, model = self.bitmaps[n], self.sets[n]
        expected = extents_of(model, offset, length)
        assert bitmap.extents(offset, length) == expected
        assert bitmap.count_range(offset, length) == len(model & touched(offset, length))
        assert bitmap.next_dirty(offset, length) == (expected[0][0] if expected else None)
        assert bitmap.previous_dirty(offset, length) == (sum(expected[-1]) - 1 if expected else None)
        clean = extents_of(set(range(GRANULES)) - model, offset, length)
        assert bitmap.next_clean(offset, length) == (clean[0][0] if clean else None)
        assert bitmap.previous_clean(offset, length) == (sum(clean[-1]) - 1 if clean else None)
        assert (offset in bitmap) == (offset < SIZE and offset // GRANULARITY in model)

    @invariant()
    def same(self):
        for bitmap, model in zip(getattr(self, "bitmaps", []), getattr(self, "sets", [])):
            bitmap.validate()
            assert len(bitmap) == len(model) and bool(bitmap) == bool(model)
            bits = bytearray(-(-GRANULES // 8))
            for granule in model:
                bits[granule // 8] |= 1 << granule % 8
            assert bitmap.to_bits() == bits
            assert bitmap.extents() == extents_of(model, 0, None)
        if hasattr(self, "bitmaps"):
            assert (self.bitmaps[0] == self.bitmaps[1]) == (self.sets[0] == self.sets[1])
            assert (self.bitmaps[0] <= self.bitmaps[1]) == (self.sets[0] <= self.sets[1])


Model.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
TestBitmapsAreSets = Model.TestCase
