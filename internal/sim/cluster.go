package sim

import (
	"fmt"
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// A cluster is nodes with the real cores in a World.
type cluster struct {
	*World
	o      Options
	nodes  []*node
	byName map[string]*node
	// Coordination points.
	points []*point
	config *v1.Configuration // as it was at the start
	check  *checker
	failed *Failure

	undos       int
	pendingUndo map[int]func()
	heals       int // raised when everything is healed: older undos of the network are void

	asked  map[uint64]asked // by token
	tokens uint64
	// raftLines takes raft's own lines, nil: nobody wants them.
	raftLines io.Writer
	told      uint64 // the newest event of the cluster's own log that the trace has
}

// asked is what an administrator waits for.
type asked struct {
	node    *node
	command *pb.Command
}

// A Failure is a broken rule.
type Failure struct {
	Rule    string // N1 …, L1 …
	At      time.Duration
	Message string
}

func (f *Failure) Error() string { return fmt.Sprintf("%s %s: %s", seconds(f.At), f.Rule, f.Message) }

// fail ends the run; the first failure counts.
func (c *cluster) fail(rule, format string, args ...any) {
	if c.failed != nil {
		return
	}
	c.failed = &Failure{Rule: rule, At: c.now, Message: fmt.Sprintf(format, args...)}
	c.tell("!!", "%s: %s", rule, c.failed.Message)
}

func newCluster(o Options) *cluster {
	cfg := configuration(o, newRand(o.Seed, "configuration"))
	power(o, cfg)
	return newClusterOf(o, cfg)
}

// prefer a side of splits, as the options say.
func prefer(o Options, cfg *v1.Configuration) {
	r := newRand(o.Seed, "weights")
	cfg.Cluster.PreferredFencing, cfg.Cluster.PreferredSite = o.Preferred, o.PreferredSite
	if o.PreferredSite != "" {
		cfg.Cluster.PreferredFencing = v1.PreferredFencing_PREFERRED_FENCING_SITE
	}
	for i, n := range cfg.GetNodes() {
		n.Site, n.Weight = "a", proto.Uint32(uint32(r.IntN(3)))
		if i >= len(cfg.GetNodes())/2 {
			n.Site = "b"
		}
	}
}

// newClusterOf a configuration, in a calm world if the options say so.
func newClusterOf(o Options, config *v1.Configuration) *cluster {
	c := &cluster{World: newWorld(o.Seed), o: o, byName: map[string]*node{}, pendingUndo: map[int]func(){}, asked: map[uint64]asked{}}
	c.recv = c
	prefer(o, config)
	c.config, c.calm = config, o.Calm
	c.check = newChecker(c)
	c.net = newNetwork(c.World, o.Nodes, o.Links)
	initial, err := state.Initial(c.config)
	if err != nil {
		panic(err)
	}
	c.addPoints(initial)
	snap := bootstrap(initial)
	for i, nc := range c.config.GetNodes() {
		n := newNode(c, i, nc.GetName())
		n.store.put(&engine.Batch{Batch: snap})
		c.nodes = append(c.nodes, n)
		c.byName[n.name] = n
	}
	for _, n := range c.nodes {
		c.after(c.upTo(500*time.Millisecond), func() { _ = n.boot() })
	}
	for a := range c.nodes {
		for b := a + 1; b < len(c.nodes); b++ {
			c.net.dialer(a, b)
		}
	}
	return c
}

// configuration of a run: groups with chains of resources, each with its own
// system list and limits.
func configuration(o Options, r interface {
	IntN(int) int
	Perm(int) []int
}) *v1.Configuration {
	cfg := &v1.Configuration{
		Cluster: &v1.Cluster{Name: "sim", Uuid: "00112233445566778899aabbccddeeff", Timers: &v1.Timers{Peerinact: durationpb.New(o.Peerinact)}},
		Types: []*v1.ResourceType{
			{Name: "Sim", Operations: v1.Operations_OPERATIONS_ON_OFF},
			{Name: "SimNIC", Operations: v1.Operations_OPERATIONS_NONE},
		},
	}
	var names []string
	for i := range o.Nodes {
		n := &v1.Node{Name: fmt.Sprintf("n%d", i+1)}
		for l := range o.Links {
			n.Links = append(n.Links, &v1.Link{Name: fmt.Sprintf("link%d", l), Address: address(i, l)})
		}
		cfg.Nodes = append(cfg.Nodes, n)
		names = append(names, n.Name)
	}
	for i := range o.Groups {
		g := &v1.Group{Name: fmt.Sprintf("g%d", i+1)}
		for _, k := range r.Perm(len(names))[:max(1, min(len(names), 2+r.IntN(len(names))))] {
			g.SystemList = append(g.SystemList, names[k])
		}
		g.AutoStartList = g.SystemList[:1+r.IntN(len(g.SystemList))]
		limits := &v1.Limits{
			MonitorInterval:        durationpb.New(time.Duration(1+r.IntN(5)) * time.Second),
			OfflineMonitorInterval: durationpb.New(time.Duration(r.IntN(3)*5) * time.Second),
			OnlineTimeout:          durationpb.New(time.Duration(1+r.IntN(5)) * time.Second),
			OfflineTimeout:         durationpb.New(time.Duration(1+r.IntN(5)) * time.Second),
			MonitorTimeout:         durationpb.New(time.Duration(1+r.IntN(3)) * time.Second),
			CleanTimeout:           durationpb.New(time.Duration(1+r.IntN(3)) * time.Second),
			RestartLimit:           proto.Uint32(uint32(r.IntN(3))),
			ToleranceLimit:         proto.Uint32(uint32(r.IntN(2))),
			OnlineRetryLimit:       proto.Uint32(uint32(r.IntN(2))),
		}
		var before string
		for k := range 1 + r.IntN(3) {
			res := &v1.Resource{Name: fmt.Sprintf("%s-%c", g.Name, 'a'+k), Type: "Sim", Limits: limits}
			if before != "" && r.IntN(4) > 0 {
				res.Requires = []string{before}
			}
			before = res.Name
			g.Resources = append(g.Resources, res)
		}
		if r.IntN(3) == 0 {
			nic := &v1.Resource{Name: "nic-" + g.Name, Type: "SimNIC", Limits: limits}
			g.Resources[0].Requires = []string{nic.Name}
			g.Resources = append(g.Resources, nic)
		}
		cfg.Groups = append(cfg.Groups, g)
	}
	return cfg
}

func address(node, link int) string { return fmt.Sprintf("10.0.%d.%d:7946", link, node+1) }

// bootstrap is what cluster init puts on every disk.
func bootstrap(s *pb.State) consensus.Batch {
	var voters []uint64
	for _, m := range s.GetView().GetMembers() {
		voters = append(voters, m.GetRaftId())
	}
	if id := state.WitnessID(s); id != 0 {
		voters = append(voters, id)
	}
	return consensus.Batch{
		HardState: &raftpb.HardState{Term: proto.Uint64(1), Commit: proto.Uint64(1)},
		Snapshot: &raftpb.Snapshot{Data: state.Marshal(s), Metadata: &raftpb.SnapshotMetadata{
			Index: proto.Uint64(1), Term: proto.Uint64(1), ConfState: &raftpb.ConfState{Voters: voters},
		}},
		Install: true,
	}
}

// peerinact that a node goes by.
func (n *node) peerinact() time.Duration {
	if n.engine != nil && n.engine.State() != nil {
		return state.Peerinact(n.engine.State())
	}
	return n.c.o.Peerinact
}

// longestPeerinact over all nodes: what bounds anything.
func (c *cluster) longestPeerinact() time.Duration {
	d := c.o.Peerinact
	for _, n := range c.nodes {
		if n.engine != nil {
			d = max(d, n.engine.State().GetLongestPeerinact().AsDuration(), n.peerinact())
		}
	}
	return d
}

// ask hands a command to some node whose engine runs.
func (c *cluster) ask(cmd *pb.Command) error {
	var able []*node
	for _, n := range c.nodes {
		if n.engine != nil && n.proc.alive && n.engine.State() != nil {
			able = append(able, n)
		}
	}
	if len(able) == 0 {
		return fmt.Errorf("no engine runs")
	}
	n := able[c.luck.IntN(len(able))]
	cmd.Format = state.Format
	c.tokens++
	token := c.tokens
	c.asked[token] = asked{n, proto.CloneOf(cmd)}
	n.proc.do(false, func() { n.step(engine.Propose{Token: token, Command: cmd}) })
	return nil
}

// answered by the engine that was asked.
func (c *cluster) answered(n *node, r engine.Result) {
	a, ok := c.asked[r.Token]
	if !ok {
		return
	}
	delete(c.asked, r.Token)
	if r.Err != nil {
		c.count("admin.refused")
		return
	}
	c.count("admin.applied")
	c.check.acknowledged(n, a.command, r)
}

func (c *cluster) silence(name, length string) error {
	n := c.byName[name]
	d, err := time.ParseDuration(length)
	if n == nil || err != nil {
		return fmt.Errorf("silence N D")
	}
	if n.engine == nil || !n.proc.alive {
		return fmt.Errorf("no engine runs on %s", name)
	}
	n.proc.do(false, func() { n.step(engine.Silence{Length: d}) })
	return nil
}

// set changes the timers of the cluster.
func (c *cluster) set(arg string) error {
	var d time.Duration
	if _, err := fmt.Sscanf(arg, "peerinact=%s", new(string)); err != nil {
		return fmt.Errorf("set peerinact=D")
	}
	d, err := time.ParseDuration(arg[len("peerinact="):])
	if err != nil {
		return err
	}
	for _, n := range c.nodes {
		if n.engine != nil && n.proc.alive && n.engine.State() != nil {
			cfg := state.Configuration(n.engine.State())
			cfg.Cluster.Timers = &v1.Timers{Peerinact: durationpb.New(max(timers.MinPeerinact, d))}
			return c.ask(&pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: cfg.GetRevision(), Configuration: cfg}}})
		}
	}
	return fmt.Errorf("no engine runs")
}

