package lockdisk

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/lockdiskpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Reader returns the page at an address.
type Reader func(address int64) ([]byte, error)

// ReadHeader of a disk. Problems are copies that can't be used.
func ReadHeader(read Reader) (h Header, problems []string, err error) {
	var hs [Copies]head
	for c := range Copies {
		b, err := read(HeaderAddress(c))
		if err == nil {
			hs[c].header, err = DecodeHeader(b, c)
		}
		if hs[c].err = err; err != nil {
			problems = append(problems, fmt.Sprintf("copy %d of the disk's header: %v", c, err))
		}
	}
	h, err = JoinHeaders(hs[0].header, hs[0].err, hs[1].header, hs[1].err)
	return h, problems, err
}

// ReadOwner of a slot; see SlotOwner.
func ReadOwner(read Reader, disk ID, slot int) (ID, error) {
	var os [Copies]owner
	for c := range Copies {
		b, err := read(SlotAddress(slot, c))
		if err == nil {
			os[c].cluster, err = DecodeSlot(b, disk, slot, c)
		}
		os[c].err = err
	}
	return SlotOwner(os[0].cluster, os[0].err, os[1].cluster, os[1].err)
}

// ViewSlot describes a slot; nil: it is free.
func ViewSlot(read Reader, disk ID, slot int) *lockdiskpb.SlotView {
	cluster, err := ReadOwner(read, disk, slot)
	if errors.Is(err, ErrEmpty) {
		return nil
	}
	v := &lockdiskpb.SlotView{Slot: uint32(slot)}
	if err != nil {
		v.Problems = append(v.Problems, err.Error())
		return v
	}
	v.Cluster = cluster.String()
	for n := 1; n <= MaxNodes; n++ {
		if node := viewNode(read, disk, cluster, slot, n); node != nil {
			v.Nodes = append(v.Nodes, node)
		}
	}
	return v
}

func viewNode(read Reader, disk, cluster ID, slot, n int) *lockdiskpb.NodeView {
	v := &lockdiskpb.NodeView{Number: uint32(n)}
	var newest *Record
	all := &lockdiskpb.Contents{}
	for a := range Areas {
		var best *Record
		for c := range Copies {
			b, err := read(RecordAddress(slot, n, a, c))
			var r *Record
			if err == nil {
				r, err = DecodeRecord(b, disk, cluster, slot, n, a, c)
			}
			if err != nil && !errors.Is(err, ErrEmpty) {
				v.Problems = append(v.Problems, fmt.Sprintf("area %d, copy %d %v", a, c, err))
			}
			if r.newer(best) {
				best = r
			}
		}
		if best != nil {
			carry(all, best.Contents)
		}
		if best.newer(newest) {
			newest = best
		}
	}
	switch {
	case newest != nil:
		v.Node, v.RaftId, v.Claim, v.Run, v.Sequence, v.Nonce = newest.GetNode(), newest.GetRaftId(), newest.Claim, fmt.Sprintf("%016x", newest.Run), newest.Sequence, hex.EncodeToString(newest.GetNonce())
	case len(v.Problems) == 0:
		return nil
	}
	v.Register, v.Promised, v.Accepted = all.GetRegister(), ballot(all.GetPromised()), ballot(all.GetAccepted())
	v.Term, v.Vote = all.GetValue().GetTerm(), all.GetValue().GetVote()
	v.Counter, v.Stays, v.Abstains = all.GetCounter(), newest.stays(), all.GetAbstains()
	for _, s := range all.GetSuspicions() {
		v.Suspects = append(v.Suspects, s.GetNode())
	}
	return v
}

func (r *Record) stays() uint64 {
	if r == nil {
		return 0
	}
	return r.GetStays()
}

func ballot(b *witnesspb.Ballot) string {
	if witness.Compare(b, nil) == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%x", b.GetCounter(), b.GetProposer())
}
