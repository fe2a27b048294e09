package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// do carries out one line of the language in the package comment. An error
// means that the line makes no sense, or not now; nothing was done then.
func (c *cluster) do(line string) error {
	f := strings.Fields(line)
	var length time.Duration
	if n := len(f); n > 2 && f[n-2] == "for" {
		d, err := time.ParseDuration(f[n-1])
		if err != nil {
			return err
		}
		length, f = d, f[:n-2]
	}
	if len(f) == 0 {
		return fmt.Errorf("empty line")
	}
	undo := func(undo func()) {
		if length > 0 {
			c.undo(length, undo)
		}
	}
	verb, args := f[0], f[1:]
	switch verb {
	case "break": // for tests of the simulator itself
		c.fail("N6", "broken on purpose")
		return nil
	case "crash", "boot", "kill", "pause", "disk", "die", "agents", "start":
		return c.doNode(verb, args, length, undo)
	case "point-down", "point-slow", "unreach":
		return c.doPoint(verb, args, undo)
	case "cut", "flap", "split", "net":
		return c.doNet(verb, args, length, undo)
	}
	return c.doAdmin(verb, args)
}

// undo runs after d, or at the end of the first phase.
func (c *cluster) undo(d time.Duration, undo func()) {
	c.undos++
	id := c.undos
	c.pendingUndo[id] = undo
	c.after(d, func() { c.undoNow(id) })
}

func (c *cluster) undoNow(id int) {
	if f := c.pendingUndo[id]; f != nil {
		delete(c.pendingUndo, id)
		f()
	}
}

func (c *cluster) doNode(verb string, args []string, length time.Duration, undo func(func())) error {
	process := ""
	if len(args) == 2 && (args[0] == "engine" || args[0] == "guard") {
		process, args = args[0], args[1:]
	}
	if verb == "die" && len(args) == 2 {
		args = []string{args[1], args[0]}
	}
	if len(args) == 0 {
		return fmt.Errorf("%s: which node?", verb)
	}
	n := c.byName[args[0]]
	if n == nil {
		return fmt.Errorf("no node %q", args[0])
	}
	args = args[1:]
	switch verb {
	case "crash":
		err := n.crash()
		if err == nil {
			undo(func() { _ = n.boot() }) // somebody else may have
		}
		return err
	case "boot", "start":
		return n.boot()
	case "kill":
		if process == "guard" {
			return n.killGuard("killed")
		}
		return n.killEngine("killed")
	case "pause":
		if !n.up {
			return fmt.Errorf("%s is down", n.name)
		}
		n.pause(process)
		was := n.boots
		if length == 0 {
			return fmt.Errorf("pause needs a length")
		}
		undo(func() { n.resume(process, was) })
		return nil
	case "disk":
		return n.diskFault(args, undo)
	case "die":
		s := n.host.procs[args[0]]
		if s == nil || !s.alive || persistent(args[0]) {
			return fmt.Errorf("%s does not run on %s", args[0], n.name)
		}
		n.host.set(s, false, "died")
		return nil
	case "agents":
		return n.agentsFault(args, undo)
	}
	return fmt.Errorf("%s?", verb)
}

func (n *node) diskFault(args []string, undo func(func())) error {
	if len(args) != 1 {
		return fmt.Errorf("disk: what is wrong with it?")
	}
	d := n.disk
	kind, value, _ := strings.Cut(args[0], "=")
	switch kind {
	case "slow":
		by, err := time.ParseDuration(value)
		if err != nil {
			return err
		}
		d.latency += by
		undo(func() { d.latency -= by })
	case "hang":
		d.hang()
		undo(d.recover)
	case "full":
		d.full = true
		undo(d.recover)
	case "lose":
		return n.loseDisk(n.crash)
	case "erase":
		return n.loseDisk(func() error { return n.killEngine("its log is gone") })
	case "ok":
		d.recover()
	default:
		return fmt.Errorf("disk: slow=D, hang, full, lose, erase or ok")
	}
	return nil
}

