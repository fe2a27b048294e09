package witness

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Format of Kept that this release writes, and the only one that it reads.
const Format = 1

// maxSeen bounds how many incarnations a point remembers in memory.
const maxSeen = 256

// Point is an acceptor whose requests are atomic, for one cluster: what an
// arbiter is. It holds what need not survive it, what must is in Kept.
type Point struct {
	// No renewal is forgotten that may have been acknowledged after it.
	since time.Duration
	seen  map[incarnation]sight
}

type incarnation struct {
	node   string
	raftID uint64
}

// sight of a node: when it last asked for anything, and when a renewal of it
// was last acknowledged (renews false: never).
type sight struct {
	at, renewed time.Duration
	renews      bool
}

// NewPoint starts at now. Renewals that an earlier Point acknowledged count as
// if they had been acknowledged now.
func NewPoint(now time.Duration) *Point {
	return &Point{since: now, seen: map[incarnation]sight{}}
}

// Do answers a request, by what is kept (nil: nothing yet; it is not changed).
// Next not nil must be durable before the reply leaves and before the next
// request is taken (W5). Whether the point is made for the request's cluster,
// and whether the asker is the node that it claims to be, was checked before.
func (p *Point) Do(now time.Duration, kept *witnesspb.Kept, r *witnesspb.Request) (next *witnesspb.Kept, reply *witnesspb.Reply) {
	if kept == nil {
		kept = &witnesspb.Kept{Format: Format}
	}
	if err := CheckKept(kept); err != nil {
		return nil, refuse(kept, witnesspb.Refused_REASON_DAMAGED, "what this coordination point keeps of the cluster can't be used: "+err.Error())
	}
	if err := CheckRequest(r); err != nil {
		return nil, refuse(kept, witnesspb.Refused_REASON_MALFORMED, err.Error())
	}
	if r.GetRegister() < kept.GetRegister() {
		return nil, refuse(kept, witnesspb.Refused_REASON_OLD_REGISTER,
			fmt.Sprintf("register %d has replaced %d here: the asker's configuration is old, or the point was taken out and added again", kept.GetRegister(), r.GetRegister()))
	}
	k := proto.CloneOf(kept)
	_, look := r.GetBody().(*witnesspb.Request_Look)
	switch forgot := r.GetSeenSequence() > k.GetSequence(); {
	case r.GetRegister() > k.GetRegister() && (forgot || !look):
		// Suspicions outlive the register: they are of incarnations.
		k = &witnesspb.Kept{Format: Format, Sequence: k.Sequence, Register: r.GetRegister(), Suspicions: k.Suspicions, Abstains: forgot}
	case forgot:
		k.Abstains = true
	}
	if k.GetAbstains() && r.GetRegister() == k.GetRegister() {
		reply = refuse(k, witnesspb.Refused_REASON_ABSTAINS,
			"this coordination point has forgotten what it promised (it was restored or replaced): take it out of the cluster and add it again")
	} else {
		reply = p.do(now, k, r)
	}
	if !proto.Equal(k, kept) {
		k.Sequence++
		next = k
	}
	reply.Sequence = k.GetSequence()
	p.see(now, r, reply.GetRenewed() != nil)
	return next, reply
}

// do changes k.
func (p *Point) do(now time.Duration, k *witnesspb.Kept, r *witnesspb.Request) *witnesspb.Reply {
	switch b := r.GetBody().(type) {
	case *witnesspb.Request_Prepare:
		if Compare(b.Prepare.GetBallot(), k.GetPromised()) < 0 {
			return rejected(k)
		}
		k.Promised = proto.CloneOf(b.Prepare.GetBallot())
		return &witnesspb.Reply{Body: &witnesspb.Reply_Promised{Promised: &witnesspb.Promised{
			Accepted: proto.CloneOf(k.GetAccepted()), Value: proto.CloneOf(k.GetValue()),
		}}}
	case *witnesspb.Request_Accept:
		if Compare(b.Accept.GetBallot(), k.GetPromised()) < 0 {
			return rejected(k)
		}
		k.Accepted, k.Value = proto.CloneOf(b.Accept.GetBallot()), proto.CloneOf(b.Accept.GetValue())
		k.Promised = proto.CloneOf(b.Accept.GetNext())
		return &witnesspb.Reply{Body: &witnesspb.Reply_Accepted{Accepted: &witnesspb.Accepted{}}}
	case *witnesspb.Request_Renew:
		return p.renew(k, r, b.Renew)
	case *witnesspb.Request_Suspect:
		return p.suspect(now, k, b.Suspect)
	default: // Look
		return &witnesspb.Reply{Body: &witnesspb.Reply_Looked{Looked: p.look(now, k)}}
	}
}

