// Package boltfile checks the structure of a bbolt file before bbolt opens it.
//
// bbolt trusts its pages: one that points to itself ends the process, and a
// damaged meta page makes it fall back in silence to the transaction before. A
// store of promises can bear neither. The caller holds the lock of the file, and
// its files are made without a stored list of free pages (NoFreelistSync).
package boltfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The parts of bbolt's file format that its own reader trusts blindly. All
// integers are in the machine's byte order, which is little-endian everywhere
// that Holdfast runs.
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltNoFreelist = ^uint64(0)
	boltHeader     = 16
	boltMetaBytes  = 64 // up to and including the checksum
	boltElement    = 16 // of branch and of leaf pages

	boltBranch = 0x01
	boltLeaf   = 0x02
	boltMeta   = 0x04

	boltBucketFlag = 0x01
	// Deeper trees than this need more pages than fit on any disk.
	boltDepthMax = 32
)

type boltMetaPage struct {
	pageSize        uint64
	root, highWater uint64
	txid            uint64
}

// Check reads the file and checks that following its pages leads to each
// page once, stays within the file, and meets only well-formed pages.
//
// Both meta pages must be valid and of consecutive transactions. bbolt itself
// makes do with one; but the one that a damaged page leaves is the older one,
// and a store that has silently lost its last transaction breaks its promises. A crash
// can't leave a damaged one: the 80 bytes are within one sector.
func Check(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	file, err := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
	if err != nil {
		return err
	}
	return CheckBytes(file)
}

// CheckBytes is Check of a file that has been read.
func CheckBytes(file []byte) error {
	if len(file) < 4096 {
		return damaged("the file has %d bytes, at least 4096 expected", len(file))
	}
	m, err := readMeta(file, 0)
	if err != nil {
		return err
	}
	if m.pageSize < 1024 || m.pageSize > 1<<20 || m.pageSize&(m.pageSize-1) != 0 {
		return damaged("page size %d", m.pageSize)
	}
	if uint64(len(file)) < 2*m.pageSize {
		return damaged("the file has %d bytes, less than two pages", len(file))
	}
	other, err := readMeta(file, m.pageSize)
	if err != nil {
		return err
	}
	if other.pageSize != m.pageSize {
		return damaged("page sizes %d and %d", m.pageSize, other.pageSize)
	}
	if m.txid+1 != other.txid && other.txid+1 != m.txid {
		return damaged("meta pages of transactions %d and %d", m.txid, other.txid)
	}
	if other.txid > m.txid {
		m = other
	}
	if m.highWater > uint64(len(file))/m.pageSize {
		return damaged("the file has %d bytes, but %d pages of %d bytes are in use", len(file), m.highWater, m.pageSize)
	}
	w := &boltWalk{file: file, meta: m, seen: make([]bool, m.highWater)}
	return w.page(m.root, 0, keys{})
}

func readMeta(file []byte, offset uint64) (boltMetaPage, error) {
	p := file[offset:]
	if len(p) < boltHeader+boltMetaBytes {
		return boltMetaPage{}, damaged("meta page at %d is incomplete", offset)
	}
	b := p[boltHeader:]
	h := fnv.New64a()
	_, _ = h.Write(b[:56])
	le := binary.LittleEndian
	switch {
	case le.Uint32(b) != boltMagic || le.Uint32(b[4:]) != boltVersion:
		return boltMetaPage{}, damaged("meta page at %d is not one", offset)
	case le.Uint64(b[56:]) != h.Sum64():
		return boltMetaPage{}, damaged("checksum of the meta page at %d is wrong", offset)
	case le.Uint16(p[8:])&boltMeta == 0:
		return boltMetaPage{}, damaged("page at %d is not marked as a meta page", offset)
	case le.Uint64(b[32:]) != boltNoFreelist && le.Uint64(b[48:]) > 1:
		// Never written with NoFreelistSync, but made by bbolt in a new file.
		return boltMetaPage{}, damaged("unexpected list of free pages")
	}
	return boltMetaPage{pageSize: uint64(le.Uint32(b[8:])), root: le.Uint64(b[16:]), highWater: le.Uint64(b[40:]), txid: le.Uint64(b[48:])}, nil
}