func (c *cluster) note(text string) error {
	c.tokens++
	text = fmt.Sprintf("%s (%d)", text, c.tokens)
	return c.ask(&pb.Command{Change: &pb.Command_Note{Note: &pb.Note{Events: []*v1.Event{{Code: "sim.note", Message: text}}}}})
}

// heal everything: the end of the first phase.
func (c *cluster) heal() {
	c.tell("--", "everything is healed")
	c.heals++
	c.net.whole()
	for _, id := range sortedKeys(c.pendingUndo) {
		c.undoNow(id)
	}
	for _, n := range c.nodes {
		n.disk.recover()
		n.disk.latency, n.disk.spread = c.o.DiskSync, c.o.DiskSync
		for _, r := range sortedKeys(n.host.procs) {
			n.host.procs[r].behaviour = behaviour{}
		}
	}
	for _, n := range c.nodes {
		_ = n.boot() // one that is up says so
	}
}

// The network's receiver.

func (c *cluster) processOf(node int) *process { return c.nodes[node].engineProcess() }
func (c *cluster) machinePaused(node int) bool { return c.nodes[node].paused[""] > 0 }
func (c *cluster) reachable(node int) bool {
	n := c.nodes[node]
	return n.up && n.engine != nil && n.proc.alive && n.paused[""] == 0
}
func (c *cluster) datagram(to, from, link int, payload any) {
	n := c.nodes[to]
	if n.guardProc == nil {
		return
	}
	n.guardProc.do(true, func() {
		if n.guard == nil {
			return
		}
		n.guard.Receive(n.local(), link, c.nodes[from].name, payload.(guard.Heartbeat))
		n.guardOut()
	})
}
func (c *cluster) streamUp(node, peer int) {
	c.nodes[node].step(engine.PeerConn{Node: c.nodes[peer].name, Up: true})
}
func (c *cluster) streamDown(node, peer int) {
	c.nodes[node].step(engine.PeerConn{Node: c.nodes[peer].name, Up: false})
}
func (c *cluster) message(to, from int, m any) {
	msg, err := decodePeer(m.([]byte))
	if err != nil {
		c.fail("N6", "%v", err)
		return
	}
	c.nodes[to].step(engine.FromPeer{Node: c.nodes[from].name, Message: msg})
}
func (c *cluster) droppedMessage(node, peer int, m any) {
	msg, err := decodePeer(m.([]byte))
	if err != nil {
		c.fail("N6", "%v", err)
		return
	}
	c.nodes[node].step(engine.PeerDropped{Node: c.nodes[peer].name, Message: msg})
}
