package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// An event is one line of go test -json.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64
}

// A tally is what a run of go test came to.
type tally struct {
	passed, failed, skipped []string // "package: test"; a package without a test name: the package itself
}

// goTest runs go test with args, prints a line per package and all that failed
// tests said, and fails when a test failed or, as root, was skipped.
func goTest(ctx context.Context, args ...string) error {
	if last := args[len(args)-1]; strings.HasPrefix(last, "-") {
		return nil // no packages
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	t, readErr := read(pipe, os.Stdout)
	if err := cmd.Wait(); err != nil && len(t.failed) == 0 {
		return fmt.Errorf("go test: %w", err)
	}
	if readErr != nil {
		return readErr
	}
	return t.verdict(os.Geteuid() == 0)
}

func (t *tally) verdict(root bool) error {
	switch {
	case len(t.failed) > 0:
		return fmt.Errorf("%d failed:\n  %s", len(t.failed), strings.Join(t.failed, "\n  "))
	case len(t.skipped) > 0 && root:
		return fmt.Errorf("%d skipped, and as root all must run:\n  %s", len(t.skipped), strings.Join(t.skipped, "\n  "))
	case len(t.passed) == 0:
		return fmt.Errorf("no test ran")
	}
	return nil
}

// read follows go test -json and prints what a person wants to see of it.
func read(in io.Reader, out io.Writer) (tally, error) {
	var t tally
	said := map[string]*strings.Builder{} // by package and test, until it passes
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(out, lines.Text()) // not from the test itself: a tool's complaint
			continue
		}
		if e.Package == "" {
			e.Package, _, _ = strings.Cut(e.ImportPath, " ")
		}
		name := e.Package
		if e.Test != "" {
			name += ": " + e.Test
		}
		switch e.Action {
		case "output", "build-output":
			b := said[name]
			if b == nil {
				b = &strings.Builder{}
				said[name] = b
			}
			b.WriteString(e.Output)
		case "pass", "skip":
			delete(said, name)
			switch {
			case e.Test == "" && e.Action == "pass":
				fmt.Fprintf(out, "ok    %s %.1fs\n", e.Package, e.Elapsed)
			case e.Test != "" && e.Action == "pass":
				t.passed = append(t.passed, name)
			case e.Test != "":
				t.skipped = append(t.skipped, name)
			}
		case "fail", "build-fail":
			if b := said[name]; b != nil {
				fmt.Fprintf(out, "%s\n", strings.TrimRight(b.String(), "\n"))
				delete(said, name)
			}
			if e.Test == "" {
				fmt.Fprintf(out, "FAIL  %s %.1fs\n", e.Package, e.Elapsed)
			}
			t.failed = append(t.failed, name)
		}
	}
	return t, lines.Err()
}