// behaviours by their names in lines.
var behaviours = map[string]behaviour{
	"online-fails": {onlineFails: true}, "online-hangs": {onlineHangs: true}, "online-dead": {onlineDead: true}, "online-half": {onlineHalf: true},
	"offline-fails": {offlineFails: true}, "offline-hangs": {offlineHangs: true}, "offline-dead": {offlineDead: true},
	"monitor-unknown": {monitorUnknown: true}, "monitor-times-out": {monitorTimesOut: true}, "clean-fails": {cleanFails: true},
	"ok": {},
}

func (n *node) agentsFault(args []string, undo func(func())) error {
	if len(args) == 0 {
		return fmt.Errorf("agents: how do they go wrong?")
	}
	kind, value, _ := strings.Cut(args[0], "=")
	b, known := behaviours[kind]
	switch kind {
	case "flaky":
		p, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return err
		}
		b.flaky = p
	case "slow":
		d, err := time.ParseDuration(value)
		if err != nil {
			return err
		}
		b.slow = d
	default:
		if !known {
			return fmt.Errorf("agents: no kind %q", kind)
		}
	}
	for _, g := range n.c.config.GetGroups() {
		for _, r := range g.GetResources() {
			if len(args) > 1 && args[1] != r.GetName() {
				continue
			}
			s := n.host.service(g.GetName(), r.GetName())
			s.behaviour = b
			undo(func() { s.behaviour = behaviour{} })
		}
	}
	return nil
}

func (c *cluster) doNet(verb string, args []string, length time.Duration, undo func(func())) error {
	link := -1
	if n := len(args); n >= 2 && args[n-2] == "link" {
		k, err := strconv.Atoi(args[n-1])
		if err != nil || k < 0 || k >= c.net.links {
			return fmt.Errorf("no link %q", args[n-1])
		}
		link, args = k, args[:n-2]
	}
	if verb == "net" {
		return c.netFault(args, undo)
	}
	if len(args) == 0 {
		return fmt.Errorf("%s: between whom?", verb)
	}
	pairs, err := c.pairs(verb, args)
	if err != nil {
		return err
	}
	set := func(d int) {
		for _, p := range pairs {
			for l := range c.net.links {
				if link < 0 || l == link {
					c.net.path(p[0], p[1], l).cut += d
				}
			}
		}
	}
	if verb == "flap" {
		if length == 0 {
			return fmt.Errorf("flap needs a length")
		}
		c.flap(set, c.now+length)
		return nil
	}
	set(1)
	gone := c.heals
	undo(func() {
		if gone == c.heals {
			set(-1)
		}
	})
	return nil
}

// flap takes paths down and up until the end, and leaves them up.
func (c *cluster) flap(set func(int), end time.Duration) {
	gone := c.heals
	if c.now >= end {
		return
	}
	set(1)
	c.after(c.between(20*time.Millisecond, 800*time.Millisecond), func() {
		if gone != c.heals {
			return
		}
		set(-1)
		c.after(c.between(20*time.Millisecond, 800*time.Millisecond), func() {
			if gone == c.heals {
				c.flap(set, end)
			}
		})
	})
}

// pairs of nodes, as directions, that a line names.
func (c *cluster) pairs(verb string, args []string) (out [][2]int, err error) {
	both := func(a, b int) {
		if a != b {
			out = append(out, [2]int{a, b}, [2]int{b, a})
		}
	}
	index := func(name string) int {
		n := c.byName[name]
		if n == nil {
			if err == nil {
				err = fmt.Errorf("no node %q", name)
			}
			return 0
		}
		return n.index
	}
	switch {
	case verb == "split":
		var side [][]int
		for _, s := range strings.Split(args[0], "|") {
			var members []int
			for _, name := range strings.Split(s, ",") {
				members = append(members, index(name))
			}
			side = append(side, members)
		}
		for i := range side {
			for j := range i {
				for _, a := range side[i] {
					for _, b := range side[j] {
						both(a, b)
					}
				}
			}
		}
	case strings.Contains(args[0], "->"):
		a, b, _ := strings.Cut(args[0], "->")
		if x, y := index(a), index(b); x != y {
			out = append(out, [2]int{x, y})
		}
	case len(args) == 2:
		both(index(args[0]), index(args[1]))
	case len(args) == 1:
		for i := range c.nodes {
			both(index(args[0]), i)
		}
	default:
		err = fmt.Errorf("%s: name one or two nodes", verb)
	}
	return out, err
}

