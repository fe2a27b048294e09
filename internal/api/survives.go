package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// This file says in words which failures a cluster survives.

// tolerance of a view whose members are all there.
type tolerance struct {
	// atOnce is how many members may fail at the same moment.
	atOnce int
	// inTurn is how many may fail one after another, each after the others have gone on.
	inTurn int
	// votes: the coordination points have a vote now; usable: enough of them answer.
	votes, usable bool
}

// tolerates says what a view of so many members survives, with so many
// coordination points of which some can be reached.
func tolerates(members, points, reachable int) tolerance {
	t := tolerance{votes: points > 0 && members > 0 && members%2 == 0, usable: points > 0 && reachable >= state.Majority(points)}
	if members == 0 {
		return t
	}
	voters, here := members, members
	if t.votes {
		voters++
		if t.usable {
			here++
		}
	}
	t.atOnce = min(here-state.Majority(voters), members-1)
	// Healthy members alone are always a majority; only the last two need the points.
	t.inTurn = max(members-2, 0)
	if t.usable {
		t.inTurn = members - 1
	}
	return t
}

// Survives says in words which failures the cluster survives at present:
// reachable are the names of coordination points that answer, live the members
// of the view that are heard. Each line is a sentence, the most important first.
func Survives(s *statepb.State, reachable, live []string) []string {
	v := outlook{s: s}
	var silent []string
	for _, m := range s.GetView().GetMembers() {
		if slices.Contains(live, m.GetNode()) {
			v.members = append(v.members, m.GetNode())
		} else {
			silent = append(silent, m.GetNode())
		}
	}
	for _, p := range s.GetWitness().GetPoints() {
		if slices.Contains(reachable, p.GetName()) {
			v.here = append(v.here, p.GetName())
		} else {
			v.away = append(v.away, p.GetName())
		}
	}
	if len(v.members)+len(silent) == 0 {
		return []string{"This node knows no view of the cluster yet."}
	}
	var lines []string
	if len(silent) > 0 {
		all := tolerates(len(v.members)+len(silent), v.points(), len(v.here))
		left := all.atOnce - len(silent)
		if left < 0 {
			return []string{fmt.Sprintf("Nothing can be decided at present: of %s %s %s silent, and %s not enough. What runs here stops, or has stopped.",
				count(len(v.members)+len(silent), "member"), list(silent), plural(silent, "is", "are"), v.rest(all))}
		}
		before := "no other failure is survived"
		if left > 0 {
			before = nodes(left) + " more may fail"
		}
		lines = append(lines, fmt.Sprintf("%s %s until %s evicted; before that %s, and after it:", list(silent),
			plural(silent, "is silent and counts", "are silent and count"), plural(silent, "it is", "they are"), before))
	}
	lines = append(lines, v.nodesLine())
	for _, more := range []string{v.pointsLine(), v.splitLine()} {
		if more != "" {
			lines = append(lines, more)
		}
	}
	return lines
}

// outlook is a view in which everybody is there.
type outlook struct {
	s *statepb.State
	// members that are heard, points that answer and that do not.
	members, here, away []string
}

func (v *outlook) points() int { return len(v.here) + len(v.away) }

func (v *outlook) tolerance() tolerance { return tolerates(len(v.members), v.points(), len(v.here)) }

// rest of a cluster without a quorum.
func (v *outlook) rest(t tolerance) string {
	what := list(v.members)
	if len(v.members) == 0 {
		what = "nobody"
	}
	switch {
	case t.votes && t.usable:
		return what + " with the coordination points " + plural(v.members, "is", "are")
	case t.votes:
		return what + " without the coordination points " + plural(v.members, "is", "are")
	}
	return what + " " + plural(v.members, "is", "are")
}

// nodesLine says which nodes may fail.
func (v *outlook) nodesLine() string {
	t := v.tolerance()
	switch n := len(v.members); {
	case n == 0:
		return "No failure: no node is heard."
	case n == 1:
		return fmt.Sprintf("No failure: %s is the only node that is in the cluster.", v.members[0])
	case n == 2 && v.points() == 0:
		return "No node: the survivor can't tell a dead node from a cut network, and stops its groups. Add a coordination point (holdfast quorum add)."
	case n == 2 && !t.usable:
		return fmt.Sprintf("No failure of a node at present: %s can't be reached. Repair %s, or put another in place (holdfast quorum replace).", v.awayPoints(), plural(v.away, "it", "them"))
	case n == 2 && v.points() == 1:
		return fmt.Sprintf("Either node, or the %s, but not both at once.", v.kindOf(v.here[0]))
	case n == 2:
		return "Either node."
	case t.inTurn > t.atOnce:
		return fmt.Sprintf("%s, and any %d one after another, each once the others have gone on without the one before.", anyNodes(t.atOnce), t.inTurn)
	case v.points() == 0 && n == 3:
		return "Any one node; the two that are left then survive no other without a coordination point."
	default:
		return anyNodes(t.atOnce) + "."
	}
}

func anyNodes(n int) string {
	if n == 1 {
		return "Any one node"
	}
	return fmt.Sprintf("Any %d nodes at once", n)
}

func nodes(n int) string {
	if n == 1 {
		return "one node"
	}
	return fmt.Sprintf("%d nodes", n)
}

