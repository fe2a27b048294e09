package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// modelTime bounds the check of one variant of a model. On a quiet machine the
// longest takes a third of a minute.
const modelTime = 5 * time.Minute

// models checks every models/*.pml with Spin: the whole state space must be free
// of errors, and each variant that the file names after "breaks:" must show one,
// or the model would prove nothing.
func models(ctx context.Context) error {
	files, err := filepath.Glob("models/*.pml")
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("no models/*.pml: run this in the root of the repository")
	}
	var failed []error
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, variant := range append([]string{""}, variants(string(text))...) {
			start := time.Now()
			out, err := checkModel(ctx, file, variant)
			if err != nil {
				return fmt.Errorf("%s %s: %w", file, variant, err)
			}
			v, err := judge(out, variant != "")
			if err != nil {
				failed = append(failed, fmt.Errorf("%s %s: %w", file, variant, err))
				v = err.Error()
			}
			fmt.Printf("%-22s %-16s %s, %.1fs\n", file, variant, v, time.Since(start).Seconds())
		}
	}
	return errors.Join(failed...)
}

var breaksLine = regexp.MustCompile(`(?m)^ \* breaks: (.*)$`)

// variants of a model that must fail.
func variants(text string) []string {
	m := breaksLine.FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	return strings.Fields(m[1])
}

var statesLine = regexp.MustCompile(`(?m)^ *(\S+) states, stored`)

// judge what the checker printed. A search that was cut short proves nothing.
func judge(out string, wantError bool) (string, error) {
	states := statesLine.FindStringSubmatch(out)
	switch {
	case states == nil:
		return "", fmt.Errorf("the checker did not finish:\n%s", out)
	case wantError && strings.Contains(out, "assertion violated"):
		return "fails as it must", nil
	case wantError:
		return "", errors.New("holds although it is broken on purpose: the model checks nothing")
	case !strings.Contains(out, "errors: 0"):
		return "", fmt.Errorf("an error:\n%s", out)
	case strings.Contains(out, "Search not completed") || strings.Contains(out, "max search depth too small"):
		return "", fmt.Errorf("not all states were reached:\n%s", out)
	}
	return states[1] + " states, no error", nil
}

// checkModel generates, compiles and runs the checker of one variant.
func checkModel(ctx context.Context, file, variant string) (string, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "model")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, modelTime)
	defer cancel()
	spin := []string{"spin", "-a", file}
	if variant != "" {
		spin = []string{"spin", "-D" + variant, "-a", file}
	}
	var out bytes.Buffer
	for _, args := range [][]string{spin, {"gcc", "-w", "-O2", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2048", "-o", "pan", "pan.c"}, {"./pan", "-m1000000", "-w22"}} {
		out.Reset()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out.String())
		}
	}
	return out.String(), nil
}
