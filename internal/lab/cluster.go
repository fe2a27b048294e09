package lab

import (
	"context"
)

// Tuning changes the default cluster.
type Tuning struct{}

// apiVariable is where the CLI looks for the address of the API.
const apiVariable = "HOLDFAST_API"

// apiAddress of a node, as seen from outside of it.
func apiAddress(p *nodePlan) string { return "unix:" + p.APISocket() }

// A clusterSpec is the cluster that a lab runs.
type clusterSpec struct {
	number  int
	nodes   []nodeAddresses
	service string
}

func newClusterSpec(o Options, mode Mode, number int, dir string) (*clusterSpec, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	return &clusterSpec{number: number, nodes: defaultAddresses(mode, number, o.Nodes)}, nil
}

// prepare makes the nodes' state directories.
func (c *clusterSpec) prepare(ctx context.Context, rec *record) error { return nil }
