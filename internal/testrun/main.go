// Command testrun runs everything that a change must pass, in this order:
//
//	needs        as root: Debian packages that the tests use are there, or get installed
//	rules        internal/archtest: floors, pure cores, format, links
//	vet          go vet
//	staticcheck  the tool of this module
//	tests        all packages with the race detector
//	models       the protocol models of models/, all their states, and that broken variants are found out
//	alone        packages whose tests run real clusters and measure time: one at a time, nothing beside them
//	sim          fresh seeds of the simulator for a fixed time, on all cores
//
// Every step runs even after one has failed; the last lines say which did. A
// test that was skipped is a failure for root, who can run them all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"time"
)

// alone are packages that need the machine for themselves, with the reason.
var alone = map[string]string{
	"internal/lab": "its nodes are real processes with real timers; a compiler beside them looks like a slow machine",
}

// plain are packages that gain nothing from the race detector, which makes
// them several times slower.
var plain = map[string]string{
	"internal/sim":             "one goroutine by design (rule A2 of internal/archtest)",
	"internal/cluster/witness": "one goroutine by design, like the simulator",
	"internal/protogen":        "waits for compilers",
	"internal/archtest":        "reads files; ran as its own step",
}

type step struct {
	name string
	run  func(ctx context.Context) error
}

func main() {
	only := flag.String("only", "", "run these steps only (comma-separated)")
	simTime := flag.Duration("sim", 60*time.Second, "how long the simulator looks for a failing seed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	steps := []step{
		{"needs", needs},
		{"rules", func(ctx context.Context) error { return goTest(ctx, "-count=1", "./internal/archtest") }},
		{"vet", command("go", "vet", "./...")},
		{"staticcheck", command("go", "tool", "staticcheck", "./...")},
		{"tests", tests},
		{"models", models},
		{"alone", func(ctx context.Context) error {
			return goTest(ctx, append([]string{"-count=1", "-p=1", "-timeout=15m"}, existing(alone)...)...)
		}},
		{"sim", command("go", "run", "./internal/sim/simrun", "-for", simTime.String())},
	}
	if *only != "" {
		want := strings.Split(*only, ",")
		for _, name := range want {
			if !slices.ContainsFunc(steps, func(s step) bool { return s.name == name }) {
				fmt.Fprintf(os.Stderr, "testrun: no step %q; there are needs, rules, vet, staticcheck, tests, models, alone and sim\n", name)
				os.Exit(2)
			}
		}
		steps = slices.DeleteFunc(steps, func(s step) bool { return !slices.Contains(want, s.name) })
	}

	var summary []string
	failed := false
	for _, s := range steps {
		fmt.Printf("== %s\n", s.name)
		start := time.Now()
		err := s.run(ctx)
		took := time.Since(start).Round(100 * time.Millisecond)
		if err != nil {
			failed = true
			fmt.Printf("%v\n", err)
			summary = append(summary, fmt.Sprintf("FAIL %-12s %8s", s.name, took))
		} else {
			summary = append(summary, fmt.Sprintf("ok   %-12s %8s", s.name, took))
		}
		if ctx.Err() != nil {
			break
		}
	}
	fmt.Printf("\n%s\n", strings.Join(summary, "\n"))
	if failed {
		os.Exit(1)
	}
}

func command(name string, args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return cmd.Run()
	}
}

// tests runs all packages but those of alone: with the race detector where it
// can find something.
func tests(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "list", "./...").Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	var raced []string
	for _, name := range strings.Fields(string(out)) {
		dir := strings.TrimPrefix(name, "github.com/holdfast-ha/holdfast/")
		if alone[dir] == "" && plain[dir] == "" {
			raced = append(raced, "./"+dir)
		}
	}
	rest := slices.DeleteFunc(existing(plain), func(p string) bool { return p == "./internal/archtest" })
	return errors.Join(
		goTest(ctx, append([]string{"-race", "-timeout=10m"}, raced...)...),
		goTest(ctx, append([]string{"-timeout=10m"}, rest...)...),
	)
}

// existing package directories of a table, sorted.
func existing(table map[string]string) []string {
	var dirs []string
	for dir := range table {
		if _, err := os.Stat(dir); err == nil {
			dirs = append(dirs, "./"+dir)
		}
	}
	slices.Sort(dirs)
	return dirs
}
