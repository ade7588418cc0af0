package checkmap

/*
#include <stdlib.h>
#include <checkmap.h>
*/
import "C"

import "unsafe"

// Severity says how bad a finding is.
type Severity uint32

// The severities.
const (
	SeverityError    Severity = C.CHECKMAP_SEVERITY_ERROR    // A rule is broken; writing may lose data.
	SeverityUnusable Severity = C.CHECKMAP_SEVERITY_UNUSABLE // A bitmap cannot be used for a backup.
	SeverityLeak     Severity = C.CHECKMAP_SEVERITY_LEAK     // Room is counted as used that nothing uses.
	SeverityWarning  Severity = C.CHECKMAP_SEVERITY_WARNING  // Odd, and harmless.
)

// Problem is one finding of a check.
type Problem struct {
	Structure string // the structure that is wrong
	Message   string // what is wrong with it
	Offset    int64  // where in the file, in bytes; -1 where that cannot be said
	Severity  Severity
}

// Report is what a check found. The counts are complete, of the problems the first thousand are kept.
type Report struct {
	Errors      uint64 // broken rules
	Unusable    uint64 // bitmaps, or all together, that cannot be used for a backup
	LeakedBytes uint64
	Problems    []Problem
}

// reported runs a check, and copies what it found.
func reported(options *Options, call func(*C.struct_checkmap_opts, **C.struct_checkmap_report) C.int) (*Report, error) {
	var out *C.struct_checkmap_report
	if err := options.with(func(opts *C.struct_checkmap_opts) C.int { return call(opts, &out) }); err != nil {
		return nil, err
	}
	defer C.checkmap_report_free(out)
	report := new(Report)
	var err error
	count := func(call func() int64) (n uint64) {
		if err == nil {
			n, err = number(call)
		}
		return n
	}
	report.Errors = count(func() int64 { return int64(C.checkmap_report_errors(out)) })
	report.Unusable = count(func() int64 { return int64(C.checkmap_report_unusable(out)) })
	report.LeakedBytes = count(func() int64 { return int64(C.checkmap_report_leaked_bytes(out)) })
	total := count(func() int64 { return int64(C.checkmap_report_problems(out, 0, nil, 0)) })
	if err != nil || total == 0 {
		return report, err
	}
	list := make([]C.struct_checkmap_problem, total)
	got := count(func() int64 { return int64(C.checkmap_report_problems(out, 0, &list[0], C.size_t(total))) })
	for _, from := range list[:got] {
		report.Problems = append(report.Problems, Problem{C.GoString(from.structure), C.GoString(from.message),
			int64(from.offset), Severity(from.severity)})
	}
	return report, err
}

// namesInC copies names into C memory, which free frees. There is always an element to point to.
func namesInC(names []string) (pointers []*C.char, lengths []C.size_t, free func()) {
	pointers = make([]*C.char, len(names)+1)
	lengths = make([]C.size_t, len(names)+1)
	for at, name := range names {
		pointers[at] = (*C.char)(C.CBytes(append([]byte(name), 0)))
		lengths[at] = C.size_t(len(name))
	}
	return pointers, lengths, func() {
		for _, pointer := range pointers {
			C.free(unsafe.Pointer(pointer))
		}
	}
}
