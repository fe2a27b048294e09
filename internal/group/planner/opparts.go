package planner

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// An operation on a group with several instances is carried out by each of
// those that it concerns: all whose nodes are members, or the one that is at the
// operation's node. Each remembers in its notebook that it takes part, and how its part has
// ended, until all parts have: then the operation ends, failed if one of them has.

// takeOperations picks what is carried out on the instances: of each, one
// operation at a time. A later one is refused while an earlier one runs, but for
// offline, which supersedes it.
func (gr *group) takeOperations(ops []*v1.Operation) {
	for _, w := range gr.instances {
		if w.book.GetOperation() == 0 {
			continue
		}
		i := slices.IndexFunc(ops, func(op *v1.Operation) bool { return op.GetId() == w.book.GetOperation() })
		switch {
		case i < 0:
			w.release()
		case w.book.GetOutcome() == "":
			w.op = ops[i]
		}
	}
	for _, op := range ops {
		if len(gr.parts(op)) == 0 {
			gr.takeOperation(op)
		}
	}
}

// parts are the instances that take part in an operation that has begun.
func (gr *group) parts(op *v1.Operation) []*work {
	return slices.DeleteFunc(slices.Clone(gr.instances), func(w *work) bool { return w.book.GetOperation() != op.GetId() })
}

// release ends all that the instance has to do with an operation.
func (w *work) release() {
	w.op, w.awaits = nil, ""
	w.book.Operation, w.book.Outcome, w.book.OutcomeFailed = 0, "", false
}

// takeOperation begins an operation, or refuses it.
func (gr *group) takeOperation(op *v1.Operation) {
	concerned := gr.concerned(op)
	busy := slices.IndexFunc(concerned, func(w *work) bool { return w.book.GetOperation() != 0 })
	if busy >= 0 && op.GetKind() != opOffline {
		gr.endOperation(op, failed, fmt.Sprintf("operation %d (%s) is being carried out: wait until it has ended, or take the group offline with holdfast group offline %s",
			concerned[busy].book.GetOperation(), gr.describeNumber(concerned[busy].book.GetOperation()), gr.g.GetName()))
		return
	}
	var ready, refused []*work
	var whys []string
	for _, w := range concerned {
		if why := w.refuse(op); why != "" {
			refused, whys = append(refused, w), append(whys, why)
		} else {
			ready = append(ready, w)
		}
	}
	if len(ready) == 0 {
		if len(concerned) == 0 {
			whys = []string{gr.notListed(op.GetNode())}
		}
		gr.endOperation(op, failed, join(refused, whys))
		return
	}
	for _, w := range concerned {
		gr.supersede(w.book.GetOperation(), op)
	}
	for i, w := range refused {
		w.book.Operation, w.book.Outcome, w.book.OutcomeFailed = op.GetId(), whys[i], true
	}
	for _, w := range ready {
		w.op = op
		w.begin()
	}
}

// concerned are the instances that an operation is about; nil: none is.
func (gr *group) concerned(op *v1.Operation) []*work {
	if !gr.several() {
		return gr.instances
	}
	if op.GetNode() != "" {
		if w := gr.at(op.GetNode()); w != nil {
			return []*work{w}
		}
		return nil
	}
	some := slices.DeleteFunc(slices.Clone(gr.instances), func(w *work) bool {
		if op.GetResource() != "" {
			return w.resourceSpot(op) == nil
		}
		return !w.hasMember()
	})
	if len(some) == 0 {
		return gr.instances
	}
	return some
}

// supersede ends an operation for a later one.
func (gr *group) supersede(id uint64, by *v1.Operation) {
	for _, op := range gr.ops[gr.g.GetName()] {
		if op.GetId() != id {
			continue
		}
		gr.endOperation(op, failed, fmt.Sprintf("superseded by operation %d (%s)", by.GetId(), gr.describe(by)))
		for _, w := range gr.parts(op) {
			w.release()
		}
	}
}

func (gr *group) describeNumber(id uint64) string {
	for _, op := range gr.ops[gr.g.GetName()] {
		if op.GetId() == id {
			return gr.describe(op)
		}
	}
	return "operation on " + gr.g.GetName()
}

// endOperations ends what all parts of have ended, and tells how far the others are.
func (gr *group) endOperations(ops []*v1.Operation) {
	for _, op := range ops {
		parts := gr.parts(op)
		if len(parts) == 0 {
			continue // refused or superseded
		}
		var going, failing []*work
		var awaits, outcomes, failures []string
		for _, w := range parts {
			switch {
			case w.op != nil:
				going, awaits = append(going, w), append(awaits, w.awaits)
			case w.book.GetOutcomeFailed():
				failing, failures = append(failing, w), append(failures, w.book.GetOutcome())
			default:
				outcomes = append(outcomes, w.book.GetOutcome())
			}
		}
		switch {
		case len(going) > 0:
			if text := join(going, awaits); text != "" {
				gr.endOperation(op, running, text)
			}
			continue
		case len(failing) > 0:
			gr.endOperation(op, failed, join(failing, failures))
		default:
			gr.endOperation(op, done, atMost(outcomes))
		}
		for _, w := range parts {
			w.release()
		}
	}
}

// join says of each instance what there is to say, if there are several.
func join(of []*work, texts []string) string {
	if len(of) > 1 {
		for i, w := range of {
			texts[i] = w.title() + ": " + texts[i]
		}
	}
	return atMost(texts)
}

// atMost joins texts that differ; of many it shows the first three.
func atMost(texts []string) string {
	texts = slices.Compact(texts)
	if n := len(texts); n > 3 {
		return fmt.Sprintf("%s; and %d more", strings.Join(texts[:3], "; "), n-3)
	}
	return strings.Join(texts, "; ")
}
