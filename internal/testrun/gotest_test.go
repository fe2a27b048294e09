package main

import (
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	const run = `{"Action":"start","Package":"a"}
{"Action":"output","Package":"a","Test":"TestGood","Output":"quiet\n"}
{"Action":"pass","Package":"a","Test":"TestGood","Elapsed":0.1}
{"Action":"skip","Package":"a","Test":"TestShy"}
{"Action":"pass","Package":"a","Elapsed":0.2}
{"Action":"skip","Package":"empty"}
{"ImportPath":"c [c.test]","Action":"build-output","Output":"c.go:1: broken\n"}
{"ImportPath":"c [c.test]","Action":"build-fail"}
`
	var out strings.Builder
	got, err := read(strings.NewReader(run), &out)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.passed) != 1 || len(got.skipped) != 1 || len(got.failed) != 1 {
		t.Errorf("tally is %+v", got)
	}
	if s := out.String(); !strings.Contains(s, "c.go:1: broken") || strings.Contains(s, "quiet") {
		t.Errorf("printed:\n%s", s)
	}
	if got.verdict(true) == nil {
		t.Error("a failure was forgiven")
	}
	got.failed = nil
	if err := got.verdict(true); err == nil || !strings.Contains(err.Error(), "a: TestShy") {
		t.Errorf("root's skipped test: %v", err)
	}
	if err := got.verdict(false); err != nil {
		t.Errorf("a skipped test without root: %v", err)
	}
	if (&tally{}).verdict(false) == nil {
		t.Error("a run without tests passed")
	}
}
