package lockdisk

import (
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	// PageSize of everything that is read and written, and its alignment. A
	// sector of the disk is not larger.
	PageSize = 4096
	// MaxNodes of a cluster: blocks of a slot, numbered from 1.
	MaxNodes = 64
	// Areas of a block. The runs of a node take them in turn.
	Areas = 4
	// Copies of every page.
	Copies = 2
	// MaxSlots of a disk: clusters that can share it.
	MaxSlots = 1024

	headBytes = 1 << 20
	// Pages of one copy of a slot: its header, then area by area the blocks.
	halfPages = 1 + Areas*MaxNodes
	slotBytes = Copies * halfPages * PageSize
)

// Size in bytes that a disk with so many slots needs.
func Size(slots int) int64 { return headBytes + int64(slots)*slotBytes }

// HeaderAddress is where a copy of the disk's header is, in bytes from the
// start. All addresses are.
func HeaderAddress(copy int) int64 { return int64(copy) * headBytes / Copies }

// SlotAddress is where a copy of a slot's header is.
func SlotAddress(slot, copy int) int64 {
	return headBytes + int64(slot)*slotBytes + int64(copy)*halfPages*PageSize
}

// RecordAddress is where a copy of a record is. Numbers of nodes begin at 1.
func RecordAddress(slot, number, area, copy int) int64 {
	return SlotAddress(slot, copy) + int64(1+area*MaxNodes+number-1)*PageSize
}

// An ID is 16 random bytes: of a disk, or of a cluster.
type ID [16]byte

// ParseID reads 32 hexadecimal digits; dashes between them are left out.
func ParseID(s string) (id ID, err error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != len(id) || ID(raw) == (ID{}) {
		return ID{}, fmt.Errorf("lock disk: %q is not an identity: 32 hexadecimal digits, not all of them zero", s)
	}
	return ID(raw), nil
}

func (id ID) String() string { return hex.EncodeToString(id[:]) }
