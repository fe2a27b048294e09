package lockdisk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/lockdiskpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

func goldenRecord() *Record {
	return &Record{
		Disk: testDisk, Cluster: testCluster, Slot: 2, Number: 3, Area: 1, Claim: 6, Run: 0x1122334455667788, Sequence: 41,
		Contents: &lockdiskpb.Contents{
			Node: "n3", RaftId: 9, Register: 7, Promised: &witnesspb.Ballot{Counter: 5, Proposer: 8}, Accepted: &witnesspb.Ballot{Counter: 4, Proposer: 8},
			Value: &witnesspb.Register{Term: 2, Vote: 9, LastIndex: 3, Commit: 3, Runs: []*witnesspb.Run{{FirstIndex: 1, Term: 1}}}, Counter: 12, Stays: 1,
			Suspicions: []*witnesspb.Suspicion{{Node: "n1", RaftId: 4, Stays: 1}}, Nonce: []byte{0xab},
		},
	}
}

// dump of the lines of a page that are not zero.
func dump(b []byte) string {
	var s strings.Builder
	for at := 0; at < len(b); at += 16 {
		if !empty(b[at : at+16]) {
			fmt.Fprintf(&s, "%04x  %s\n", at, hex.EncodeToString(b[at:at+16]))
		}
	}
	return s.String()
}

