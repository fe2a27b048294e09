// Package eventcode is the table of all event codes: what each means and what
// to do about it. docs/events.md is written from it.
//
// Codes are stable: programs and notifiers select by them. A code is never
// given another meaning, and one that is no longer used is not used again.
//
//	E1  a code that is used anywhere in the source stands in the table, and the other way round
//	E2  a severity that stands beside a code in the source is one of the table's
package eventcode

import (
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

const (
	information = v1.Severity_SEVERITY_INFORMATION
	warning     = v1.Severity_SEVERITY_WARNING
	failure     = v1.Severity_SEVERITY_ERROR
	critical    = v1.Severity_SEVERITY_CRITICAL
)

// A Code is one kind of event.
type Code struct {
	// Code is "subject.what".
	Code string
	// Severities that it comes with, the usual one first.
	Severities []v1.Severity
	Meaning    string
	// Do says what helps; empty: nothing needs to be done.
	Do string
}

func one(s v1.Severity) []v1.Severity { return []v1.Severity{s} }

// Find a code in the table.
func Find(code string) (Code, bool) {
	for _, c := range Table {
		if c.Code == code {
			return c, true
		}
	}
	return Code{}, false
}

// Beginnings are what codes can be selected by: subjects with their dot, and all codes, sorted.
func Beginnings() (all []string) {
	for _, c := range Table {
		subject, _, _ := strings.Cut(c.Code, ".")
		all = append(all, subject+".", c.Code)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
