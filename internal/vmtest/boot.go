//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

const (
	qemu = "qemu-system-x86_64"
	// bootLimit for one machine, from power-on to the end.
	bootLimit = 4 * time.Minute
)

// Lines of the console that vminit and tests write.
const (
	lineExit     = "vmtest: exit "
	lineReset    = "vmtest: the machine is to be reset within "
	lineSurvived = "vmtest: the machine was not reset"
)

// test boots the machine and judges its console.
func (m *machine) test(ctx context.Context, k *kernelFiles, work string, verbose bool) error {
	image, err := m.image(ctx, k, work)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bootLimit, fmt.Errorf("the machine has not ended within %v", bootLimit))
	defer cancel()
	args := append([]string{
		"-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-nic", "none",
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", k.image, "-initrd", image, "-append", "console=ttyS0 panic=-1 loglevel=5 rdinit=/init",
	}, m.qemu...)
	cmd := exec.CommandContext(ctx, qemu, args...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	var c console
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		if verbose {
			fmt.Println(m.name+":", line)
		}
		c.line(line, time.Now())
	}
	err = cause(ctx, cmd.Wait())
	if verr := c.verdict(m, time.Now()); err != nil || verr != nil {
		return fmt.Errorf("%w\n%s", errors.Join(err, verr), strings.Join(c.last, "\n"))
	}
	fmt.Print(c.passed)
	return nil
}

// console is what a machine has said.
type console struct {
	exit     string // status of the test binary, empty: it has not ended
	resetDue time.Time
	within   time.Duration
	panicked string
	survived bool
	passed   string
	last     []string
	all      strings.Builder
}

var testLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): .*`)

func (c *console) line(line string, now time.Time) {
	if c.last = append(c.last, line); len(c.last) > 120 {
		c.last = c.last[1:]
	}
	c.all.WriteString(line + "\n")
	if rest, ok := strings.CutPrefix(line, lineExit); ok {
		c.exit = rest
	}
	if rest, ok := strings.CutPrefix(line, lineReset); ok {
		c.within, _ = time.ParseDuration(rest)
		c.resetDue = now.Add(c.within)
	}
	if strings.HasPrefix(line, lineSurvived) {
		c.survived = true
	}
	if strings.Contains(line, "Kernel panic") {
		c.panicked = line
	}
	if testLine.MatchString(line) {
		c.passed += "     " + line + "\n"
	}
}

// resetSlack is for a machine that is emulated on a busy one, both before and after its time.
const resetSlack = 30 * time.Second

func (c *console) verdict(m *machine, now time.Time) error {
	text := c.all.String()
	switch {
	case c.panicked != "":
		return errors.New(c.panicked)
	case strings.Contains(c.passed, "--- SKIP"):
		return errors.New("a test was skipped")
	case c.survived:
		return errors.New(lineSurvived)
	case m.console != "" && !strings.Contains(text, m.console):
		return fmt.Errorf("the console does not show %q", m.console)
	case m.reset && c.exit != "":
		return fmt.Errorf("the test has ended with status %s, where the machine should have been reset", c.exit)
	case m.reset && c.resetDue.IsZero():
		return errors.New("the machine was reset before it was due, or never started")
	case m.reset && now.After(c.resetDue.Add(resetSlack)):
		return fmt.Errorf("it was reset %v late", now.Sub(c.resetDue).Round(time.Second))
	case m.reset:
		c.passed += fmt.Sprintf("     reset %v after it was left alone (due within %v)\n", now.Sub(c.resetDue.Add(-c.within)).Round(100*time.Millisecond), c.within)
		return nil
	case c.exit != "0":
		return fmt.Errorf("the tests ended with status %q", c.exit)
	case !strings.Contains(c.passed, "--- PASS"):
		return errors.New("no test has run")
	}
	return nil
}
