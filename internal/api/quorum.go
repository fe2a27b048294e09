package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

const (
	// prepareFor is how long a point may take to make a place for the cluster.
	prepareFor = 10 * time.Second
	// tryFor is how long a node may take to open a point and look at it.
	tryFor = 8 * time.Second
	// nonceSize of what proves that a disk is the same on all nodes.
	nonceSize = 16
)

type quorumServer struct{ *server }

func (s *quorumServer) Show(ctx context.Context, _ *connect.Request[v1.ShowQuorumRequest]) (*connect.Response[v1.ShowQuorumResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	w := l.GetWitness()
	resp := &v1.ShowQuorumResponse{
		Source: l.source(), Votes: state.WitnessID(l.State) != 0, Register: w.GetRaftId(), Changing: w.GetWanted() != nil, Wanted: w.GetWanted().GetPoints(),
		Voters: uint32(state.Voters(l.State)), Majority: uint32(state.Majority(state.Voters(l.State))), Survives: Survives(l.State, l.reachable(), l.liveMembers()),
		PreferredFencing: rule(l.GetCluster()), PreferredFencingMeans: preferredWords(l.State), Conditions: l.quorumConditions(),
	}
	for _, m := range l.GetView().GetMembers() {
		resp.Members = append(resp.Members, m.GetNode())
	}
	for _, p := range w.GetPoints() {
		info := &v1.PointInfo{Point: p, Where: where(p, l.local.Node)}
		if st := l.pointStatus(p.GetName()); st != nil && st.Known {
			info.Reachable, info.Since, info.Error, info.Abstains, info.NotSeen = st.Reachable, durationpb.New(st.For), st.Error, st.Abstains, st.NotSeen
			if st.RoundTrip > 0 {
				info.RoundTrip = durationpb.New(st.RoundTrip)
			}
		}
		resp.Points = append(resp.Points, info)
	}
	for _, n := range l.nodeInfos() {
		if up, all := upLinks(n); !n.GetSelf() && n.GetPhase() == v1.NodePhase_NODE_PHASE_RUNNING && up == 1 && all > 1 {
			resp.Jeopardy = append(resp.Jeopardy, fmt.Sprintf("%s is reachable over its last link only: when that fails, the node is lost", n.GetName()))
		}
	}
	return connect.NewResponse(resp), nil
}

// Change is made of steps that can all be repeated: only the command at its
// end changes anything, and it is refused when somebody else was faster.
func (s *quorumServer) Change(ctx context.Context, req *connect.Request[v1.ChangeQuorumRequest]) (*connect.Response[v1.ChangeQuorumResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	c := &pointChange{look: l, req: req.Msg}
	if err := c.check(); err != nil {
		return nil, err
	}
	w := l.GetWitness()
	resp := &v1.ChangeQuorumResponse{BaseRegister: w.GetRaftId()}
	switch {
	case w.GetWanted() != nil && c.done(w.GetWanted().GetPoints()):
		resp.Points = w.GetWanted().GetPoints()
		return connect.NewResponse(resp), nil
	case w.GetWanted() != nil:
		return nil, fail(CodeConflict, "follow it with: holdfast quorum show", "the coordination points are being changed to %s; wait until that is done", pointNames(w.GetWanted().GetPoints()))
	case c.done(w.GetPoints()) && !c.abstaining():
		resp.Points, resp.Unchanged = w.GetPoints(), true
		return connect.NewResponse(resp), nil
	}
	if err := c.checkResult(); err != nil {
		return nil, err
	}
	if !l.local.Lease.Held {
		return nil, noQuorum(l.local)
	}
	added, faults := s.prepare(ctx, c)
	if len(faults) == 0 {
		resp.NotAsked, faults = s.try(ctx, c, added)
	}
	if len(faults) > 0 {
		return nil, failWith(&v1.ErrorDetail{Code: CodePoint, Faults: faults, NextStep: "mend that, and repeat the command"},
			fmt.Sprintf("%s; the coordination points stay as they are", count(len(faults), "reason")+" against it"))
	}
	resp.Points = append(c.kept(), added...)
	err = s.submit(ctx, &statepb.Command{Change: &statepb.Command_WantPoints{WantPoints: &statepb.WantPoints{BaseRaftId: w.GetRaftId(), Points: resp.Points}}})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// pointChange is a request to change the points.
type pointChange struct {
	*look
	req    *v1.ChangeQuorumRequest
	tokens map[string]arbiter.Token // by name of the point
}

// check the request by itself; all that is wrong is told at once.
func (c *pointChange) check() error {
	var faults []*v1.Fault
	bad := func(name, field, problem, fix string) {
		p := protoyaml.Object("point", name)
		if field != "" {
			p = p.Field(field)
		}
		faults = append(faults, &v1.Fault{Path: p.String(), Problem: problem, Fix: fix})
	}
	if len(c.req.GetAdd())+len(c.req.GetRemove()) == 0 {
		return fail(CodeBadRequest, "", "name the coordination points to add or to remove")
	}
	have := map[string]bool{}
	for _, p := range slices.Concat(c.GetWitness().GetPoints(), c.GetWitness().GetWanted().GetPoints()) {
		have[p.GetName()] = true
	}
	adds := map[string]bool{}
	c.tokens = map[string]arbiter.Token{}
	for _, spec := range c.req.GetAdd() {
		name := spec.GetName()
		if !isName(name) {
			bad(name, "name", fmt.Sprintf("%q is no name", name), "use letters, digits, '-', '_' and '.', beginning with a letter or digit, at most 63 of them")
		}
		if adds[name] {
			bad(name, "", "is named twice", "give each point a name of its own")
		}
		adds[name] = true
		switch k := spec.GetKind().(type) {
		case *v1.PointSpec_ArbiterToken:
			t, err := arbiter.ParseToken(k.ArbiterToken)
			if err != nil {
				bad(name, "token", err.Error(), "")
			}
			c.tokens[name] = t
		case *v1.PointSpec_LockDisk:
			c.checkPaths(k.LockDisk, func(problem, fix string) { bad(name, "lock disk", problem, fix) })
		default:
			bad(name, "", "is neither an arbiter nor a lock disk", "give a token of an arbiter, or the path of a formatted lock disk")
		}
	}
	if len(faults) == 0 {
		// One that is gone already is no fault where something takes its place: the command may be repeated.
		for _, name := range c.req.GetRemove() {
			if !have[name] && len(adds) == 0 {
				return fail(CodeNotFound, protoyaml.DidYouMean(name, slices.Collect(maps.Keys(have)), "coordination points"), "there is no coordination point %s", name)
			}
		}
		return nil
	}
	return failWith(&v1.ErrorDetail{Code: CodeBadRequest, Faults: faults}, fmt.Sprintf("%s; nothing was changed", count(len(faults), "fault")))
}

func (c *pointChange) checkPaths(d *v1.LockDiskSpec, bad func(problem, fix string)) {
	paths := map[string]string{"": d.GetPath()}
	maps.Copy(paths, d.GetPaths())
	for _, node := range slices.Sorted(maps.Keys(paths)) {
		where := "the path"
		if node != "" {
			where = "the path on " + node
			if c.GetNodes()[node] == nil {
				bad(fmt.Sprintf("there is no node %q", node), protoyaml.DidYouMean(node, slices.Collect(maps.Keys(c.GetNodes())), "nodes"))
			}
		}
		if p := paths[node]; !filepath.IsAbs(p) {
			bad(fmt.Sprintf("%s, %q, is not absolute", where, p), "write it from / on; names that stay the same after a restart are under /dev/disk/by-id")
		}
	}
}

func isName(s string) bool {
	for i, r := range s {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("-_.", r)) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// kept points: those that are not removed.
func (c *pointChange) kept() (out []*v1.CoordinationPoint) {
	for _, p := range c.GetWitness().GetPoints() {
		if !slices.Contains(c.req.GetRemove(), p.GetName()) {
			out = append(out, p)
		}
	}
	return out
}

// done says whether points are as the request wants them.
func (c *pointChange) done(points []*v1.CoordinationPoint) bool {
	names := map[string]*v1.CoordinationPoint{}
	for _, p := range points {
		names[p.GetName()] = p
	}
	want := map[string]bool{}
	for _, p := range c.kept() {
		want[p.GetName()] = true
	}
	for _, spec := range c.req.GetAdd() {
		p := names[spec.GetName()]
		want[spec.GetName()] = true
		switch {
		case p == nil:
			return false
		case spec.GetLockDisk() != nil:
			d := p.GetLockDisk()
			if d.GetPath() != spec.GetLockDisk().GetPath() || !maps.Equal(d.GetPaths(), spec.GetLockDisk().GetPaths()) {
				return false
			}
		case p.GetArbiter().GetInstance() != c.tokens[spec.GetName()].InstanceText():
			return false
		}
	}
	for _, name := range c.req.GetRemove() {
		if names[name] != nil && !want[name] {
			return false
		}
	}
	return len(want) == len(points)
}

// abstaining: a point of the request is in use already and abstains, so that it has to be added anew.
func (c *pointChange) abstaining() bool {
	return slices.ContainsFunc(c.req.GetAdd(), func(spec *v1.PointSpec) bool {
		st := c.pointStatus(spec.GetName())
		return st != nil && st.Abstains && slices.Contains(c.req.GetRemove(), spec.GetName())
	})
}

// checkResult of the change: names, and how many there would be.
func (c *pointChange) checkResult() error {
	kept := c.kept()
	var names []string
	for _, p := range kept {
		names = append(names, p.GetName())
	}
	for _, spec := range c.req.GetAdd() {
		if slices.Contains(names, spec.GetName()) {
			return fail(CodeConflict, "give the new one another name, or put it in its place with: holdfast quorum replace "+spec.GetName()+" NAME",
				"there is a coordination point %s already", spec.GetName())
		}
		names = append(names, spec.GetName())
	}
	var missing []string
	for _, name := range c.req.GetRemove() {
		if !slices.ContainsFunc(c.GetWitness().GetPoints(), func(p *v1.CoordinationPoint) bool { return p.GetName() == name }) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		var have []string
		for _, p := range c.GetWitness().GetPoints() {
			have = append(have, p.GetName())
		}
		return fail(CodeNotFound, protoyaml.DidYouMean(missing[0], have, "coordination points"), "there is no coordination point %s", list(missing))
	}
	if n := len(names); n != 0 && n != 1 && n != 3 {
		next := "to go from one to three, add two at once: holdfast quorum add --point NAME=arbiter:TOKEN --point NAME=disk:PATH"
		switch {
		case len(c.req.GetAdd()) == 0:
			next = "remove two at once to keep one, or put another in place: holdfast quorum replace OLD NEW"
		case n > 3:
			next = "to put one in the place of another: holdfast quorum replace OLD NEW"
		}
		return fail(CodeConflict, next, "this would make %d coordination points (%s): one or three are possible, since of an even number the loss of half would be the loss of all", n, strings.Join(names, ", "))
	}
	return nil
}

// prepare a place for the cluster at all new points.
func (s *quorumServer) prepare(ctx context.Context, c *pointChange) (points []*v1.CoordinationPoint, faults []*v1.Fault) {
	ctx, cancel := context.WithTimeout(ctx, prepareFor)
	defer cancel()
	points = make([]*v1.CoordinationPoint, len(c.req.GetAdd()))
	errs := make([]error, len(points))
	var wg sync.WaitGroup
	for i, spec := range c.req.GetAdd() {
		wg.Go(func() { points[i], errs[i] = s.b.PreparePoint(ctx, spec, c.GetNextRaftId()) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			faults = append(faults, &v1.Fault{Path: protoyaml.Object("point", c.req.GetAdd()[i].GetName()).String(), Problem: err.Error()})
		}
	}
	for _, p := range points {
		// Whoever tried it would get in the way of those who use it.
		for _, used := range c.GetWitness().GetPoints() {
			if d := p.GetLockDisk().GetDisk(); d != "" && d == used.GetLockDisk().GetDisk() {
				faults = append(faults, &v1.Fault{Path: protoyaml.Object("point", p.GetName()).String(), Problem: fmt.Sprintf("it is the disk of %s, which is in use", used.GetName()),
					Fix: "if it shall be used anew, take it out and format it first"})
			}
		}
	}
	if len(faults) == 0 {
		if r := state.CheckPoints(append(c.kept(), points...)); r != nil {
			faults = append(faults, &v1.Fault{Path: "points", Problem: r.Message})
		}
	}
	return points, faults
}

// try the new points from all nodes, this one first: what it writes to a lock
// disk the others must find there.
func (s *quorumServer) try(ctx context.Context, c *pointChange, points []*v1.CoordinationPoint) (notAsked []string, faults []*v1.Fault) {
	type answer struct {
		node, point string
		resp        *v1.TryPointResponse
		err         error
	}
	own := c.local.Node
	others := slices.DeleteFunc(state.SortedKeys(c.GetNodes()), func(n string) bool { return n == own })
	var answers []answer
	var mu sync.Mutex
	var wg sync.WaitGroup
	ask := func(node string, q *v1.TryPointRequest) *v1.TryPointResponse {
		ctx, cancel := context.WithTimeout(ctx, tryFor)
		defer cancel()
		to := node
		if node == own {
			to = ""
		}
		resp, err := s.b.TryPoint(ctx, to, q)
		mu.Lock()
		defer mu.Unlock()
		answers = append(answers, answer{node, q.GetPoint().GetName(), resp, err})
		return resp
	}
	for _, p := range points {
		q := &v1.TryPointRequest{Point: p, Writer: own, Register: c.GetNextRaftId()}
		if p.GetLockDisk() != nil {
			q.Nonce = nonce()
		}
		wg.Go(func() {
			if resp := ask(own, q); resp == nil || resp.GetProblem() != "" {
				return // the others would look for what is not there
			}
			var rest sync.WaitGroup
			for _, n := range others {
				rest.Go(func() { ask(n, proto.CloneOf(q)) })
			}
			rest.Wait()
		})
	}
	wg.Wait()
	slices.SortFunc(answers, func(a, b answer) int { return strings.Compare(a.node+"\x00"+a.point, b.node+"\x00"+b.point) })
	for _, a := range answers {
		path := protoyaml.Object("node", a.node).Object("point", a.point).String()
		switch {
		case a.err != nil && a.node == own:
			faults = append(faults, &v1.Fault{Path: path, Problem: a.err.Error()})
		case a.err != nil && c.req.GetForce():
			if !slices.Contains(notAsked, a.node) {
				notAsked = append(notAsked, a.node)
			}
		case a.err != nil:
			faults = append(faults, &v1.Fault{Path: path, Problem: "the node can't be asked whether it reaches the point: " + a.err.Error(), Fix: "start it, or go on without its word with --force"})
		case a.resp.GetProblem() != "":
			faults = append(faults, &v1.Fault{Path: path, Problem: a.resp.GetProblem(), Fix: c.fixFor(a.node, a.point, a.resp)})
		}
	}
	return notAsked, faults
}

func nonce() []byte {
	b := make([]byte, nonceSize)
	_, _ = rand.Read(b) // never fails
	return b
}

// fixFor a point that a node can't use.
func (c *pointChange) fixFor(node, point string, r *v1.TryPointResponse) string {
	_, isArbiter := c.tokens[point]
	switch {
	case isArbiter && r.GetOther():
		return "look what answers at that address from this node"
	case isArbiter || node == c.local.Node:
		return ""
	}
	option := "--path " + node + "=PATH"
	if len(c.req.GetAdd()) > 1 {
		option = "--path " + point + ":" + node + "=PATH"
	}
	return "if this node has the disk under another path: " + option
}

func (s *quorumServer) Watch(ctx context.Context, req *connect.Request[v1.WatchQuorumRequest], out *connect.ServerStream[v1.WatchQuorumResponse]) error {
	var last *v1.WatchQuorumResponse
	return s.follow(ctx, func(l *look) (bool, error) {
		w := l.GetWitness()
		msg := &v1.WatchQuorumResponse{Points: w.GetPoints(), Votes: state.WitnessID(l.State) != 0, Done: w.GetWanted() == nil}
		switch {
		case !msg.Done && l.local.Leader == "":
			msg.Progress = "waiting for a leader"
		case !msg.Done:
			msg.Progress = fmt.Sprintf("waiting for %s to begin a view with %s", l.local.Leader, pointNames(w.GetWanted().GetPoints()))
		case w.GetRaftId() == req.Msg.GetBaseRegister():
			msg.Progress = "nothing is being changed"
		default:
			msg.Progress = "in use: " + pointNames(w.GetPoints())
		}
		if proto.Equal(msg, last) {
			return false, nil
		}
		last = msg
		return msg.GetDone(), out.Send(msg)
	})
}

func (s *quorumServer) TryPoint(ctx context.Context, req *connect.Request[v1.TryPointRequest]) (*connect.Response[v1.TryPointResponse], error) {
	if req.Msg.GetPoint() == nil {
		return nil, fail(CodeBadRequest, "", "no point is named")
	}
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	resp, err := s.b.TryPoint(ctx, "", req.Msg)
	if err != nil {
		return nil, answered(err)
	}
	return connect.NewResponse(resp), nil
}

// pointNames in words, for none too.
func pointNames(points []*v1.CoordinationPoint) string {
	var names []string
	for _, p := range points {
		names = append(names, p.GetName())
	}
	if len(names) == 0 {
		return "no coordination points"
	}
	return list(names)
}
