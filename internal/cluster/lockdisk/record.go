package lockdisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/lockdiskpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
)

// Version of the format that this release writes, and the only one that it reads.
const Version = 1

// What a page can be other than good, in the order in which it is checked.
var (
	// ErrEmpty: nothing was ever written here since the disk was formatted.
	ErrEmpty = errors.New("is empty")
	// ErrMagic: it is something else.
	ErrMagic = errors.New("is not a page of a lock disk")
	// ErrSum: it is damaged, or being written at this moment.
	ErrSum = errors.New("has a wrong checksum")
	// ErrNewer: another format, of a newer release.
	ErrNewer = errors.New("has a newer format")
	// ErrForeign: it is of another disk or another cluster.
	ErrForeign = errors.New("belongs to another disk or cluster")
	// ErrMisplaced: it was written for another place.
	ErrMisplaced = errors.New("belongs elsewhere on the disk")
	// ErrContents: the sum is right and the contents make no sense.
	ErrContents = errors.New("has contents that make no sense")
)

// Every page:
//
//	0     magic, by kind
//	8     version
//	12    copy
//	16    identity of the disk
//	32    its own address
//	40    by kind, zeros where nothing is said
//	4092  CRC-32C of all before
const (
	atKind = 40
	atSum  = PageSize - 4

	headerMagic = "HFLKDISK"
	slotMagic   = "HFLKSLOT"
	recordMagic = "HFLKRECD"

	atContents = 96
	// MaxContents of a record, encoded.
	MaxContents = atSum - atContents
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var le = binary.LittleEndian

func seal(magic string, disk ID, copy int, address int64, fill func(b []byte)) []byte {
	b := make([]byte, PageSize)
	putString(b, magic)
	le.PutUint32(b[8:], Version)
	le.PutUint32(b[12:], uint32(copy))
	putString(b[16:], string(disk[:]))
	le.PutUint64(b[32:], uint64(address))
	fill(b)
	le.PutUint32(b[atSum:], crc32.Checksum(b[:atSum], castagnoli))
	return b
}

func putString(b []byte, s string) { copy(b, s) }

// unseal checks all that pages have in common, except for whose disk it is of.
func unseal(b []byte, magic string, copy int, address int64) (disk ID, err error) {
	switch {
	case len(b) != PageSize:
		return ID{}, fmt.Errorf("%w: %d bytes", ErrMagic, len(b))
	case empty(b):
		return ID{}, ErrEmpty
	case string(b[:8]) != magic:
		return ID{}, ErrMagic
	case le.Uint32(b[atSum:]) != crc32.Checksum(b[:atSum], castagnoli):
		return ID{}, ErrSum
	case le.Uint32(b[8:]) != Version:
		return ID{}, fmt.Errorf("%w (%d; this release knows %d): use the release that wrote it, or a newer one", ErrNewer, le.Uint32(b[8:]), Version)
	case le.Uint64(b[32:]) != uint64(address) || le.Uint32(b[12:]) != uint32(copy):
		return ID{}, fmt.Errorf("%w: it was written for copy %d at %d", ErrMisplaced, le.Uint32(b[12:]), le.Uint64(b[32:]))
	}
	return ID(b[16:32]), nil
}

var zeros [PageSize]byte

func empty(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// A Header describes the disk.
type Header struct {
	Disk  ID
	Slots int
	// Ready: formatting it was finished.
	Ready bool
}

const (
	stateFormatting = 1
	stateReady      = 2
)

// Encode a copy.
func (h Header) Encode(copy int) []byte {
	return seal(headerMagic, h.Disk, copy, HeaderAddress(copy), func(b []byte) {
		le.PutUint32(b[atKind:], stateFormatting)
		if h.Ready {
			le.PutUint32(b[atKind:], stateReady)
		}
		le.PutUint32(b[atKind+4:], uint32(h.Slots))
	})
}

// DecodeHeader reads a copy.
func DecodeHeader(b []byte, copy int) (h Header, err error) {
	h.Disk, err = unseal(b, headerMagic, copy, HeaderAddress(copy))
	if errors.Is(err, ErrSum) && !empty(b[atKind+8:atSum]) {
		err = ErrMagic // as by a partition table, which leaves the first bytes
	}
	if err != nil {
		return Header{}, err
	}
	state, slots := le.Uint32(b[atKind:]), le.Uint32(b[atKind+4:])
	if state != stateFormatting && state != stateReady || slots < 1 || slots > MaxSlots || h.Disk == (ID{}) {
		return Header{}, ErrContents
	}
	h.Ready, h.Slots = state == stateReady, int(slots)
	return h, nil
}

// JoinHeaders makes one of the two copies. One that is damaged is made up for by
// the other, one that is something else is not: the disk has another use by now.
// Two good ones that differ are a format that was interrupted.
func JoinHeaders(a Header, errA error, b Header, errB error) (Header, error) {
	switch {
	case errA != nil && errB != nil:
		if errors.Is(errA, ErrEmpty) || errors.Is(errA, ErrMagic) {
			if !errors.Is(errB, ErrSum) && !errors.Is(errB, ErrNewer) {
				return Header{}, errors.New("it is not a lock disk: holdfast lockdisk format makes it one")
			}
			errA = errB
		}
		return Header{}, fmt.Errorf("its header %w", errA)
	case errors.Is(errA, ErrMagic) || errors.Is(errB, ErrMagic):
		return Header{}, errors.New("something else was written over its header: if it is to be a lock disk again, holdfast lockdisk format --force makes it one")
	case errA != nil:
		a = b
	case errB == nil && a != b:
		a.Ready = false
	}
	if !a.Ready {
		return a, errors.New("formatting it was interrupted: repeat holdfast lockdisk format with --force")
	}
	return a, nil
}

// EncodeSlot is a copy of the header of a slot that belongs to a cluster.
func EncodeSlot(disk, cluster ID, slot, copy int) []byte {
	return seal(slotMagic, disk, copy, SlotAddress(slot, copy), func(b []byte) {
		putString(b[atKind:], string(cluster[:]))
		le.PutUint32(b[atKind+16:], uint32(slot))
	})
}

// DecodeSlot reads a copy: whose slot it is.
func DecodeSlot(b []byte, disk ID, slot, copy int) (cluster ID, err error) {
	have, err := unseal(b, slotMagic, copy, SlotAddress(slot, copy))
	switch {
	case err != nil:
		return ID{}, err
	case have != disk:
		return ID{}, fmt.Errorf("%w: disk %v", ErrForeign, have)
	case le.Uint32(b[atKind+16:]) != uint32(slot):
		return ID{}, ErrMisplaced
	}
	if cluster = ID(b[atKind:]); cluster == (ID{}) {
		return ID{}, ErrContents
	}
	return cluster, nil
}

// A Record is what one run of one node keeps: one page in each copy of one area.
type Record struct {
	Disk, Cluster ID
	Slot          int
	Number, Area  int
	// Claim of the area: runs of a node count up.
	Claim uint64
	// Run is random.
	Run uint64
	// Sequence of what this node has written, over all its runs.
	Sequence uint64
	*lockdiskpb.Contents
}

// errTooLarge: the contents do not fit.
var errTooLarge = errors.New("lock disk: a node's record is full")

// Encode a copy.
func (r *Record) Encode(copy int) ([]byte, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.Contents)
	if err != nil || len(raw) > MaxContents {
		return nil, errors.Join(errTooLarge, err)
	}
	return seal(recordMagic, r.Disk, copy, RecordAddress(r.Slot, r.Number, r.Area, copy), func(b []byte) {
		putString(b[40:], string(r.Cluster[:]))
		le.PutUint32(b[56:], uint32(r.Slot))
		le.PutUint32(b[60:], uint32(r.Number))
		le.PutUint32(b[64:], uint32(r.Area))
		le.PutUint32(b[68:], uint32(len(raw)))
		le.PutUint64(b[72:], r.Claim)
		le.PutUint64(b[80:], r.Run)
		le.PutUint64(b[88:], r.Sequence)
		putString(b[atContents:], string(raw))
	}), nil
}

// A place of a record.
type place struct{ slot, number, area, copy int }

func (p place) address() int64 { return RecordAddress(p.slot, p.number, p.area, p.copy) }

// DecodeRecord reads the copy of a record of a cluster on a disk.
func DecodeRecord(b []byte, disk, cluster ID, slot, number, area, copy int) (*Record, error) {
	return decodeRecord(b, disk, cluster, place{slot, number, area, copy})
}

func decodeRecord(b []byte, disk, cluster ID, p place) (*Record, error) {
	have, err := unseal(b, recordMagic, p.copy, p.address())
	if err != nil {
		return nil, err
	}
	r := &Record{
		Disk: have, Cluster: ID(b[40:]), Slot: int(le.Uint32(b[56:])), Number: int(le.Uint32(b[60:])), Area: int(le.Uint32(b[64:])),
		Claim: le.Uint64(b[72:]), Run: le.Uint64(b[80:]), Sequence: le.Uint64(b[88:]), Contents: &lockdiskpb.Contents{},
	}
	n := le.Uint32(b[68:])
	switch {
	case have != disk || r.Cluster != cluster:
		return nil, fmt.Errorf("%w: disk %v, cluster %v", ErrForeign, have, r.Cluster)
	case r.Slot != p.slot || r.Number != p.number || r.Area != p.area:
		return nil, ErrMisplaced
	case n > MaxContents || r.Claim == 0 || r.Claim > maxClaim || r.Sequence == 0 || r.Sequence > maxClaim || !empty(b[atContents+n:atSum]):
		return nil, ErrContents
	}
	if err := proto.Unmarshal(b[atContents:atContents+n], r.Contents); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrContents, err)
	}
	if err := checkContents(r.Contents); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrContents, err)
	}
	return r, nil
}

// No disk gets there, and a damaged number must not end all counting.
const maxClaim = 1 << 62

func checkContents(c *lockdiskpb.Contents) error {
	// The parts that an arbiter keeps as well are held to the same rules.
	return witness.CheckKept(kept(c))
}

// newer says whether r was written later than o by the same node.
func (r *Record) newer(o *Record) bool {
	switch {
	case r == nil:
		return false
	case o == nil:
		return true
	}
	return r.Claim > o.Claim || r.Claim == o.Claim && r.Sequence > o.Sequence
}

// A Page with its place on the disk.
type Page struct {
	Address int64
	Data    []byte
}

// Formatted returns the pages that are not zero on a fresh disk.
func Formatted(disk ID, slots int) (pages []Page) {
	for c := range Copies {
		pages = append(pages, Page{HeaderAddress(c), Header{Disk: disk, Slots: slots, Ready: true}.Encode(c)})
	}
	return pages
}

// Claimed returns the pages that make a free slot that of a cluster.
func Claimed(disk, cluster ID, slot int) (pages []Page) {
	for c := range Copies {
		pages = append(pages, Page{SlotAddress(slot, c), EncodeSlot(disk, cluster, slot, c)})
	}
	return pages
}
