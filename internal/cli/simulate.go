package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
)

// stepFlag appends a step each time it is given, so that the order of the
// command line is the order of the simulation.
type stepFlag struct {
	steps *[]*v1.SimulateStep
	make  func(name, node string) (*v1.SimulateStep, error)
	what  string
}

func (f *stepFlag) String() string { return "" }
func (f *stepFlag) Type() string   { return f.what }

func (f *stepFlag) Set(text string) error {
	name, node, _ := strings.Cut(text, "@")
	if name == "" {
		return fmt.Errorf("write %s", f.what)
	}
	st, err := f.make(name, node)
	if err != nil {
		return err
	}
	*f.steps = append(*f.steps, st)
	return nil
}

// simulation is what a command line asks for.
type simulation struct {
	steps []*v1.SimulateStep
	// Files of apply steps, in their order, and the snapshot or configuration that is used in place of a live cluster.
	applied  []*config.Documents
	snapshot string
	files    []string
}

func (a *app) simulateCommand() *cobra.Command {
	s := &simulation{}
	c := a.withOutput(&cobra.Command{
		Use: "simulate (STEP...) [--snapshot FILE | -f FILE]", Short: "Say what would happen if; nothing is changed", Args: args(0, 0),
		Long: `Say what would happen if. The steps are taken in the order of the command line on
a copy of the present state, each after the one before has settled; agents
succeed at everything, and lost nodes are proven to have stopped.

With --snapshot no daemon is asked: the file was written by holdfast cluster
snapshot (or backup). With -f the cluster is one that has just been started with
that configuration. Both run anywhere, for example where changes of the
configuration are tested before they are applied.

GROUP@NODE names a group on a node, NODE/NAME in --freeze a node. An @ is written once.`,
		Example: `  holdfast simulate --fail n1
  holdfast simulate --fail n1,n2 --join n1 --switch web@n1
  holdfast simulate --apply new.yaml --fail n1
  holdfast simulate --snapshot prod.yaml --apply new.yaml --fault web-server`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(s.steps) == 0 {
				return usage("say what happens, for example --fail NODE; holdfast simulate --help lists the steps")
			}
			m, err := s.run(cmd.Context(), a)
			if err != nil {
				return err
			}
			return a.show("simulation/1", m, func(w io.Writer) { writeSimulation(w, m) })
		},
	})
	c.Flags().SortFlags = false
	s.stepFlags(a, c)
	c.Flags().StringVar(&s.snapshot, "snapshot", "", "a snapshot or backup in place of the live cluster")
	must(c.MarkFlagFilename("snapshot"))
	c.Flags().StringArrayVarP(&s.files, "file", "f", nil, "a configuration in place of the live cluster; may be given more than once")
	must(c.MarkFlagFilename("file", "yaml", "yml"))
	return c
}

