package planner

import (
	"fmt"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// bigCluster has 64 nodes and 1,000 groups of 20 resources, online, each with
// a system list of so many nodes. Then a node is lost and proven to have stopped.
func bigCluster(tb testing.TB, listed int) *statepb.State {
	cfg := &v1.Configuration{Cluster: &v1.Cluster{Name: "big"}, Types: []*v1.ResourceType{
		{Name: "any", Operations: v1.Operations_OPERATIONS_ON_OFF}, {Name: "nic", Operations: v1.Operations_OPERATIONS_NONE},
	}}
	for i := range 64 {
		cfg.Nodes = append(cfg.Nodes, &v1.Node{Name: fmt.Sprintf("n%02d", i)})
	}
	for i := range 1000 {
		g := &v1.Group{Name: fmt.Sprintf("g%03d", i)}
		for j := range listed {
			g.SystemList = append(g.SystemList, cfg.Nodes[(i+j)%64].Name)
		}
		g.AutoStartList = g.SystemList
		for j := range 20 {
			r := &v1.Resource{Name: fmt.Sprintf("r%02d", j), Type: "any"}
			if j == 0 {
				r.Type = "nic"
			} else {
				r.Requires = []string{fmt.Sprintf("r%02d", j-1)}
			}
			g.Resources = append(g.Resources, r)
		}
		cfg.Groups = append(cfg.Groups, g)
	}
	s, err := state.Initial(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	settle(s, Env{Seeded: true})
	m := simulation{s: s}
	if why := m.fail([]string{"n07"}); why != "" {
		tb.Fatal(why)
	}
	return s
}

// BenchmarkPlanNodeFailure: the plan of a big cluster after one of its nodes
// was lost. The budget is 100 ms.
func BenchmarkPlanNodeFailure(b *testing.B) {
	for _, listed := range []int{4, 64} {
		b.Run(fmt.Sprintf("list=%d", listed), func(b *testing.B) {
			s := bigCluster(b, listed)
			b.ReportAllocs()
			for b.Loop() {
				if p, _ := Plan(s, Env{Seeded: true}); len(p.GetOrders()) == 0 {
					b.Fatal("nothing was ordered")
				}
			}
		})
	}
}
