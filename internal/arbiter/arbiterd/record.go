package arbiterd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"
)

// Kinds of records. Numbers retire, they are never reused.
const (
	kindSelf         = 1
	kindRegistration = 2
	kindKept         = 3
	kindToken        = 4
)

const (
	recordFormat = 1
	recordHeader = 6
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealRecord under its key: sum (4 bytes, little-endian, of the key and all that
// follows), kind, format, message.
func sealRecord(key []byte, kind byte, m proto.Message) ([]byte, error) {
	b := make([]byte, recordHeader, recordHeader+proto.Size(m))
	b[4], b[5] = kind, recordFormat
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, m)
	if err != nil {
		return nil, fmt.Errorf("arbiter: encode a record: %w", err)
	}
	binary.LittleEndian.PutUint32(b, sum(key, b[4:]))
	return b, nil
}

// openRecord into m.
func openRecord(key []byte, kind byte, b []byte, m proto.Message) error {
	switch {
	case b == nil:
		return damaged("record %x is missing", key)
	case len(b) < recordHeader:
		return damaged("record %x has %d bytes", key, len(b))
	case binary.LittleEndian.Uint32(b) != sum(key, b[4:]):
		return damaged("the sum of record %x is wrong", key)
	case b[5] > recordFormat:
		return fmt.Errorf("%w: record %x has format %d, this release knows up to %d", ErrNewer, key, b[5], recordFormat)
	case b[5] == 0 || b[4] != kind:
		return damaged("record %x is of kind %d, format %d; kind %d is expected", key, b[4], b[5], kind)
	}
	if err := proto.Unmarshal(b[recordHeader:], m); err != nil {
		return damaged("record %x: %v", key, err)
	}
	return nil
}

func sum(key, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, rest)
}

// Classes of errors of a store. The texts name the file and say what to do.
var (
	// ErrNoStore: there is no store in the directory.
	ErrNoStore = errors.New("no arbiter here")
	// ErrDamaged: the store is not what was written.
	ErrDamaged = errors.New("arbiter's store is damaged")
	// ErrNewer: it was written by a later release.
	ErrNewer = errors.New("arbiter's store has a newer format")
	// ErrInUse: another process has it open.
	ErrInUse = errors.New("arbiter's store is in use")
	// ErrCopy: the file was put here by something else than the arbiter.
	ErrCopy = errors.New("arbiter's store was copied or moved")
	// ErrWrite: something could not be written, and it is not known what is on the disk.
	ErrWrite = errors.New("arbiter's store can't be written")
)

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}