func (s *simulation) stepFlags(a *app, c *cobra.Command) {
	step := func(name, what, help string, names func(*v1.Configuration) []string, make func(name, node string) *v1.SimulateStep) {
		c.Flags().Var(&stepFlag{&s.steps, func(name, node string) (*v1.SimulateStep, error) { return make(name, node), nil }, what}, name, help)
		complete := a.complete(names)
		must(c.RegisterFlagCompletionFunc(name, func(c *cobra.Command, _ []string, text string) ([]string, cobra.ShellCompDirective) {
			return complete(c, nil, text)
		}))
	}
	on := func(group, node string) *v1.GroupOnNodeName { return &v1.GroupOnNodeName{Group: group, Node: node} }
	step("fail", "NODE[,NODE]", "nodes that fail, at the same moment", nodeNames, func(n, _ string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_FailNodes{FailNodes: &v1.NodeNames{Nodes: strings.Split(n, ",")}}}
	})
	step("join", "NODE", "a node that comes back", nodeNames, func(n, _ string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_JoinNode{JoinNode: n}}
	})
	step("stop", "NODE", "a node that is stopped", nodeNames, func(n, _ string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_StopNode{StopNode: &v1.StopNodeName{Node: n}}}
	})
	step("evacuate", "NODE", "a node that is stopped after its groups have moved away", nodeNames, func(n, _ string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_StopNode{StopNode: &v1.StopNodeName{Node: n, Evacuate: true}}}
	})
	step("move-away", "NODE", "a node that stays, and whose groups move away", nodeNames, func(n, _ string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_EvacuateNode{EvacuateNode: n}}
	})
	step("online", "GROUP[@NODE]", "a group that is brought online", groupNames, func(g, n string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_Online{Online: on(g, n)}}
	})
	step("offline", "GROUP[@NODE]", "a group that is taken offline", groupNames, func(g, n string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_Offline{Offline: on(g, n)}}
	})
	step("switch", "GROUP[@NODE]", "a group that is moved", groupNames, func(g, n string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_Switch{Switch: on(g, n)}}
	})
	step("clear", "GROUP[@NODE]", "a group whose faults are cleared", groupNames, func(g, n string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_Clear{Clear: on(g, n)}}
	})
	step("fault", "RESOURCE[@NODE]", "a resource that faults", resourceNames, func(r, n string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_Fault{Fault: &v1.ResourceOnNodeName{Resource: r, Node: n}}}
	})
	groupOrNode := func(c *v1.Configuration) []string { return append(groupNames(c), nodeNames(c)...) }
	for _, frozen := range []bool{true, false} {
		verb, past := "freeze", "frozen"
		if !frozen {
			verb, past = "unfreeze", "unfrozen"
		}
		freeze := func(group, node string) *v1.SimulateStep {
			return &v1.SimulateStep{Step: &v1.SimulateStep_Freeze{Freeze: &v1.FreezeName{Group: group, Node: node, Frozen: frozen}}}
		}
		step(verb, "NAME", "a group, or a node, that is "+past, groupOrNode, func(n, _ string) *v1.SimulateStep { return freeze(n, "") })
		step(verb+"-node", "NODE", "a node that is "+past+", even if a group is called the same", nodeNames, func(n, _ string) *v1.SimulateStep { return freeze("", n) })
		step(verb+"-group", "GROUP", "", groupNames, func(n, _ string) *v1.SimulateStep { return freeze(n, "") })
		must(c.Flags().MarkHidden(verb + "-group"))
	}
	for _, enabled := range []bool{true, false} {
		verb := map[bool]string{true: "enable", false: "disable"}[enabled]
		step(verb, "GROUP[@NODE]", "a group that is "+verb+"d", groupNames, func(g, n string) *v1.SimulateStep {
			return &v1.SimulateStep{Step: &v1.SimulateStep_Enable{Enable: &v1.EnableName{Group: g, Node: n, Enabled: enabled}}}
		})
	}
	for _, on := range []bool{true, false} {
		word := map[bool]string{true: "on", false: "off"}[on]
		step("switching-"+word, "GROUP", "a group of which switching is turned "+word, groupNames, func(g, _ string) *v1.SimulateStep {
			return &v1.SimulateStep{Step: &v1.SimulateStep_Switching{Switching: &v1.SwitchingName{Group: g, On: on}}}
		})
	}
	c.Flags().Var(&stepFlag{&s.steps, s.apply, "FILE"}, "apply", "a file with documents that are applied")
	must(c.MarkFlagFilename("apply", "yaml", "yml"))
}

// apply is the step of a file; it is read before anything is asked.
func (s *simulation) apply(name, rest string) (*v1.SimulateStep, error) {
	if rest != "" {
		name += "@" + rest
	}
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	docs := config.Parse(config.File{Name: name, Text: text})
	if f := docs.Faults(); len(f) > 0 {
		return nil, badConfig(f)
	}
	s.applied = append(s.applied, docs)
	return &v1.SimulateStep{Step: &v1.SimulateStep_Apply{Apply: &v1.ApplyRequest{Documents: docs.Configuration()}}}, nil
}

