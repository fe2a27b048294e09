package main

import (
	"slices"
	"testing"
)

func TestJudge(t *testing.T) {
	const good = "State-vector 40 byte, depth reached 123, errors: 0\n   434123 states, stored\n"
	const bad = "pan:1: assertion violated x==0 (at depth 5)\nWarning: Search not completed\nState-vector 40 byte, depth reached 123, errors: 1\n   434 states, stored\n"
	for _, c := range []struct {
		out        string
		wantError  bool
		acceptable bool
	}{
		{good, false, true},
		{good, true, false},
		{bad, true, true},
		{bad, false, false},
		{good + "error: max search depth too small\n", false, false},
		{"Warning: Search not completed\n" + good, false, false},
		{"killed", false, false},
		{"killed", true, false},
	} {
		if _, err := judge(c.out, c.wantError); (err == nil) != c.acceptable {
			t.Errorf("%q, wanted an error %v: %v", c.out, c.wantError, err)
		}
	}
	if got := variants("/*\n * breaks: A B\n */"); !slices.Equal(got, []string{"A", "B"}) {
		t.Errorf("variants %q", got)
	}
}
