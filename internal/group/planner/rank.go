package planner

import (
	"fmt"
	"math"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

// ranking is the order in which nodes are considered for an instance.
type ranking struct {
	nodes []ranked
	// The first of them that can run it "is …": the deciding words.
	best string
	// The rule by which they were ranked, in words.
	policy string
	// The zone or site that comes first, in words; empty: none does.
	near string
}

// ranked is a node as the policy of a group sees it.
type ranked struct {
	node string
	// Nodes of a lower tier come first: 0 where it ran before (zone, site), 1 elsewhere.
	tier int
	// Within a tier the greater score comes first, and then the earlier in the list.
	score int64
	// What was compared, in words; empty: only the order of the list was.
	measure string
}

// byFailOver ranks nodes as the failover policy has it, of where it names the list.
func (w *work) byFailOver(nodes []string, of string) ranking {
	r := w.tiers(nodes, of)
	switch w.attr.policy {
	case v1.FailOverPolicy_FAIL_OVER_POLICY_ROUND_ROBIN:
		w.byCount(&r)
	case v1.FailOverPolicy_FAIL_OVER_POLICY_LOAD:
		w.byRoom(&r, false)
	case v1.FailOverPolicy_FAIL_OVER_POLICY_BIGGEST_AVAILABLE:
		w.byRoom(&r, true)
	}
	return r.sorted()
}

// byAutoStart ranks the nodes of the AutoStartList.
func (w *work) byAutoStart() ranking {
	nodes := w.autoStartList()
	r := w.inOrder(nodes, "autoStartList")
	switch w.attr.startPolicy {
	case v1.AutoStartPolicy_AUTO_START_POLICY_PRIORITY:
		order := w.systemList()
		slices.SortStableFunc(r.nodes, func(a, b ranked) int { return slices.Index(order, a.node) - slices.Index(order, b.node) })
		r.best, r.policy = w.first("system list")+", of those on its autoStartList", "autoStartPolicy priority"
	case v1.AutoStartPolicy_AUTO_START_POLICY_LOAD:
		w.byRoom(&r, false)
		r.policy = "autoStartPolicy load"
	}
	return r.sorted()
}

func (w *work) inOrder(nodes []string, of string) ranking {
	r := ranking{best: w.first(of), policy: "the order of its " + of}
	for _, n := range nodes {
		r.nodes = append(r.nodes, ranked{node: n})
	}
	return r
}

// first says what the first of the nodes of a list is that can run the instance.
func (w *work) first(of string) string {
	if w.g.GetHybrid() {
		return fmt.Sprintf("the first node of %s on its %s that can run it", w.title(), of)
	}
	return fmt.Sprintf("the first node of its %s that can run it", of)
}

// tiers puts nodes of the zone, or with SITE_PREFERRED of the site, where it ran before the others.
func (w *work) tiers(nodes []string, of string) ranking {
	r := w.inOrder(nodes, of)
	near, where := w.near()
	if near == nil {
		return r
	}
	some, all := false, true
	for i := range r.nodes {
		if near(r.nodes[i].node) {
			some = true
		} else {
			r.nodes[i].tier, all = 1, false
		}
	}
	if some && !all {
		r.near = where
		r.policy += ", " + where + " first"
	}
	return r
}

// near tells nodes of the zone, or of the site, where the instance was last
// online. Nil: it makes no difference.
func (w *work) near() (func(node string) bool, string) {
	from := w.book.GetLastOnline()
	zones := w.g.GetSystemZones()
	switch {
	case w.g.GetHybrid() || from == "":
		return nil, ""
	case len(zones) > 0:
		return func(n string) bool { return zones[n] == zones[from] }, fmt.Sprintf("zone %d, where it ran", zones[from])
	case w.book.GetSite() != "" && (w.attr.policy == v1.FailOverPolicy_FAIL_OVER_POLICY_SITE_PREFERRED || w.staysNear()):
		return func(n string) bool { return w.s.GetNodes()[n].GetSite() == w.book.GetSite() }, fmt.Sprintf("site %s, where it ran", w.book.GetSite())
	}
	return nil, ""
}

// byCount: fewest active groups.
func (w *work) byCount(r *ranking) {
	r.policy = "failOverPolicy roundRobin"
	r.best = "the node with the fewest active groups of those that can run it"
	for i := range r.nodes {
		n := 0
		if a := w.ledger.accounts[r.nodes[i].node]; a != nil {
			n = a.add().active
		}
		r.nodes[i].score, r.nodes[i].measure = -int64(n), count(n, "active group")
	}
}

// byRoom: most capacity left, by what groups declare or by what is measured. Where
// more than one dimension counts, each is taken in proportion to the
// greatest capacity of the nodes in question.
func (w *work) byRoom(r *ranking, measured bool) {
	r.policy = "failOverPolicy load"
	r.best = "the node with the most capacity left of those that can run it"
	if measured {
		r.policy = "failOverPolicy biggestAvailable"
		r.best = "the node with the most capacity available of those that can run it"
	}
	greatest := map[string]int64{}
	for _, n := range r.nodes {
		if a := w.ledger.accounts[n.node]; a != nil {
			for dim := range a.node.GetCapacity() {
				limit, _ := a.capacity(dim)
				greatest[dim] = max(greatest[dim], limit)
			}
		}
	}
	dims := state.SortedKeys(greatest)
	if len(w.g.GetLoad()) > 0 { // of what it takes nothing of, it does not matter what is left
		dims = slices.DeleteFunc(dims, func(d string) bool { _, takes := w.g.GetLoad()[d]; return !takes })
	}
	for i := range r.nodes {
		r.nodes[i].score, r.nodes[i].measure = w.room(r.nodes[i].node, dims, greatest, measured)
	}
}

func (w *work) room(node string, dims []string, greatest map[string]int64, measured bool) (score int64, measure string) {
	a := w.ledger.accounts[node]
	if a == nil {
		return math.MinInt64, ""
	}
	var parts []string
	for _, dim := range dims {
		weight := int64(1)
		if measured {
			if n, ok := w.s.GetCluster().GetMeterWeight()[dim]; ok {
				weight = int64(n)
			}
		}
		limit, bounded := a.capacity(dim)
		used := a.declared(dim)
		if measured {
			used = a.used(dim)
		}
		if a.holds(w) {
			used -= w.g.GetLoad()[dim]
		}
		switch {
		case !bounded:
			score += weight * share // as much as the greatest has when it is empty
			parts = append(parts, "no bound of "+dim)
		case greatest[dim] > 0:
			score += weight * portion(limit-used, greatest[dim])
			parts = append(parts, fmt.Sprintf("%d of %s %d", limit-used, dim, limit))
		}
	}
	if len(parts) == 0 {
		return score, "no capacity is declared"
	}
	return score, strings.Join(parts, " and ") + " left"
}

// share is a whole capacity in scores.
const share = 1_000_000

// portion of a capacity, in scores. Amounts are so many that the product of
// two of them may not fit.
func portion(n, of int64) int64 {
	return int64(float64(n) / float64(of) * share)
}

func (r ranking) sorted() ranking {
	slices.SortStableFunc(r.nodes, func(a, b ranked) int {
		if a.tier != b.tier {
			return a.tier - b.tier
		}
		switch {
		case a.score > b.score:
			return -1
		case a.score < b.score:
			return 1
		}
		return 0
	})
	return r
}

// reason for taking a node of the ranking.
func (r *ranking) reason(n ranked) string {
	why := n.node + " is " + r.best
	switch {
	case r.near != "" && n.tier == 0:
		why += ", of " + r.near
	case r.near != "":
		why += ", and none of " + r.near + ", can"
	}
	if n.measure != "" {
		why += ": " + n.measure
	}
	return why
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