// pointsLine says which coordination points may fail.
func (v *outlook) pointsLine() string {
	t := v.tolerance()
	n := len(v.members)
	without := tolerates(n, v.points(), 0)
	less := "splits into equal halves stop both sides"
	switch {
	case n == 2:
		less = "the next failure of a node stops everything"
	case n%2 == 1:
		less = "the last two nodes that are left then survive no other failure"
	case without.atOnce < t.atOnce:
		less = fmt.Sprintf("only %s may fail at once, and splits into equal halves stop both sides", nodes(without.atOnce))
	}
	switch {
	case v.points() == 0 || n < 2:
		return ""
	case !t.usable && n == 2:
		return "Nothing stops as long as both nodes see each other."
	case !t.usable:
		return fmt.Sprintf("Nothing stops for want of %s, but without a majority of the points %s. Repair %s, or put another in place (holdfast quorum replace).",
			v.awayPoints(), less, plural(v.away, "it", "them"))
	case v.points() == 1 && n == 2:
		return fmt.Sprintf("While %s is away nothing stops, but %s.", v.here[0], less)
	case v.points() == 1:
		return fmt.Sprintf("The %s may fail too: nothing stops then, but %s.", v.kindOf(v.here[0]), less)
	case len(v.away) > 0:
		return fmt.Sprintf("No other coordination point: %s can't be reached. Without another one nothing stops, but %s.", v.awayPoints(), less)
	case n == 2:
		return fmt.Sprintf("Any one of the points %s, at the same time as a node too. Without two of them nothing stops, but %s.", list(v.here), less)
	default:
		return fmt.Sprintf("Any one of the points %s. Without two of them nothing stops, but %s.", list(v.here), less)
	}
}

// splitLine says what a cut network does.
func (v *outlook) splitLine() string {
	t := v.tolerance()
	n := len(v.members)
	half := "the side that reaches " + v.pointsWords() + " first goes on"
	if rule := rule(v.s.GetCluster()); rule != v1.PreferredFencing_PREFERRED_FENCING_NONE {
		half = "of two sides that both reach " + v.pointsWords() + ", the preferred one goes on"
	}
	switch {
	case n < 2:
		return ""
	case n%2 == 1:
		return fmt.Sprintf("A split, as long as %d nodes see each other.", state.Majority(n))
	case n == 2 && t.usable:
		return "A split between the two: " + half + "."
	case n == 2:
		return "A split stops both nodes."
	case t.usable:
		return fmt.Sprintf("A split, as long as %d nodes see each other; in an even split %s.", n/2+1, half)
	default:
		return fmt.Sprintf("A split, as long as %d nodes see each other; an even split stops both sides.", n/2+1)
	}
}

// pointsWords names the points where they are reached.
func (v *outlook) pointsWords() string {
	if v.points() == 1 {
		return slices.Concat(v.here, v.away)[0]
	}
	return "the points"
}

func (v *outlook) awayPoints() string {
	if len(v.away) == 1 {
		return "the " + v.kindOf(v.away[0])
	}
	return "the points " + list(v.away)
}

// kindOf a point with its name: "arbiter arb1".
func (v *outlook) kindOf(name string) string {
	for _, p := range v.s.GetWitness().GetPoints() {
		if p.GetName() == name && p.GetLockDisk() != nil {
			return "lock disk " + name
		}
	}
	return "arbiter " + name
}

// preferredWords says what preferred fencing does.
func preferredWords(s *statepb.State) string {
	c := s.GetCluster()
	var text string
	switch rule(c) {
	case v1.PreferredFencing_PREFERRED_FENCING_NODE_WEIGHT:
		text = "the side with the greater sum of weights (" + nodeWords(s, func(n *v1.Node) string { return fmt.Sprint(weight(n)) }) + ")"
	case v1.PreferredFencing_PREFERRED_FENCING_GROUP_PRIORITY:
		text = "the side on which the groups with the greater sum of priorities run"
	case v1.PreferredFencing_PREFERRED_FENCING_SITE:
		var at []string
		for _, n := range sortedValues(s.GetNodes()) {
			if n.GetSite() == c.GetPreferredSite() {
				at = append(at, n.GetName())
			}
		}
		text = fmt.Sprintf("the side with more nodes of site %s (%s)", c.GetPreferredSite(), list(at))
	default:
		text = "none: in an even split the side goes on that reaches the coordination points first, which is mostly the leader's"
	}
	if rule(c) != v1.PreferredFencing_PREFERRED_FENCING_NONE {
		text = fmt.Sprintf("in an even split %s goes on; the other waits %s before it asks the coordination points, and goes on if they are still free then",
			text, protoyaml.Duration(preferredDelay(c)))
	}
	if len(s.GetWitness().GetPoints()) == 0 {
		text += "; it has no effect, for there are no coordination points"
	}
	return text
}

func rule(c *v1.Cluster) v1.PreferredFencing {
	if r := c.GetPreferredFencing(); r != v1.PreferredFencing_PREFERRED_FENCING_UNSPECIFIED {
		return r
	}
	return v1.PreferredFencing_PREFERRED_FENCING_NONE
}

// preferredDelay is how long the side that should lose holds back.
func preferredDelay(c *v1.Cluster) time.Duration {
	if d := c.GetPreferredFencingDelay(); d != nil {
		return d.AsDuration()
	}
	_, _, inact := timers.Effective(c.GetTimers())
	return inact / 2
}

func weight(n *v1.Node) uint32 {
	if n.Weight == nil {
		return 1
	}
	return n.GetWeight()
}

// nodeWords lists all nodes with what f says of each.
func nodeWords(s *statepb.State, f func(*v1.Node) string) string {
	var parts []string
	for _, n := range sortedValues(s.GetNodes()) {
		parts = append(parts, n.GetName()+" "+f(n))
	}
	return strings.Join(parts, ", ")
}

// list joins names: "n1, n2 and n3".
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

func plural(names []string, one, many string) string {
	if len(names) == 1 {
		return one
	}
	return many
}
