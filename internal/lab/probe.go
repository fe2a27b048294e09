package lab

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Probe is one independent attempt to use the service: a new TCP connection
// and one GET. Times are CLOCK_MONOTONIC.
type Probe struct {
	Begin, End time.Duration
	// Who answered; empty: the probe failed.
	Node string
}

// Good says whether the service answered.
func (p Probe) Good() bool { return p.Node != "" }

// The prober's defaults.
const (
	probeEvery   = 5 * time.Millisecond
	probeTimeout = 250 * time.Millisecond
)

// probeOnce asks http://addr/ and returns the last word of the answer, which
// is the name of the node; empty on any failure.
func probeOnce(addr string, timeout time.Duration) string {
	deadline := time.Now().Add(timeout)
	c, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return ""
	}
	defer c.Close()
	if err := c.SetDeadline(deadline); err != nil {
		return ""
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\nHost: lab\r\n\r\n"); err != nil {
		return ""
	}
	b, err := io.ReadAll(io.LimitReader(c, 64<<10))
	if err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.")) || !bytes.Contains(b[:min(16, len(b))], []byte(" 200")) {
		return ""
	}
	f := strings.Fields(string(b))
	return f[len(f)-1]
}

// runProber is the prober's process: it starts a probe every interval,
// whatever became of the earlier ones, so that a hung connection hides no
// recovery, and writes a line "begin end node|-" for each, in nanoseconds. It
// ends when its standard input does.
func runProber(addr string, every, timeout time.Duration, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	var mu sync.Mutex // guards w
	w := bufio.NewWriter(out)
	var probes sync.WaitGroup
	flush := time.NewTicker(20 * time.Millisecond)
	defer flush.Stop()
	go func() {
		for range flush.C {
			mu.Lock()
			w.Flush()
			mu.Unlock()
		}
	}()
	next := time.NewTimer(0)
	due := time.Now()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-next.C:
		}
		// Late ones are made up for: the number of probes is the measure of time.
		for ; !due.After(time.Now()); due = due.Add(every) {
			probes.Go(func() { probeAndTell(&mu, w, addr, timeout) })
		}
		next.Reset(time.Until(due))
	}
	probes.Wait()
	mu.Lock()
	defer mu.Unlock()
	return w.Flush()
}

func probeAndTell(mu *sync.Mutex, w io.Writer, addr string, timeout time.Duration) {
	begin := monotonic()
	node := probeOnce(addr, timeout)
	end := monotonic()
	mu.Lock()
	defer mu.Unlock()
	fmt.Fprintln(w, int64(begin), int64(end), cmp.Or(node, "-"))
}

// parseProbe reads one line of the prober.
func parseProbe(line string) (Probe, error) {
	f := strings.Fields(line)
	if len(f) != 3 {
		return Probe{}, fmt.Errorf("malformed line of the prober: %q", line)
	}
	begin, err1 := strconv.ParseInt(f[0], 10, 64)
	end, err2 := strconv.ParseInt(f[1], 10, 64)
	if err := errors.Join(err1, err2); err != nil || end < begin {
		return Probe{}, fmt.Errorf("malformed line of the prober: %q", line)
	}
	p := Probe{Begin: time.Duration(begin), End: time.Duration(end), Node: f[2]}
	if p.Node == "-" {
		p.Node = ""
	}
	return p, nil
}

// A Prober watches the service from outside the nodes.
type Prober struct {
	cmd   *exec.Cmd
	stdin io.Closer
	read  chan struct{} // closed when the prober has ended and all is read

	mu      sync.Mutex
	probes  []Probe // in the order of their ends
	changed chan struct{}
	broken  error
}

// StartProber starts a prober of addr in the lab's probe namespace.
func (l *Lab) StartProber(addr string) (*Prober, error) {
	return l.startProber(addr, probeEvery, probeTimeout)
}

func (l *Lab) startProber(addr string, every, timeout time.Duration) (*Prober, error) {
	cmd := &exec.Cmd{Path: l.rec.Binary, Args: []string{"holdfast", "lab", probeCommand, addr, every.String(), timeout.String()}, Stderr: os.Stderr}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	start := cmd.Start
	if name := l.rec.Plan.ProbeNetns; name != "" {
		start = func() error { return startInNetns(name, cmd.Start) }
	}
	if err := start(); err != nil {
		return nil, fmt.Errorf("start the prober: %w", err)
	}
	p := &Prober{cmd: cmd, stdin: stdin, read: make(chan struct{}), changed: make(chan struct{})}
	go p.collect(stdout)
	return p, nil
}

func (p *Prober) collect(r io.Reader) {
	defer close(p.read)
	s := bufio.NewScanner(r)
	for s.Scan() {
		probe, err := parseProbe(s.Text())
		p.mu.Lock()
		if err != nil {
			p.broken = err
		} else {
			p.probes = append(p.probes, probe)
		}
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

// Close ends the prober.
func (p *Prober) Close() error {
	p.stdin.Close()
	<-p.read
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("prober: %w", err)
	}
	return p.broken
}

// Since returns the probes that began at or after a time, in the order in which they ended.
func (p *Prober) Since(from time.Duration) []Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Probe
	for _, probe := range p.probes {
		if probe.Begin >= from {
			out = append(out, probe)
		}
	}
	return out
}

// Take returns all probes that have ended, and forgets them.
func (p *Prober) Take() []Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.probes
	p.probes = nil
	return out
}

// Await waits until ok is true of the probes that began at or after a time.
func (p *Prober) Await(ctx context.Context, from time.Duration, ok func([]Probe) bool) ([]Probe, error) {
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if probes := p.Since(from); ok(probes) {
			return probes, nil
		}
		select {
		case <-changed:
		case <-p.read:
			return nil, errors.New("the prober has ended")
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// AwaitSteady waits for n good answers in a row, from one node, of probes that
// begin from now on, and returns that node.
func (p *Prober) AwaitSteady(ctx context.Context, n int) (string, error) {
	probes, err := p.Await(ctx, monotonic(), func(probes []Probe) bool { return steady(probes, n) })
	if err != nil {
		return "", fmt.Errorf("the service does not answer: %w", err)
	}
	return probes[len(probes)-1].Node, nil
}

func steady(probes []Probe, n int) bool {
	if len(probes) < n {
		return false
	}
	last := probes[len(probes)-n:]
	for _, p := range last {
		if !p.Good() || p.Node != last[0].Node {
			return false
		}
	}
	return true
}