func (s *simulation) run(ctx context.Context, a *app) (*v1.SimulateResponse, error) {
	req := &v1.SimulateRequest{Steps: s.steps}
	if s.snapshot == "" && len(s.files) == 0 {
		c, err := a.dial()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		r, err := c.simulate.Simulate(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, s.located(c, err)
		}
		return r.Msg, nil
	}
	st, err := s.state(a)
	if err != nil {
		return nil, err
	}
	m, err := api.Simulate(st, time.Now(), req)
	if err != nil {
		return nil, s.located(&client{}, err)
	}
	return m, nil
}

// located is a refusal with the faults of the files in their places.
func (s *simulation) located(c *client, err error) error {
	if len(s.applied) == 1 {
		return c.located(err, s.applied[0])
	}
	return c.failed(err)
}

// state that the simulation begins with, of no live cluster.
func (s *simulation) state(a *app) (*statepb.State, error) {
	if s.snapshot != "" && len(s.files) > 0 {
		return nil, usage("a simulation begins with one state: give either --snapshot or -f")
	}
	if s.snapshot != "" {
		raw, err := readFile(s.snapshot)
		if err != nil {
			return nil, &failure{code: api.CodeUsage, message: err.Error()}
		}
		st, err := api.FromSnapshot(s.snapshot, raw)
		if err != nil {
			lines := strings.Split(err.Error(), "\n")
			return nil, &failure{code: api.CodeBadConfig, message: lines[0], faults: lines[1:], next: "holdfast cluster snapshot FILE writes one of a live cluster"}
		}
		return st, nil
	}
	docs, err := a.read(s.files)
	if err != nil {
		return nil, err
	}
	types := agents.Types()
	if faults := docs.Check(nil, types, false, agents.Check); len(faults) > 0 {
		return nil, badConfig(faults)
	}
	st, err := api.Started(proto.CloneOf(docs.Configuration()))
	if err != nil {
		return nil, (&client{}).located(err, docs)
	}
	return st, nil
}

func writeSimulation(w io.Writer, m *v1.SimulateResponse) {
	heading(w, m.GetSource())
	for _, s := range m.GetSteps() {
		fmt.Fprintln(w, s.GetStep())
		if s.GetNote() != "" {
			fmt.Fprintf(w, "  %s\n", s.GetNote())
		}
		for _, d := range s.GetDecisions() {
			writeDecision(w, d, "")
		}
	}
	rows := [][]string{{"GROUP", "BEFORE", "AFTER", "WHY"}}
	for _, g := range m.GetGroups() {
		why := ""
		if g.GetBefore() != g.GetAfter() || g.GetAfter() == "" {
			why = g.GetReason()
		}
		rows = append(rows, []string{g.GetGroup(), g.GetBefore(), g.GetAfter(), why})
	}
	section(w, "In the end", rows...)
	fmt.Fprintf(w, "\n%s\n", m.GetVerdict())
}

func (a *app) snapshotCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use: "snapshot FILE", Short: "Write the present state for simulations that need no cluster", Args: args(1, 1),
		Long: `Write the present state into a new file, as text that holdfast simulate --snapshot
takes anywhere and that may be changed: configuration, members, and what runs
where. It has no keys, users, invitations, certificates or parameters of fence devices.`,
		Example: "  holdfast cluster snapshot prod.yaml\n  holdfast simulate --snapshot prod.yaml --apply new.yaml --fail n1",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.cluster.Snapshot, &v1.SnapshotRequest{})
			if err != nil {
				return err
			}
			if n := m.GetSource().GetNote(); n != "" {
				fmt.Fprintln(a.Err, n)
			}
			if err := writeNewFile(args[0], m.GetSnapshot()); err != nil {
				return err
			}
			return a.did(args[0], fmt.Sprintf("%s: index %d as %s knows it", args[0], m.GetSource().GetAppliedIndex(), m.GetSource().GetNode()))
		}),
	})
}

// writeNewFile makes a file that did not exist.
func writeNewFile(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return &failure{code: api.CodeUsage, message: err.Error(), next: "name a file that does not exist"}
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