type boltWalk struct {
	file []byte
	meta boltMetaPage
	seen []bool
}

// keys that may be on a page: from least, and below end where there is one.
// bbolt looks at this too, but only to panic while another goroutine still reads.
type keys struct{ least, end []byte }

func (k keys) have(key []byte) bool {
	return bytes.Compare(key, k.least) >= 0 && (k.end == nil || bytes.Compare(key, k.end) < 0)
}

// page checks a page and everything below it.
func (w *boltWalk) page(id uint64, depth int, in keys) error {
	if id < 2 || id >= w.meta.highWater {
		return damaged("a reference to page %d of %d", id, w.meta.highWater)
	}
	if depth > boltDepthMax {
		return damaged("page %d is too deep in the tree", id)
	}
	start := id * w.meta.pageSize
	overflow := uint64(binary.LittleEndian.Uint32(w.file[start+12:]))
	if overflow >= w.meta.highWater-id {
		return damaged("page %d is longer than the file", id)
	}
	if have := binary.LittleEndian.Uint64(w.file[start:]); have != id {
		return damaged("page %d says that it is page %d", id, have)
	}
	for i := id; i <= id+overflow; i++ {
		if w.seen[i] {
			return damaged("page %d is referred to twice", i)
		}
		w.seen[i] = true
	}
	return w.content(w.file[start:start+(overflow+1)*w.meta.pageSize], id, depth, in, false)
}

// content of a page, or of a small bucket that is kept inside its parent's page.
func (w *boltWalk) content(p []byte, id uint64, depth int, in keys, inline bool) error {
	flags, count := binary.LittleEndian.Uint16(p[8:]), uint64(binary.LittleEndian.Uint16(p[10:]))
	if boltHeader+count*boltElement > uint64(len(p)) {
		return damaged("page %d has %d elements", id, count)
	}
	if flags != boltLeaf && (flags != boltBranch || inline || count == 0) {
		return damaged("page %d has flags %#x and %d elements", id, flags, count)
	}
	var before []byte
	var last uint64 // child of a branch page that is checked once the key after it is known
	for i := range count {
		at := boltHeader + i*boltElement
		key, value, child, err := w.element(p, at, flags == boltLeaf)
		if err != nil {
			return damaged("page %d, element %d: %v", id, i, err)
		}
		if i > 0 && bytes.Compare(before, key) >= 0 || !in.have(key) {
			return damaged("page %d: keys are not in order", id)
		}
		switch {
		case flags == boltBranch && i > 0:
			err = w.page(last, depth+1, keys{before, key})
		case flags == boltBranch:
		case binary.LittleEndian.Uint32(p[at:])&boltBucketFlag != 0:
			err = w.bucket(value, id, depth)
		}
		if err != nil {
			return err
		}
		before, last = key, child
	}
	if flags == boltBranch {
		return w.page(last, depth+1, keys{before, in.end})
	}
	return nil
}

func (w *boltWalk) bucket(value []byte, id uint64, depth int) error {
	if len(value) < 16 {
		return damaged("page %d has a table of %d bytes", id, len(value))
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return w.page(root, depth+1, keys{})
	}
	if len(value) < 16+boltHeader {
		return damaged("page %d has a small table of %d bytes", id, len(value))
	}
	if depth > boltDepthMax {
		return damaged("page %d has tables within tables", id)
	}
	return w.content(value[16:], id, depth+1, keys{}, true)
}

// element of a page; positions count from the element itself.
func (w *boltWalk) element(p []byte, at uint64, leaf bool) (key, value []byte, child uint64, err error) {
	le, e := binary.LittleEndian, p[at:]
	var pos, keyLen, valueLen uint64
	if leaf {
		pos, keyLen, valueLen = uint64(le.Uint32(e[4:])), uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
	} else {
		pos, keyLen, child = uint64(le.Uint32(e)), uint64(le.Uint32(e[4:])), le.Uint64(e[8:])
	}
	if at+pos+keyLen+valueLen > uint64(len(p)) || keyLen == 0 {
		return nil, nil, 0, damaged("it lies outside of the page")
	}
	k := at + pos
	return p[k : k+keyLen], p[k+keyLen : k+keyLen+valueLen], child, nil
}

func damaged(format string, args ...any) error { return fmt.Errorf(format, args...) }