// TestGolden: the bytes on disks of old are read for good.
func TestGolden(t *testing.T) {
	record, err := goldenRecord().Encode(1)
	if err != nil {
		t.Fatal(err)
	}
	for name, page := range map[string][]byte{
		"header":     Header{Disk: testDisk, Slots: 8, Ready: true}.Encode(1),
		"formatting": Header{Disk: testDisk, Slots: 8}.Encode(0),
		"slot":       EncodeSlot(testDisk, testCluster, 2, 1),
		"record":     record,
	} {
		file := filepath.Join("testdata", name+".txt")
		want, err := os.ReadFile(file)
		if os.Getenv("REWRITE") != "" {
			err = os.WriteFile(file, []byte(dump(page)), 0o644)
			want = []byte(dump(page))
		}
		if err != nil {
			t.Fatal(err)
		}
		if dump(page) != string(want) {
			t.Errorf("%s:\n%swant:\n%s", name, dump(page), want)
		}
	}
	back, err := DecodeRecord(record, testDisk, testCluster, 2, 3, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if want := goldenRecord(); !same(back, want) || !proto.Equal(back.Contents, want.Contents) || back.Number != 3 || back.Area != 1 {
		t.Errorf("read back: %v", back)
	}
	if HeaderAddress(1) != 524288 || SlotAddress(0, 0) != 1048576 || SlotAddress(2, 1) != 6311936 || RecordAddress(2, 3, 1, 1) != 6586368 ||
		RecordAddress(0, MaxNodes, Areas-1, 1)+PageSize != SlotAddress(1, 0) || Size(1) != SlotAddress(1, 0) {
		t.Error("places on the disk have changed")
	}
}

// resum makes a changed page valid again, as far as the sum goes.
func resum(b []byte) []byte {
	le.PutUint32(b[atSum:], crc32.Checksum(b[:atSum], castagnoli))
	return b
}

// TestDecodeErrors: each check has its error, and comes before the next one.
func TestDecodeErrors(t *testing.T) {
	good, err := goldenRecord().Encode(0)
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for name, tt := range map[string]struct {
		page []byte
		want error
	}{
		"empty":       {make([]byte, PageSize), ErrEmpty},
		"short":       {good[:512], ErrMagic},
		"magic":       {change(0, 'X'), ErrMagic},
		"torn":        {append(bytes.Clone(good[:512]), make([]byte, PageSize-512)...), ErrSum},
		"one bit":     {change(3000, 1), ErrSum},
		"newer":       {resum(change(8, 2)), ErrNewer},
		"copy":        {resum(change(12, 1)), ErrMisplaced},
		"address":     {resum(change(33, 1)), ErrMisplaced},
		"disk":        {resum(change(16, 77)), ErrForeign},
		"cluster":     {resum(change(40, 77)), ErrForeign},
		"slot":        {resum(change(56, 1)), ErrMisplaced},
		"number":      {resum(change(60, 4)), ErrMisplaced},
		"area":        {resum(change(64, 0)), ErrMisplaced},
		"length":      {resum(change(69, 0xff)), ErrContents},
		"too long":    {resum(change(68, 1)), ErrContents},
		"no claim":    {resum(change(72, 0)), ErrContents},
		"claim":       {resum(change(79, 0x80)), ErrContents},
		"no sequence": {resum(change(88, 0)), ErrContents},
		"protobuf":    {resum(change(atContents, 0xff)), ErrContents},
	} {
		if r, err := DecodeRecord(tt.page, testDisk, testCluster, 2, 3, 1, 0); !errors.Is(err, tt.want) || r != nil {
			t.Errorf("%s: %v, %v; want %v", name, r, err, tt.want)
		}
	}
	senseless := goldenRecord()
	senseless.Accepted = &witnesspb.Ballot{Counter: 99}
	b, err := senseless.Encode(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeRecord(b, testDisk, testCluster, 2, 3, 1, 0); !errors.Is(err, ErrContents) {
		t.Errorf("accepted above promised: %v", err)
	}
}

func TestHeaders(t *testing.T) {
	ready, begun := Header{Disk: testDisk, Slots: 2, Ready: true}, Header{Disk: testDisk, Slots: 2}
	rotten := ready.Encode(0)
	rotten[20] ^= 1
	table := ready.Encode(0)
	table[510], table[511] = 0x55, 0xaa
	other := Header{Disk: testCluster, Slots: 2, Ready: true}
	zero := make([]byte, PageSize)
	for name, tt := range map[string]struct {
		a, b []byte
		want string
	}{
		"good":              {ready.Encode(0), ready.Encode(1), ""},
		"one is rotten":     {rotten, ready.Encode(1), ""},
		"one is empty":      {ready.Encode(0), zero, ""},
		"none":              {zero, zero, "not a lock disk"},
		"empty and damaged": {zero, resum(append(append(bytes.Clone(ready.Encode(1)[:8]), 9), ready.Encode(1)[9:]...)), "newer format"},
		"something else":    {bytes.Repeat([]byte("x"), PageSize), bytes.Repeat([]byte("x"), PageSize), "not a lock disk"},
		"both rotten":       {rotten, resum(append(bytes.Clone(ready.Encode(1)[:40]), make([]byte, PageSize-40)...)), "its header"},
		"partition table":   {table, ready.Encode(1), "something else was written over its header"},
		"file system":       {bytes.Repeat([]byte("x"), PageSize), ready.Encode(1), "something else was written over its header"},
		"half formatted":    {begun.Encode(0), begun.Encode(1), "interrupted"},
		"at the last step":  {ready.Encode(0), begun.Encode(1), "interrupted"},
		"formatted over it": {other.Encode(0), ready.Encode(1), "interrupted"},
		"newer":             {resum(append(append(bytes.Clone(ready.Encode(0)[:8]), 9), ready.Encode(0)[9:]...)), rotten, "newer format"},
	} {
		read := func(at int64) ([]byte, error) {
			if at == 0 {
				return tt.a, nil
			}
			return tt.b, nil
		}
		h, _, err := ReadHeader(read)
		if tt.want == "" && (err != nil || h != ready) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, %v; want %q", name, h, err, tt.want)
		}
	}
}

// TestCapacity: a cluster of ordinary names fits, whoever suspects whom; what does not fit is an error.
func TestCapacity(t *testing.T) {
	c := &lockdiskpb.Contents{Node: strings.Repeat("n", 20), Register: 1 << 20, RaftId: 1 << 20, Value: &witnesspb.Register{Term: 1 << 30, LastIndex: 1 << 40, Commit: 1}}
	for i := range uint64(16) {
		c.Value.Runs = append(c.Value.Runs, &witnesspb.Run{FirstIndex: i<<30 + 1, Term: i<<20 + 1})
	}
	c.Promised, c.Accepted = &witnesspb.Ballot{Counter: 1 << 40, Proposer: 1 << 63}, &witnesspb.Ballot{Counter: 1 << 40, Proposer: 1 << 63}
	r := goldenRecord()
	r.Contents = c
	for n := range 64 {
		var ok bool
		if c.Suspicions, ok = witness.AddSuspicion(c.Suspicions, &witnesspb.Suspect{About: fmt.Sprintf("%s-%02d", strings.Repeat("n", 17), n), AboutRaftId: 1 << 20, Stays: 1 << 20}); !ok {
			t.Fatal("full")
		}
	}
	if _, err := r.Encode(0); err != nil {
		t.Errorf("64 names of 20 letters: %v", err)
	}
	c.Nonce = make([]byte, MaxContents)
	if _, err := r.Encode(0); !errors.Is(err, errTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

// FuzzDecode: no bytes do harm, and what is taken for a record is one.
func FuzzDecode(f *testing.F) {
	good, err := goldenRecord().Encode(1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add(good[:100], true)
	f.Add(Header{Disk: testDisk, Slots: 8, Ready: true}.Encode(1), true)
	f.Add(EncodeSlot(testDisk, testCluster, 2, 1), true)
	f.Fuzz(func(t *testing.T, b []byte, sum bool) {
		if sum { // or hardly any input would get past it
			b = append(b, make([]byte, PageSize)...)[:PageSize]
			resum(b)
		}
		if r, err := DecodeRecord(b, testDisk, testCluster, 2, 3, 1, 1); err == nil {
			again, err := r.Encode(1)
			if err != nil && !errors.Is(err, errTooLarge) {
				t.Fatal(err)
			}
			if err == nil {
				back, err := DecodeRecord(again, testDisk, testCluster, 2, 3, 1, 1)
				if err != nil || !same(r, back) || !proto.Equal(r.Contents, back.Contents) {
					t.Fatalf("%v is read back as %v, %v", r, back, err)
				}
			}
		}
		if h, err := DecodeHeader(b, 1); err == nil && (h.Slots < 1 || h.Slots > MaxSlots) {
			t.Fatal(h)
		}
		if id, err := DecodeSlot(b, testDisk, 2, 1); err == nil && id == (ID{}) {
			t.Fatal("no cluster")
		}
	})
}

func TestParseID(t *testing.T) {
	for _, s := range []string{"00112233445566778899aabbccddeeff", "00112233-4455-6677-8899-aabbccddeeff"} {
		id, err := ParseID(s)
		if err != nil || id.String() != strings.ReplaceAll(s, "-", "") {
			t.Errorf("%s: %v, %v", s, id, err)
		}
	}
	for _, s := range []string{"", "0011", "x0112233445566778899aabbccddeeff", strings.Repeat("0", 32)} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