func (c *cluster) netFault(args []string, undo func(func())) error {
	var change path
	var only [][2]int
	for _, arg := range args {
		if strings.Contains(arg, "->") {
			p, err := c.pairs("net", []string{arg})
			if err != nil {
				return err
			}
			only = p
			continue
		}
		key, value, _ := strings.Cut(arg, "=")
		var err error
		switch key {
		case "delay":
			change.delay, err = time.ParseDuration(value)
		case "jitter":
			change.jitter, err = time.ParseDuration(value)
		case "loss":
			change.loss, err = strconv.ParseFloat(value, 64)
		case "dup":
			change.dup, err = strconv.ParseFloat(value, 64)
		default:
			err = fmt.Errorf("net: no %q", key)
		}
		if err != nil {
			return err
		}
	}
	if change == (path{}) {
		return fmt.Errorf("net: delay=D, jitter=D, loss=P or dup=P")
	}
	add := func(sign int) {
		for a := range c.nodes {
			for b := range c.nodes {
				if only != nil && !slices.Contains(only, [2]int{a, b}) {
					continue
				}
				for l := range c.net.links {
					p := c.net.path(a, b, l)
					p.delay += time.Duration(sign) * change.delay
					p.jitter += time.Duration(sign) * change.jitter
					p.loss += float64(sign) * change.loss
					p.dup += float64(sign) * change.dup
				}
			}
		}
	}
	add(1)
	gone := c.heals
	undo(func() {
		if gone == c.heals {
			add(-1)
		}
	})
	return nil
}

// doAdmin hands a command to a node whose engine runs, as the CLI would.
func (c *cluster) doAdmin(verb string, args []string) error {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	operate := func(kind v1.OperationKind, op *v1.Operation) error {
		op.Kind = kind
		return c.ask(&pb.Command{Change: &pb.Command_Operate{Operate: &pb.Operate{Operation: op}}})
	}
	if len(args) == 0 {
		return fmt.Errorf("%s: what?", verb)
	}
	switch verb {
	case "online":
		return operate(v1.OperationKind_OPERATION_KIND_GROUP_ONLINE, &v1.Operation{Group: arg(0), Node: arg(1)})
	case "offline":
		return operate(v1.OperationKind_OPERATION_KIND_GROUP_OFFLINE, &v1.Operation{Group: arg(0), Node: arg(1)})
	case "switch":
		return operate(v1.OperationKind_OPERATION_KIND_GROUP_SWITCH, &v1.Operation{Group: arg(0), Node: arg(1)})
	case "stop":
		return operate(v1.OperationKind_OPERATION_KIND_NODE_STOP, &v1.Operation{Node: arg(0), Evacuate: arg(1) == "evacuate", Detach: arg(1) == "detach"})
	case "confirm":
		return c.confirm(arg(0))
	case "signal":
		v, err := strconv.ParseInt(arg(2), 10, 64)
		if err != nil {
			return fmt.Errorf("signal S N VALUE")
		}
		return c.ask(&pb.Command{Change: &pb.Command_SetSignal{SetSignal: &pb.SetSignal{Name: arg(0), Node: arg(1), Value: &pb.SignalValue{Value: v}}}})
	case "reset", "trigger":
		return c.plan(verb, arg(0))
	case "freeze", "unfreeze":
		x := &pb.SetFrozen{Group: arg(0), Frozen: verb == "freeze"}
		if c.byName[arg(0)] != nil {
			x.Group, x.Node = "", arg(0)
		}
		return c.ask(&pb.Command{Change: &pb.Command_SetFrozen{SetFrozen: x}})
	case "clear":
		return c.ask(&pb.Command{Change: &pb.Command_Clear{Clear: &pb.Clear{Group: arg(0)}}})
	case "flush":
		return c.ask(&pb.Command{Change: &pb.Command_Flush{Flush: &pb.Flush{Group: arg(0)}}})
	case "probe":
		return c.ask(&pb.Command{Change: &pb.Command_Probe{Probe: &pb.Probe{Group: arg(0)}}})
	case "silence":
		return c.silence(arg(0), arg(1))
	case "set":
		return c.set(arg(0))
	case "note":
		return c.note(strings.Join(args, " "))
	}
	return fmt.Errorf("no verb %q", verb)
}
