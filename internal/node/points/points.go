//go:build linux

// Package points connects a node to coordination points, and asks them who else
// has been there lately, for administrators who are about to override what
// protects from a split brain.
//
// The caller owes it an identity whose files stay where they are while a point
// is open, and closes what it opened.
//
//	O1  asking changes nothing that binds anybody: a look promises and acknowledges nothing
//	O2  a point that could not be asked is reported as that, never as one that has seen nobody
package points

import (
	"context"
	"fmt"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/device"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Point is a coordination point: an arbiter, or a slot on a lock disk. Do may
// be called from several goroutines at once.
type Point interface {
	Do(ctx context.Context, r *witnesspb.Request) (*witnesspb.Reply, error)
	Close() error
}

// Open a point for the node with that number and raft id. Nothing is sent yet.
func Open(cp *v1.CoordinationPoint, id *identity.Identity, number uint32, raftID uint64) (Point, error) {
	switch k := cp.GetKind().(type) {
	case *v1.CoordinationPoint_Arbiter:
		return arbiter.Dial(k.Arbiter, id.PeerTLS()), nil
	case *v1.CoordinationPoint_LockDisk:
		return OpenDisk(k.LockDisk, id, number, raftID)
	}
	return nil, fmt.Errorf("coordination point %s is of a kind that this version does not know: upgrade this node", cp.GetName())
}

// DiskPath of a lock disk on a node.
func DiskPath(d *v1.LockDiskPoint, node string) string {
	if own := d.GetPaths()[node]; own != "" {
		return own
	}
	return d.GetPath()
}

// OpenDisk opens a node's block on a lock disk.
func OpenDisk(d *v1.LockDiskPoint, id *identity.Identity, number uint32, raftID uint64) (*device.Disk, error) {
	disk, err := lockdisk.ParseID(d.GetDisk())
	if err != nil {
		return nil, err
	}
	cluster, err := lockdisk.ParseID(id.ClusterUUID)
	if err != nil {
		return nil, err
	}
	return device.Open(DiskPath(d, id.Node), lockdisk.Config{Disk: disk, Cluster: cluster, Slot: int(d.GetSlot()), Number: number, Node: id.Node, RaftID: raftID})
}

// Sign of life of a node at a point.
type Sign struct {
	Point, Node string
	// How long ago.
	Age time.Duration
}

// Unasked is a point that did not say who has been there.
type Unasked struct {
	Point string
	Err   error
}

const (
	// lookEvery is how often a lock disk is read while it is watched.
	lookEvery = 250 * time.Millisecond
	// diskWatch is how long a lock disk is watched: a node that lives gives a sign there more often.
	diskWatch = lockdisk.SignOfLife + 2*time.Second
	// ArbiterMemory is how old a sign of life at an arbiter may be and still count: a
	// cluster that is well asks its arbiters about once a minute.
	ArbiterMemory = 150 * time.Second
	// answerLimit is how long a point may take for one answer.
	answerLimit = 5 * time.Second
)

// OthersAlive asks all points that a node's newest state names, at the same
// time, who else has been there lately; memory is how old a sign at an arbiter
// may be. Lock disks are watched for some seconds.
func OthersAlive(ctx context.Context, id *identity.Identity, s *statepb.State, memory time.Duration) (signs []Sign, unasked []Unasked) {
	type answer struct {
		signs []Sign
		err   error
	}
	points := s.GetWitness().GetPoints()
	answers := make([]answer, len(points))
	done := make(chan int)
	for i, cp := range points {
		go func() {
			answers[i].signs, answers[i].err = othersAt(ctx, cp, id, s, memory)
			done <- i
		}()
	}
	for range points {
		<-done
	}
	for i, a := range answers {
		if signs = append(signs, a.signs...); a.err != nil {
			unasked = append(unasked, Unasked{points[i].GetName(), a.err})
		}
	}
	return signs, unasked
}

// othersAt one point. A disk that hangs is given up by device.Disk when its time is over.
func othersAt(ctx context.Context, cp *v1.CoordinationPoint, id *identity.Identity, s *statepb.State, memory time.Duration) ([]Sign, error) {
	raftID := state.MemberOf(s, id.Node).GetRaftId()
	p, err := Open(cp, id, s.GetNodeStatus()[id.Node].GetNumber(), raftID)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	look := &witnesspb.Request{Cluster: id.ClusterUUID, Register: s.GetWitness().GetRaftId(), Node: id.Node, RaftId: raftID,
		Body: &witnesspb.Request_Look{Look: &witnesspb.Look{}}}
	until := time.Now()
	if cp.GetLockDisk() != nil {
		memory, until = diskWatch, until.Add(diskWatch)
	}
	for {
		seen, err := lookOnce(ctx, p, look)
		if err != nil {
			return nil, err
		}
		var signs []Sign
		for _, one := range seen {
			if age := one.GetAge().AsDuration(); one.GetNode() != id.Node && age < memory {
				signs = append(signs, Sign{Point: cp.GetName(), Node: one.GetNode(), Age: age})
			}
		}
		if len(signs) > 0 || !time.Now().Before(until) {
			return signs, nil
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func lookOnce(ctx context.Context, p Point, look *witnesspb.Request) ([]*witnesspb.Seen, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	reply, err := p.Do(ctx, look)
	switch {
	case err != nil:
		return nil, err
	case reply.GetRefused() != nil:
		return nil, fmt.Errorf("it refuses: %s", reply.GetRefused().GetMessage())
	case reply.GetLooked() == nil:
		return nil, fmt.Errorf("it answers with something else than a look: %T", reply.GetBody())
	}
	return reply.GetLooked().GetSeen(), nil
}