func (p *Point) renew(k *witnesspb.Kept, r *witnesspb.Request, m *witnesspb.Renew) *witnesspb.Reply {
	if s := suspicion(k, r.GetNode()); s != nil && binds(s, r.GetRaftId(), m.GetStays()) {
		reply := refuse(k, witnesspb.Refused_REASON_SUSPECTED, fmt.Sprintf("node %s is suspected", r.GetNode()))
		reply.GetRefused().Stays = s.GetStays()
		return reply
	}
	if OldView(k.GetValue(), m) {
		return refuse(k, witnesspb.Refused_REASON_OLD_VIEW, fmt.Sprintf("view %d is in the log; the asker has applied view %d", Epoch(k.GetValue()), m.GetEpoch()))
	}
	return &witnesspb.Reply{Body: &witnesspb.Reply_Renewed{Renewed: &witnesspb.Renewed{}}}
}

func (p *Point) suspect(now time.Duration, k *witnesspb.Kept, m *witnesspb.Suspect) *witnesspb.Reply {
	list, ok := AddSuspicion(k.GetSuspicions(), m)
	if !ok {
		return refuse(k, witnesspb.Refused_REASON_FULL,
			fmt.Sprintf("this coordination point keeps suspicions of %d nodes already: replace it by a fresh one", MaxSuspicions))
	}
	k.Suspicions = list
	last := p.since
	if s, known := p.seen[incarnation{m.GetAbout(), m.GetAboutRaftId()}]; known && s.renews {
		last = max(last, s.renewed)
	}
	return &witnesspb.Reply{Body: &witnesspb.Reply_Suspected{Suspected: &witnesspb.Suspected{Age: durationpb.New(max(0, now-last))}}}
}

// AddSuspicion returns list, which is in the order of names, with what m says.
// One entry per node is enough: it stands for older incarnations as well, and
// these have no lease to renew. Not ok: list is full.
func AddSuspicion(list []*witnesspb.Suspicion, m *witnesspb.Suspect) (_ []*witnesspb.Suspicion, ok bool) {
	i, found := slices.BinarySearchFunc(list, m.GetAbout(), func(s *witnesspb.Suspicion, name string) int {
		return strings.Compare(s.GetNode(), name)
	})
	s := &witnesspb.Suspicion{Node: m.GetAbout(), RaftId: m.GetAboutRaftId(), Stays: m.GetStays()}
	switch {
	case found && binds(list[i], s.RaftId, s.Stays):
		return list, true
	case found:
		list = slices.Clone(list)
		list[i] = s
		return list, true
	case len(list) >= MaxSuspicions:
		return list, false
	}
	return slices.Insert(slices.Clone(list), i, s), true
}

// binds says whether s forbids to acknowledge an incarnation that shows stays.
func binds(s *witnesspb.Suspicion, raftID, stays uint64) bool {
	return raftID < s.GetRaftId() || raftID == s.GetRaftId() && stays <= s.GetStays()
}

func suspicion(k *witnesspb.Kept, node string) *witnesspb.Suspicion {
	for _, s := range k.GetSuspicions() {
		if s.GetNode() == node {
			return s
		}
	}
	return nil
}

// see remembers who asked. What has to be forgotten for want of room counts as
// if it had just been acknowledged when it was (W7).
func (p *Point) see(now time.Duration, r *witnesspb.Request, renewed bool) {
	id := incarnation{r.GetNode(), r.GetRaftId()}
	s, known := p.seen[id]
	if !known && len(p.seen) >= maxSeen {
		oldest := id
		for _, other := range p.order() {
			if o := p.seen[other]; oldest == id || o.at < p.seen[oldest].at {
				oldest = other
			}
		}
		if o := p.seen[oldest]; o.renews {
			p.since = max(p.since, o.renewed)
		}
		delete(p.seen, oldest)
	}
	s.at = now
	if renewed {
		s.renewed, s.renews = now, true
	}
	p.seen[id] = s
}

func (p *Point) look(now time.Duration, k *witnesspb.Kept) *witnesspb.Looked {
	l := &witnesspb.Looked{}
	for _, id := range p.order() {
		s := suspicion(k, id.node)
		l.Seen = append(l.Seen, &witnesspb.Seen{
			Node: id.node, RaftId: id.raftID, Age: durationpb.New(max(0, now-p.seen[id].at)),
			Suspected: s != nil && id.raftID <= s.GetRaftId(),
		})
	}
	return l
}

// order of names, for all that can be seen of the map.
func (p *Point) order() []incarnation {
	var ids []incarnation
	for id := range p.seen {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b incarnation) int {
		return cmp.Or(strings.Compare(a.node, b.node), cmp.Compare(a.raftID, b.raftID))
	})
	return ids
}

func rejected(k *witnesspb.Kept) *witnesspb.Reply {
	return &witnesspb.Reply{Body: &witnesspb.Reply_Rejected{Rejected: &witnesspb.Rejected{Promised: proto.CloneOf(k.GetPromised())}}}
}

func refuse(k *witnesspb.Kept, reason witnesspb.Refused_Reason, message string) *witnesspb.Reply {
	return &witnesspb.Reply{Sequence: k.GetSequence(), Body: &witnesspb.Reply_Refused{Refused: &witnesspb.Refused{Reason: reason, Message: message}}}
}
