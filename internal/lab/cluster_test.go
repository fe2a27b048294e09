package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
)

// Whatever the tuning, the cluster that a lab makes has no fault.
func TestDefaultClusterIsValid(t *testing.T) {
	for _, mode := range []Mode{Namespaces, Loopback} {
		for _, tune := range []Tuning{{}, {PeerInact: 300 * time.Millisecond}, {RestartLimit: -1}, {Resources: IdleResources}, {OwnWeb: true},
			{Lives: true, Sites: []string{"east", "west", "west"}, PreferredSite: "west"}, {Fencing: true}} {
			c, err := newClusterSpec(Options{Name: "lab", Tune: tune, Binary: "/usr/bin/holdfast"}, mode, 0, "/tmp/holdfast-lab/lab")
			if err != nil {
				t.Fatal(err)
			}
			docs := config.Parse(config.File{Name: "cluster.yaml", Text: []byte(c.yaml)})
			if faults := docs.Check(nil, agents.Types(), false); len(faults) > 0 {
				t.Errorf("%s %+v: %v\n%s", mode, tune, faults, c.yaml)
			}
			// lab up -f with it gives the same nodes.
			back, err := nodesOf([]byte(c.yaml))
			if err != nil || len(back) != 3 || back[2].Name != "n3" || back[2].Links[1] != c.nodes[2].Links[1] {
				t.Errorf("read back: %v %+v", err, back)
			}
		}
	}
}

func TestNodesOf(t *testing.T) {
	good := "kind: Node\nname: a\nlinks:\n- {name: x, address: '[fd00::1]:7000'}\n- {name: y, address: 10.0.0.1}\n"
	nodes, err := nodesOf([]byte(good))
	if err != nil || nodes[0].Links[0].String() != "fd00::1" || nodes[0].Links[1].String() != "10.0.0.1" {
		t.Errorf("%v %+v", err, nodes)
	}
	for text, want := range map[string]string{
		"kind: Node\nname: a\nlinks:\n- {name: x, address: nowhere}\n": "node a, link x",
		"kind: Cluster\nname: a\n":                                     "no nodes",
		"}{":                                                           "cluster file",
		"":                                                             "no documents",
	} {
		if _, err := nodesOf([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, not %q", text, err, want)
		}
	}
}
