package peer

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

// FuzzHello: whatever comes first on a connection is a good Hello, a refusal or an error.
func FuzzHello(f *testing.F) {
	ids, _ := identities(f, nil, "n1", "n2")
	t1, t2 := New(Options{Identity: ids["n1"]}), New(Options{Identity: ids["n2"]})
	good, err := wire.AppendFrame(nil, t1.hello())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHello(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		if t2.checkHello("n1", h) == nil && (h.GetNode() != "n1" || h.GetClusterUuid() != ids["n1"].ClusterUUID || h.GetRefused() != "") {
			t.Fatalf("accepted %v", h)
		}
		_ = t2.checkHello("n1", &peerpb.Hello{})
	})
}
