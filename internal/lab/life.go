package lab

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A life is the time for which one process of the service ran, by its own
// word, which outlives it: CLOCK_MONOTONIC, which all nodes of a lab share.
// It may have run for lifeBeat longer.
type life struct {
	Node        string
	Start, Last time.Duration
}

// lifeBeat is how often a process says that it is alive.
const lifeBeat = time.Millisecond

// live records this process's life in a file of its own below dir.
func live(dir, node string) error {
	var record [16]byte // start and last word, little-endian nanoseconds
	begin := monotonic()
	binary.LittleEndian.PutUint64(record[:], uint64(begin))
	binary.LittleEndian.PutUint64(record[8:], uint64(begin))
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s.%d", node, begin)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(record[:]); err != nil {
		return err
	}
	go func() {
		for range time.Tick(lifeBeat) {
			binary.LittleEndian.PutUint64(record[8:], uint64(monotonic()))
			_, _ = f.WriteAt(record[8:], 8)
		}
	}()
	return nil
}

// lives of all processes of the service, in the order of their starts.
func (l *Lab) lives() ([]life, error) {
	var out []life
	dir := os.DirFS(livesDir(l.Dir()))
	files, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, err := fs.ReadFile(dir, f.Name())
		if err != nil {
			return nil, err
		}
		if len(b) < 16 {
			continue // it is just starting
		}
		node, _, _ := strings.Cut(f.Name(), ".")
		out = append(out, life{node, time.Duration(binary.LittleEndian.Uint64(b)), time.Duration(binary.LittleEndian.Uint64(b[8:]))})
	}
	slices.SortFunc(out, func(a, b life) int { return cmp.Compare(a.Start, b.Start) })
	return out, nil
}

func livesDir(lab string) string { return filepath.Join(lab, "lives") }

// together lists pairs of lives that overlap on two nodes.
func together(lives []life) [][2]life {
	var out [][2]life
	for i, a := range lives {
		for _, b := range lives[i+1:] {
			if a.Node != b.Node && b.Start <= a.Last+lifeBeat {
				out = append(out, [2]life{a, b})
			}
		}
	}
	return out
}
