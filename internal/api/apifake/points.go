package apifake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Trial is how a node fares with a point: an answer, or that it gives none.
type Trial struct {
	Answer *v1.TryPointResponse
	Err    error
}

// PreparePoint implements api.Backend: there is a place at every point, except where Unprepared says otherwise.
func (n *Node) PreparePoint(_ context.Context, spec *v1.PointSpec, _ uint64) (*v1.CoordinationPoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.Unprepared[spec.GetName()]; err != nil {
		return nil, err
	}
	p := &v1.CoordinationPoint{Name: spec.GetName()}
	if d := spec.GetLockDisk(); d != nil {
		sum := sha256.Sum256([]byte(d.GetPath()))
		p.Kind = &v1.CoordinationPoint_LockDisk{LockDisk: &v1.LockDiskPoint{Path: d.GetPath(), Paths: d.GetPaths(), Disk: hex.EncodeToString(sum[:16]), Slot: 3}}
		return p, nil
	}
	t, err := arbiter.ParseToken(spec.GetArbiterToken())
	if err != nil {
		return nil, err
	}
	p.Kind = &v1.CoordinationPoint_Arbiter{Arbiter: &v1.ArbiterPoint{Address: t.Address, KeyFingerprint: t.FingerprintText(), Instance: t.InstanceText()}}
	return p, nil
}

// TryPoint implements api.Backend: all nodes reach all points, except where Trials ("node/point") says otherwise.
func (n *Node) TryPoint(_ context.Context, node string, q *v1.TryPointRequest) (*v1.TryPointResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if node == "" {
		node = n.local.Node
	}
	n.Tried = append(n.Tried, node+"/"+q.GetPoint().GetName())
	if t, ok := n.Trials[node+"/"+q.GetPoint().GetName()]; ok {
		return t.Answer, t.Err
	}
	return &v1.TryPointResponse{RoundTrip: durationpb.New(700 * time.Microsecond)}, nil
}

// SetPoints does what a leader does about wanted points, and lets all points be reachable.
func (n *Node) SetPoints() error {
	var err error
	n.Change(func(s *statepb.State, l *api.Local) {
		c := &statepb.Command{Format: state.Format, TimeMs: n.Now, Change: &statepb.Command_SetPoints{SetPoints: &statepb.SetPoints{BaseEpoch: s.GetView().GetEpoch(), RaftId: s.GetNextRaftId()}}}
		if r := state.Apply(s, c).Refused; r != nil {
			err = fmt.Errorf("apifake: %s", r.Message)
			return
		}
		l.Points = nil
		for _, p := range s.GetWitness().GetPoints() {
			l.Points = append(l.Points, api.PointStatus{Name: p.GetName(), Known: true, Reachable: true, For: 90 * time.Second, RoundTrip: 700 * time.Microsecond})
		}
	})
	return err
}
