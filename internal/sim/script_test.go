package sim

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// TestScripts runs the stories of testdata/stories: prose, then what is done, then
// everything that the cluster did. Their world is calm: nothing but the lines
// of a script goes wrong. go test ./internal/sim -rewrite writes them anew.
//
//	cluster nodes=3 [links=2] [groups=1] [peerinact=1s] [points=1 [lockdisks=1]] [prefer=SITE]
//	                                                      a cluster that has started; the last half of the nodes is at site b, the others at a
//	do                                                    each line of input is one of the package comment, or "wait D"
//	where                                                 who is a member, who leads, where each group runs
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		var s *script
		defer useSeed(1)()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "cluster":
				s = newScript(t, d)
			case "do":
				s.do(t, d.Input)
			case "where":
				s.where()
			default:
				t.Fatalf("%s: no directive %s", d.Pos, d.Cmd)
			}
			return s.told()
		})
	})
}

type script struct {
	c     *cluster
	story bytes.Buffer
}

func newScript(t *testing.T, d *datadriven.TestData) *script {
	o := Options{Seed: 1, Nodes: 3, Links: 2, Groups: 1, Peerinact: time.Second, DiskSync: time.Millisecond, Calm: true}
	d.MaybeScanArgs(t, "nodes", &o.Nodes)
	d.MaybeScanArgs(t, "links", &o.Links)
	d.MaybeScanArgs(t, "groups", &o.Groups)
	d.MaybeScanArgs(t, "points", &o.Points)
	d.MaybeScanArgs(t, "lockdisks", &o.LockDisks)
	d.MaybeScanArgs(t, "prefer", &o.PreferredSite)
	var inact string
	if d.MaybeScanArgs(t, "peerinact", &inact); inact != "" {
		var err error
		if o.Peerinact, err = time.ParseDuration(inact); err != nil {
			t.Fatal(err)
		}
	}
	s := &script{c: newClusterOf(o, scriptConfiguration(o))}
	s.c.runUntil(3 * time.Second)
	s.where()
	s.c.verbose = &s.story
	return s
}

// scriptConfiguration has groups of two resources, b on top of a, which every
// node may run and n1 runs first.
func scriptConfiguration(o Options) *v1.Configuration {
	cfg := configuration(o, newRand(o.Seed, "script"))
	cfg.Groups = nil
	for i := range o.Groups {
		g := &v1.Group{Name: fmt.Sprintf("g%d", i+1)}
		for _, n := range cfg.GetNodes() {
			g.SystemList = append(g.SystemList, n.GetName())
		}
		g.AutoStartList = g.SystemList
		limits := &v1.Limits{RestartLimit: proto.Uint32(1), ConfInterval: durationpb.New(10 * time.Minute)}
		g.Resources = []*v1.Resource{
			{Name: g.Name + "-a", Type: "Sim", Limits: limits},
			{Name: g.Name + "-b", Type: "Sim", Limits: limits, Requires: []string{g.Name + "-a"}},
		}
		cfg.Groups = append(cfg.Groups, g)
	}
	return cfg
}

func (s *script) do(t *testing.T, input string) {
	for _, line := range strings.Split(strings.TrimSpace(input), "\n") {
		if d, ok := strings.CutPrefix(line, "wait "); ok {
			length, err := time.ParseDuration(d)
			if err != nil {
				t.Fatal(err)
			}
			s.c.runUntil(s.c.now + length)
			continue
		}
		s.c.tell("--", "%s", line)
		if err := s.c.do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
}

// where everything is.
func (s *script) where() {
	fmt.Fprintf(&s.story, "members: %s\n", s.c.check.views[s.c.check.newest.GetView().GetEpoch()])
	for _, n := range s.c.nodes {
		if n.engine != nil && n.engine.IsLeader() && n.paused[""] == 0 {
			fmt.Fprintf(&s.story, "leader: %s\n", n.name)
		}
	}
	for _, g := range s.c.config.GetGroups() {
		var on []string
		for _, n := range s.c.nodes {
			if n.up && n.host.alive(g.GetName()) {
				on = append(on, n.name)
			}
		}
		fmt.Fprintf(&s.story, "%s: %s\n", g.GetName(), strings.Join(on, " "))
	}
	if f := s.c.failed; f != nil {
		fmt.Fprintf(&s.story, "BROKEN: %v\n", f)
	}
}

var fraction = regexp.MustCompile(`^ *(\d+\.\d\d)\d+s`)

// told since the last time; times to the hundredth of a second.
func (s *script) told() string {
	var b strings.Builder
	for line := range strings.Lines(s.story.String()) {
		b.WriteString(fraction.ReplaceAllString(line, "$1"))
	}
	s.story.Reset()
	return b.String()
}
