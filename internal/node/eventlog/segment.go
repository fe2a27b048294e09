package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// The layout of a file (docs/formats/eventlog.md).
const (
	magic        = "HFevents"
	format       = 1
	headerSize   = 64
	recordHeader = 8
	// maxRecord bounds one event; a longer message is cut.
	maxRecord  = 64 << 10
	suffix     = ".events"
	numberSize = 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged marks a file whose content is not what was written.
var errDamaged = errors.New("is damaged")

func header(cluster [16]byte, first uint64) []byte {
	h := make([]byte, headerSize)
	copy(h, magic)
	binary.LittleEndian.PutUint32(h[8:], format)
	copy(h[16:], cluster[:])
	binary.LittleEndian.PutUint64(h[32:], first)
	binary.LittleEndian.PutUint32(h[60:], crc32.Checksum(h[:60], castagnoli))
	return h
}

// parseHeader returns the first number. A file of another cluster is foreign.
func parseHeader(h []byte, cluster [16]byte) (first uint64, foreign bool, err error) {
	switch {
	case len(h) < headerSize || string(h[:8]) != magic || binary.LittleEndian.Uint32(h[60:]) != crc32.Checksum(h[:60], castagnoli):
		return 0, false, errDamaged
	case binary.LittleEndian.Uint32(h[8:]) != format:
		return 0, false, fmt.Errorf("has format %d, this version knows %d", binary.LittleEndian.Uint32(h[8:]), format)
	}
	return binary.LittleEndian.Uint64(h[32:]), [16]byte(h[16:32]) != cluster, nil
}

// sum of a record: it belongs to this file, at this place.
func sum(first, number uint64, body []byte) uint32 {
	var place [20]byte
	binary.LittleEndian.PutUint64(place[:], first)
	binary.LittleEndian.PutUint64(place[8:], number)
	binary.LittleEndian.PutUint32(place[16:], uint32(len(body)))
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, body)
}

func appendRecord(b []byte, first uint64, e *v1.Event) []byte {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil || len(body) > maxRecord {
		short := proto.CloneOf(e)
		short.Message = strings.ToValidUTF8(short.Message[:min(len(short.Message), maxRecord/2)], "?") + "…"
		if body, err = proto.Marshal(short); err != nil || len(body) > maxRecord {
			body, _ = proto.Marshal(&v1.Event{Number: e.GetNumber(), TimeMs: e.GetTimeMs(), Severity: e.GetSeverity(), Message: "this event was too long to be kept"})
		}
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, sum(first, e.GetNumber(), body))
	return append(b, body...)
}

// A segment is one file. Its fields are guarded by the log.
type segment struct {
	path        string
	first, last uint64 // last < first: empty
	size        int64  // of what is usable
	minMs       int64
	maxMs       int64
	firstMs     int64
	lastMs      int64
	// damage says what is wrong behind size; torn: something is there that a crash may have left.
	damage string
	torn   bool
}

func (s *segment) count() int { return int(s.last + 1 - s.first) }

func (s *segment) add(e *v1.Event) {
	if s.count() == 0 {
		s.minMs, s.maxMs, s.firstMs = e.GetTimeMs(), e.GetTimeMs(), e.GetTimeMs()
	}
	s.lastMs = e.GetTimeMs()
	s.last, s.minMs, s.maxMs = e.GetNumber(), min(s.minMs, e.GetTimeMs()), max(s.maxMs, e.GetTimeMs())
}

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%0*d%s", numberSize, first, suffix))
}

// numberOf a file name; ok: it is one of ours.
func numberOf(name string) (first uint64, ok bool) {
	digits, ours := strings.CutSuffix(name, suffix)
	if !ours || len(digits) != numberSize {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0
}

// walk the records of a file's bytes. It returns where the usable part ends,
// and why there if it is not at the end of the file. A record that was cut off by a crash is no damage.
func walk(raw []byte, first uint64, see func(offset int64, e *v1.Event)) (end int64, err error) {
	end = headerSize
	for number := first; ; number++ {
		rest := raw[end:]
		switch {
		case len(rest) == 0:
			return end, nil
		case len(rest) < recordHeader || allZero(rest):
			return end, nil // the machine stopped in the middle of a write
		}
		length := int64(binary.LittleEndian.Uint32(rest))
		switch {
		case length > maxRecord:
			return end, fmt.Errorf("%w at byte %d: a record of %d bytes", errDamaged, end, length)
		case recordHeader+length > int64(len(rest)):
			return end, nil
		}
		body := rest[recordHeader : recordHeader+length]
		e := &v1.Event{}
		if binary.LittleEndian.Uint32(rest[4:]) != sum(first, number, body) || proto.Unmarshal(body, e) != nil || e.GetNumber() != number {
			if recordHeader+length == int64(len(rest)) {
				return end, nil // the last one, written in part
			}
			return end, fmt.Errorf("%w at byte %d, where event #%d should be", errDamaged, end, number)
		}
		if see != nil {
			see(end, e)
		}
		end += recordHeader + length
	}
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// load a segment from its file. foreign: it is of another cluster.
func load(path string, cluster [16]byte) (s *segment, foreign bool, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, false, err
	}
	named, _ := numberOf(filepath.Base(path))
	if len(raw) < headerSize { // a crash right after it was made
		return &segment{path: path, first: named, last: named - 1, torn: true}, false, nil
	}
	first, foreign, err := parseHeader(raw, cluster)
	if err == nil && first != named {
		err = errDamaged
	}
	s = &segment{path: path, first: named, last: named - 1, size: headerSize}
	if err != nil || foreign {
		s.size = 0
		if err != nil {
			s.damage = err.Error()
		}
		return s, foreign, nil
	}
	end, err := walk(raw, first, func(_ int64, e *v1.Event) { s.add(e) })
	s.size, s.torn = end, end < int64(len(raw))
	if err != nil {
		s.damage = err.Error()
	}
	return s, false, nil
}
