package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
)

// waiting flags of a command that starts an operation.
type waiting struct {
	no      bool
	timeout time.Duration
}

func (w *waiting) flags(c *cobra.Command) {
	c.Flags().BoolVar(&w.no, "no-wait", false, "only begin, and print the number of the operation")
	c.Flags().DurationVar(&w.timeout, "timeout", 0, "wait no longer than this; what was begun goes on (default: as long as it takes)")
}

// operationName says in words what an operation is.
func operationName(o *v1.Operation) string {
	at := func(word string) string {
		if o.GetNode() == "" {
			return ""
		}
		return " " + word + " " + o.GetNode()
	}
	switch o.GetKind() {
	case v1.OperationKind_OPERATION_KIND_GROUP_ONLINE:
		return "online group " + o.GetGroup() + at("on")
	case v1.OperationKind_OPERATION_KIND_GROUP_OFFLINE:
		return "offline group " + o.GetGroup() + at("on")
	case v1.OperationKind_OPERATION_KIND_GROUP_SWITCH:
		return "switch group " + o.GetGroup() + at("to")
	case v1.OperationKind_OPERATION_KIND_RESOURCE_ONLINE:
		return "online resource " + o.GetResource() + at("on")
	case v1.OperationKind_OPERATION_KIND_RESOURCE_OFFLINE:
		return "offline resource " + o.GetResource() + at("on")
	case v1.OperationKind_OPERATION_KIND_NODE_STOP:
		if o.GetDetach() {
			return "stop node " + o.GetNode() + ", detaching its groups"
		}
		return "stop node " + o.GetNode()
	case v1.OperationKind_OPERATION_KIND_NODE_EVACUATE:
		return "evacuate node " + o.GetNode()
	case v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION:
		return "action " + o.GetAction() + " of resource " + o.GetResource() + at("on")
	}
	return "operation"
}

// finish follows an operation that was begun, and prints how it ended. gone is
// the node whose daemon ends with it, if any: then no more answers are success.
func (a *app) finish(ctx context.Context, c *client, op *v1.Operation, w *waiting, gone string) error {
	if w.no {
		return a.show("operation/1", op, func(out io.Writer) {
			fmt.Fprintf(out, "operation %d: %s\n", op.GetId(), operationName(op))
		})
	}
	if w.timeout > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, w.timeout)
		defer cancel()
	}
	p := &progress{a: a}
	end, err := a.follow(ctx, c, op, p, gone)
	p.end()
	if err != nil {
		return err
	}
	action := end.GetKind() == v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION
	if end.GetState() == v1.OperationState_OPERATION_STATE_FAILED && action {
		return &failure{code: api.CodeFailed, message: fmt.Sprintf("%s failed: %s", operationName(end), end.GetMessage())}
	}
	if end.GetState() == v1.OperationState_OPERATION_STATE_FAILED {
		f := &failure{code: api.CodeFailed, message: fmt.Sprintf("%s failed: %s", operationName(end), end.GetMessage())}
		if p.last == "" { // nothing was ever begun: the planner refused it
			f = &failure{code: api.CodeConflict, message: fmt.Sprintf("%s was refused: %s", operationName(end), end.GetMessage())}
		}
		if end.GetGroup() != "" {
			f.next = "holdfast explain group " + end.GetGroup() + " says more"
		}
		return f
	}
	return a.show("operation/1", end, func(out io.Writer) {
		took := ""
		if end.GetEndedMs() > end.GetStartedMs() && end.GetStartedMs() > 0 {
			took = fmt.Sprintf(" (%d ms)", end.GetEndedMs()-end.GetStartedMs())
		}
		message := end.GetMessage()
		if message == "" {
			message = operationName(end) + ": done"
		} else if action { // as it said it
			took = ""
		}
		fmt.Fprintln(out, message+took)
	})
}

const reconnect = 100 * time.Millisecond

// follow an operation to its end. A daemon that restarts meanwhile is asked
// again: operations survive it.
func (a *app) follow(ctx context.Context, c *client, op *v1.Operation, p *progress, gone string) (*v1.Operation, error) {
	lost := 0
	for {
		stream, err := c.operations.Watch(ctx, connect.NewRequest(&v1.WatchOperationRequest{Id: op.GetId()}))
		if err == nil {
			for stream.Receive() {
				lost = 0
				op = stream.Msg().GetOperation()
				if op.GetState() != v1.OperationState_OPERATION_STATE_RUNNING {
					stream.Close()
					return op, nil
				}
				p.show(stream.Msg().GetProgress())
			}
			err = stream.Err()
			stream.Close()
		}
		var e *connect.Error
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.As(err, &e) && e.Code() == connect.CodeDeadlineExceeded:
			return nil, &failure{code: api.CodeWaitedTooLong, message: fmt.Sprintf("%s has not ended yet", operationName(op)),
				next: fmt.Sprintf("it goes on; holdfast operation wait %d follows it", op.GetId())}
		case ctx.Err() != nil:
			return nil, &failure{message: "interrupted", next: fmt.Sprintf("%s goes on; holdfast operation wait %d follows it", operationName(op), op.GetId())}
		case errors.As(err, &e) && detailOf(e) != nil:
			return nil, c.failed(err)
		}
		lost++
		if gone != "" && lost > 5 {
			op.State, op.Message = v1.OperationState_OPERATION_STATE_DONE, gone+" has stopped: its daemon answers no more"
			return op, nil
		}
		if lost > 1 {
			p.show("the daemon does not answer; asking again")
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconnect):
		}
	}
}

// progress is one line that changes on a terminal, else a line per change.
type progress struct {
	a    *app
	last string
	open bool
}

func (p *progress) show(text string) {
	if text == "" || text == p.last {
		return
	}
	p.last = text
	if !p.a.Terminal {
		fmt.Fprintln(p.a.Err, text)
		return
	}
	p.open = true
	fmt.Fprintf(p.a.Err, "\r\x1b[K%s", clipped(text, 100))
}

func (p *progress) end() {
	if p.open {
		fmt.Fprint(p.a.Err, "\r\x1b[K")
	}
}

func clipped(s string, most int) string {
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return strings.TrimRight(string(r[:most-1]), " ") + "…"
}

func firstLine(s string) string {
	line, more, _ := strings.Cut(s, "\n")
	if more != "" {
		line += " …"
	}
	return line
}

func (a *app) operationCommand() *cobra.Command {
	number := func(s string) (uint64, error) {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || n == 0 {
			return 0, usage("%q is no number of an operation; holdfast status lists those under way", s)
		}
		return n, nil
	}
	show := a.withOutput(&cobra.Command{
		Use: "show NUMBER", Short: "Show an operation", Args: args(1, 1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			id, err := number(args[0])
			if err != nil {
				return err
			}
			m, err := call(ctx, c, c.operations.Get, &v1.GetOperationRequest{Id: id})
			if err != nil {
				return err
			}
			o := m.GetOperation()
			return a.show("operation/1", o, func(w io.Writer) {
				heading(w, m.GetSource())
				pairs(w, [][2]string{{"Operation", fmt.Sprintf("%d, %s", o.GetId(), operationName(o))}, {"State", word(o.GetState())}, {"Message", o.GetMessage()},
					{"Progress", m.GetProgress()}, {"Begun", clock(o.GetStartedMs())}, {"Ended", clock(o.GetEndedMs())}}...)
			})
		}),
	})
	w := &waiting{}
	wait := a.withOutput(&cobra.Command{
		Use: "wait NUMBER", Short: "Follow an operation to its end", Args: args(1, 1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			id, err := number(args[0])
			if err != nil {
				return err
			}
			return a.finish(ctx, c, &v1.Operation{Id: id}, w, "")
		}),
	})
	wait.Flags().DurationVar(&w.timeout, "timeout", 0, "wait no longer than this (default: as long as it takes)")
	all := false
	list := a.withOutput(&cobra.Command{
		Use: "list", Short: "List the operations that run, or all that are kept", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.operations.List, &v1.ListOperationsRequest{All: all})
			if err != nil {
				return err
			}
			return a.show("operations/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				rows := [][]string{{"ID", "WHAT", "STATE", "BEGUN", "ENDED", "NOTE"}}
				for _, o := range m.GetOperations() {
					rows = append(rows, []string{fmt.Sprint(o.GetId()), operationName(o), word(o.GetState()), clock(o.GetStartedMs()), clock(o.GetEndedMs()), firstLine(o.GetMessage())})
				}
				table(w, rows...)
			})
		}),
	})
	list.Flags().BoolVar(&all, "all", false, "list also those that have ended and are kept")
	return grouped(&cobra.Command{Use: "operation", Short: "What was begun, and how far it is"}, list, show, wait)
}
