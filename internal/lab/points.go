package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Kinds of coordination points in a lab.
const (
	arbiterKind  = "arbiter"
	lockDiskKind = "lock disk"
)

// pointsText is what people read of a plan's points.
func (p *plan) pointsText() string {
	var s string
	for _, c := range []struct {
		n    int
		what string
	}{{len(p.Arbiters), arbiterKind}, {len(p.LockDisks), lockDiskKind}} {
		switch {
		case c.n == 1:
			s += ", 1 " + c.what
		case c.n > 1:
			s += fmt.Sprintf(", %d %ss", c.n, c.what)
		}
	}
	return s
}

// points are the names of the coordination points, arbiters first.
func (p *plan) points() []string {
	var out []string
	for i := range p.Arbiters {
		out = append(out, p.Arbiters[i].Name)
	}
	for i := range p.LockDisks {
		out = append(out, p.LockDisks[i].Name)
	}
	return out
}

// preparePoints makes the arbiters' stores and formats the lock disks. No
// cluster knows of them yet.
func (r *record) preparePoints(ctx context.Context) error {
	for _, d := range r.Plan.LockDisks {
		if err := os.MkdirAll(filepath.Dir(d.Path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(d.Path, nil, 0o600); err != nil {
			return err
		}
		if err := os.Truncate(d.Path, lockDiskSize); err != nil {
			return err
		}
	}
	if len(r.Command) > 0 { // a lab that is a test of itself
		return nil
	}
	for i := range r.Plan.Arbiters {
		a := &r.Plan.Arbiters[i]
		if err := r.holdfast(ctx, "arbiter", "init", "--dir", a.StateDir(), "--listen", a.Arbiter.String()); err != nil {
			return err
		}
	}
	for _, d := range r.Plan.LockDisks {
		if err := r.holdfast(ctx, "lockdisk", "format", d.Path); err != nil {
			return err
		}
	}
	return nil
}

// lockDiskSize in bytes: a small partition.
const lockDiskSize = 16 << 20

// holdfast runs the lab's binary outside of the nodes.
func (r *record) holdfast(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, r.Binary, args...)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("holdfast %s: %w\n%s", strings.Join(args[:2], " "), err, strings.TrimSpace(string(said)))
	}
	return nil
}

// cli prepares a command of the lab's binary that talks to a node.
func (l *Lab) cli(ctx context.Context, node string, args ...string) (*exec.Cmd, error) {
	p, err := l.rec.Plan.node(node)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, l.rec.Binary, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, apiVariable+"=") })
	cmd.Env = append(cmd.Env, apiVariable+"="+apiAddress(p))
	return cmd, nil
}

// AddPoints gives the lab's coordination points to its cluster, all of whose
// nodes must run, and waits until they are in use. It does so once: what
// becomes of them later is the administrator's.
func (l *Lab) AddPoints(ctx context.Context) error {
	p := &l.rec.Plan
	if len(p.points()) == 0 || l.rec.PointsAdded || len(l.rec.Command) > 0 {
		return nil
	}
	node := p.Nodes[0].Name
	c, err := l.Client(node)
	if err != nil {
		return err
	}
	have, err := c.Quorum(ctx)
	if err != nil {
		return err
	}
	if len(have.GetPoints())+len(have.GetWanted()) == 0 {
		// A cluster that has just started may lose its leader once more: then it says so, and the command is repeated.
		for end := time.Now().Add(15 * time.Second); ; {
			said, err := l.addPoints(ctx, node)
			if err == nil {
				break
			}
			if !strings.Contains(said, "HF3001") || time.Now().After(end) || pause(ctx, 100*time.Millisecond) != nil {
				return fmt.Errorf("holdfast quorum add: %w\n%s", err, said)
			}
		}
	}
	if err := l.AwaitPoints(ctx); err != nil {
		return err
	}
	return l.change(func() error { l.rec.PointsAdded = true; return nil })
}

// addPoints runs the command, with fresh tokens, and returns what it said.
func (l *Lab) addPoints(ctx context.Context, node string) (said string, err error) {
	add, err := l.quorumAdd(ctx)
	if err != nil {
		return "", err
	}
	cmd, err := l.cli(ctx, node, add...)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// quorumAdd are the arguments of the command that adds all points.
func (l *Lab) quorumAdd(ctx context.Context) ([]string, error) {
	p := &l.rec.Plan
	var specs [][3]string // name, option if it is alone, prefix if there are several
	var values []string
	for i := range p.Arbiters {
		token, err := l.arbiterToken(ctx, &p.Arbiters[i])
		if err != nil {
			return nil, err
		}
		specs, values = append(specs, [3]string{p.Arbiters[i].Name, "--arbiter-token", "arbiter:"}), append(values, token)
	}
	for _, d := range p.LockDisks {
		specs, values = append(specs, [3]string{d.Name, "--lock-disk", "disk:"}), append(values, d.Path)
	}
	args := []string{"quorum", "add"}
	if len(specs) == 1 {
		return append(args, specs[0][0], specs[0][1], values[0]), nil
	}
	for i, s := range specs {
		args = append(args, "--point", s[0]+"="+s[2]+values[i])
	}
	return args, nil
}

// arbiterToken asks an arbiter, which may just be starting, for a token.
func (l *Lab) arbiterToken(ctx context.Context, a *nodePlan) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		cmd := exec.CommandContext(ctx, l.rec.Binary, "arbiter", "token", "--dir", a.StateDir())
		var complaint strings.Builder
		cmd.Stderr = &complaint
		out, err := cmd.Output()
		if err == nil {
			return strings.TrimSpace(string(out)), nil
		}
		if pause(ctx, statusPoll) != nil {
			return "", fmt.Errorf("holdfast arbiter token: %w\n%s\nsee %s", err, strings.TrimSpace(complaint.String()), a.LogFile())
		}
	}
}

// AwaitPoints waits until all of the lab's points are in use and reachable from every running node.
func (l *Lab) AwaitPoints(ctx context.Context) error {
	return l.awaitPoints(ctx, l.rec.Plan.points())
}

func (l *Lab) awaitPoints(ctx context.Context, names []string) error {
	for len(names) > 0 {
		var missing string
		for _, node := range l.Nodes() {
			if s, err := l.State(node); err != nil || s != Running || missing != "" {
				continue
			}
			c, err := l.Client(node)
			if err != nil {
				return err
			}
			q, err := c.Quorum(ctx)
			if err != nil {
				missing = err.Error()
			} else if missing = usable(q, names); missing != "" {
				missing = node + ": " + missing
			}
		}
		if missing == "" {
			return nil
		}
		if err := pause(ctx, statusPoll); err != nil {
			return fmt.Errorf("%s: %w", missing, err)
		}
	}
	return nil
}

// usable says what is missing until these points are in use and answer.
func usable(q *v1.ShowQuorumResponse, names []string) string {
	if q.GetChanging() {
		return "the change of the coordination points is under way"
	}
	for _, name := range names {
		i := slices.IndexFunc(q.GetPoints(), func(p *v1.PointInfo) bool { return p.GetPoint().GetName() == name })
		switch {
		case i < 0:
			return "coordination point " + name + " is not in use"
		case !q.GetPoints()[i].GetReachable():
			return fmt.Sprintf("coordination point %s can't be reached: %s", name, q.GetPoints()[i].GetError())
		}
	}
	if !q.GetVotes() && len(q.GetMembers())%2 == 0 {
		return "the coordination points have no vote yet"
	}
	return ""
}
