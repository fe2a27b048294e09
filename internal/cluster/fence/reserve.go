//go:build linux

package fence

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	// ErrReservationConflict: the disk refuses because of a reservation or a key of
	// somebody else, or because the own key is not registered. It is final for this
	// registration: who was preempted has been fenced.
	ErrReservationConflict = errors.New("reservation conflict")
	// ErrNoReservations: the disk, its driver or the kernel has no persistent reservations.
	ErrNoReservations = errors.New("persistent reservations are not supported")
)

// Key is what a node registers at a disk. Its upper half is the same for all
// incarnations of all nodes of a cluster, its lower half is a raft id, so that keys of
// earlier incarnations can be told from the present one. 0 is no key.
type Key uint64

// MakeKey for an incarnation. Raft ids begin with 1 and stay far below 2³².
func MakeKey(clusterUUID string, raftID uint64) (Key, error) {
	if raftID == 0 || raftID>>32 != 0 {
		return 0, fmt.Errorf("fence: no reservation key can be made from raft id %d", raftID)
	}
	return clusterPart(clusterUUID) | Key(raftID), nil
}

func clusterPart(clusterUUID string) Key {
	sum := sha256.Sum256([]byte("holdfast reservation key v1\x00" + clusterUUID))
	// Never 0, so that a raft id alone is nobody's key.
	return Key(max(binary.BigEndian.Uint32(sum[:]), 1)) << 32
}

// RaftID in a key.
func (k Key) RaftID() uint64 { return uint64(k) & 0xffffffff }

// Of says whether k is a key of that cluster.
func (k Key) Of(clusterUUID string) bool { return k&^0xffffffff == clusterPart(clusterUUID) }

func (k Key) String() string { return fmt.Sprintf("0x%016x", uint64(k)) }

// Keys are the registrations of a disk: one per path, so that a key may stand there
// several times.
type Keys struct {
	// Generation changes with every change of the registrations.
	Generation uint32
	Keys       []Key
}

// Reservation that holds on a disk; Key 0: none.
type Reservation struct {
	Key  Key
	Type ReservationType
	// Generation as in Keys.
	Generation uint32
}

// ReservationType as SCSI and NVMe have them.
type ReservationType uint32

// Types of the kernel's interface (linux/pr.h).
const (
	WriteExclusive                 ReservationType = 1
	ExclusiveAccess                ReservationType = 2
	WriteExclusiveRegistrantsOnly  ReservationType = 3
	ExclusiveAccessRegistrantsOnly ReservationType = 4
	WriteExclusiveAllRegistrants   ReservationType = 5
	ExclusiveAccessAllRegistrants  ReservationType = 6
)

func (t ReservationType) String() string {
	names := [...]string{"none", "write exclusive", "exclusive access", "write exclusive, registrants only",
		"exclusive access, registrants only", "write exclusive, all registrants", "exclusive access, all registrants"}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Reserver fences a disk that several machines see. Registrations belong to the
// path (I_T nexus) over which they were made. The reservation is always write exclusive,
// registrants only: whoever has a key may write, everybody may read.
type Reserver interface {
	// Register own as this path's key, instead of whatever it had.
	Register(own Key) error
	// Unregister this path's key. If it held the reservation, that is gone too.
	Unregister(own Key) error
	// Reserve the disk. It is no error if own holds it already.
	Reserve(own Key) error
	// Preempt takes victim's registrations away, and its reservation over. Writes that
	// the disk has accepted before may still be executed.
	Preempt(own, victim Key) error
	// PreemptAbort also ends what victim has under way: when it returns, no write of
	// victim will reach the disk.
	PreemptAbort(own, victim Key) error
	// Release the reservation; registrations stay.
	Release(own Key) error
	// Clear takes away the reservation and all registrations.
	Clear(own Key) error
	ReadKeys() (Keys, error)
	ReadReservation() (Reservation, error)
	Close() error
}

// EpochRaiser is a disk server that fences by epochs: the other way to keep an
// evicted node from writing, for disks that are served by a node.
type EpochRaiser interface {
	// RaiseEpoch returns once epoch is durable there, requests of older epochs are
	// refused and none of them is being executed any more. An epoch that is not above
	// the present one changes nothing and is no error if it is equal.
	RaiseEpoch(ctx context.Context, epoch uint64) error
}

// FenceDisk makes sure that of the given victims no write reaches a disk any more,
// and that the disk is reserved for registrants. own must be registered. It is no error if a
// victim has no key any more; all are tried, and verified by reading the keys.
func FenceDisk(d Reserver, own Key, victims []Key) error {
	keys, err := d.ReadKeys()
	if err != nil {
		return err
	}
	has := func(k Key) bool {
		for _, one := range keys.Keys {
			if one == k {
				return true
			}
		}
		return false
	}
	if !has(own) {
		return fmt.Errorf("fence: key %v of this node is not registered: it was fenced itself, or never registered: %w", own, ErrReservationConflict)
	}
	held, err := d.ReadReservation()
	if err != nil {
		return err
	}
	if held.Key == 0 {
		if err := d.Reserve(own); err != nil {
			return err
		}
	} else if held.Type != WriteExclusiveRegistrantsOnly {
		return fmt.Errorf("fence: the disk is reserved by key %v as %v, by something else than this cluster: %w", held.Key, held.Type, ErrReservationConflict)
	}
	var errs []error
	for _, v := range victims {
		if v == own {
			return fmt.Errorf("fence: key %v is of this node itself", v)
		}
		if has(v) {
			if err := d.PreemptAbort(own, v); err != nil && !errors.Is(err, ErrReservationConflict) {
				errs = append(errs, err)
			}
		}
	}
	if keys, err = d.ReadKeys(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	if !has(own) {
		return fmt.Errorf("fence: key %v of this node is gone: another node was faster: %w", own, ErrReservationConflict)
	}
	for _, v := range victims {
		if has(v) {
			errs = append(errs, fmt.Errorf("fence: key %v is still registered", v))
		}
	}
	if held, err = d.ReadReservation(); err != nil {
		errs = append(errs, err)
	} else if held.Key == 0 || held.Type != WriteExclusiveRegistrantsOnly {
		errs = append(errs, fmt.Errorf("fence: the disk's reservation is %v of key %v after the preemption", held.Type, held.Key))
	}
	return errors.Join(errs...)
}
