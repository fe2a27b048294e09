package logstore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Every value is one record:
//
//	0  4  CRC-32C, little-endian, over the key and the record from byte 4 on
//	4  1  kind
//	5  1  format
//	6  -  payload
//
// The key is part of the sum, so that a record that has strayed to another key
// is noticed. Retired kinds and formats are not used again.
const (
	kindOwner        = 1
	kindTail         = 2
	kindSnapshotMeta = 3
	kindSnapshotData = 4
	kindEntry        = 5

	recordFormat = 1
	recordHeader = 6
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sealRecord(key []byte, kind byte, payload []byte) []byte {
	r := make([]byte, recordHeader, recordHeader+len(payload))
	r[4], r[5] = kind, recordFormat
	r = append(r, payload...)
	binary.LittleEndian.PutUint32(r, recordSum(key, r))
	return r
}

func recordSum(key, record []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, record[4:])
}

// openRecord checks length, sum, format and kind, in this order. The payload
// is a part of r.
func openRecord(key []byte, kind byte, r []byte) ([]byte, error) {
	switch {
	case len(r) < recordHeader:
		return nil, damaged("record %q has %d bytes, at least %d expected", key, len(r), recordHeader)
	case binary.LittleEndian.Uint32(r) != recordSum(key, r):
		return nil, damaged("checksum of record %q is wrong", key)
	case r[5] > recordFormat:
		return nil, fmt.Errorf("%w: record %q has format %d, this version knows up to %d", ErrNewer, key, r[5], recordFormat)
	case r[5] == 0:
		return nil, damaged("record %q has format 0", key)
	case r[4] != kind:
		return nil, damaged("record %q is of kind %d, not %d", key, r[4], kind)
	}
	return r[recordHeader:], nil
}

// tail says what the log must contain, so that lost entries are noticed.
type tail struct {
	term, vote, commit uint64
	// Last index and its term, of the log or else of the snapshot; 0: neither.
	last, lastTerm uint64
	// Index of the snapshot, 0: none.
	snapshot uint64
}

func (t tail) encode() []byte {
	var b []byte
	for _, v := range []uint64{t.term, t.vote, t.commit, t.last, t.lastTerm, t.snapshot} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func decodeTail(b []byte) (tail, error) {
	if len(b) != 48 {
		return tail{}, damaged("record %q has a payload of %d bytes, not 48", keyTail, len(b))
	}
	u := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	return tail{term: u(0), vote: u(1), commit: u(2), last: u(3), lastTerm: u(4), snapshot: u(5)}, nil
}

func encodeOwner(o Owner, raftID uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, raftID)
	for _, s := range []string{o.ClusterUUID, o.Node} {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	return b
}

func decodeOwner(b []byte) (o Owner, raftID uint64, err error) {
	short := damaged("record %q is incomplete", keyOwner)
	if len(b) < 8 {
		return o, 0, short
	}
	raftID, b = binary.LittleEndian.Uint64(b), b[8:]
	for _, s := range []*string{&o.ClusterUUID, &o.Node} {
		if len(b) < 2 {
			return o, 0, short
		}
		n := int(binary.LittleEndian.Uint16(b))
		if b = b[2:]; len(b) < n {
			return o, 0, short
		}
		*s, b = string(b[:n]), b[n:]
	}
	if len(b) != 0 {
		return o, 0, damaged("record %q has %d bytes too many", keyOwner, len(b))
	}
	return o, raftID, nil
}

func encodeEntry(e *raftpb.Entry) ([]byte, error) { return proto.Marshal(e) }

// decodeEntry of a payload that is stored under the given index.
func decodeEntry(index uint64, payload []byte) (*raftpb.Entry, error) {
	e := new(raftpb.Entry)
	if err := proto.Unmarshal(payload, e); err != nil {
		return nil, damaged("entry %d: %v", index, err)
	}
	if e.GetIndex() != index {
		return nil, damaged("entry %d says that it is entry %d", index, e.GetIndex())
	}
	return e, nil
}

// encodeSnapshotData puts the position in front, so that data can't be taken
// for that of another snapshot.
func encodeSnapshotData(s *raftpb.Snapshot) []byte {
	b := binary.LittleEndian.AppendUint64(nil, s.GetMetadata().GetIndex())
	b = binary.LittleEndian.AppendUint64(b, s.GetMetadata().GetTerm())
	return append(b, s.GetData()...)
}

func decodeSnapshot(meta, data []byte) (*raftpb.Snapshot, error) {
	m, err := decodeSnapshotMeta(meta)
	if err != nil {
		return nil, err
	}
	if len(data) < 16 {
		return nil, damaged("record %q is incomplete", keySnapshotData)
	}
	index, term := binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[8:])
	if index != m.GetIndex() || term != m.GetTerm() {
		return nil, damaged("snapshot at index %d, term %d has the data of index %d, term %d", m.GetIndex(), m.GetTerm(), index, term)
	}
	return &raftpb.Snapshot{Metadata: m, Data: append([]byte(nil), data[16:]...)}, nil
}

func decodeSnapshotMeta(meta []byte) (*raftpb.SnapshotMetadata, error) {
	m := new(raftpb.SnapshotMetadata)
	if err := proto.Unmarshal(meta, m); err != nil {
		return nil, damaged("record %q: %v", keySnapshotMeta, err)
	}
	return raftpb.EnsureSnapshotMetadata(m), nil
}

func entryKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }
