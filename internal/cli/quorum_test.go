package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/api/apifake"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// arbiterToken of the arbiter with a number.
func arbiterToken(n byte) string {
	return arbiter.Token{Address: fmt.Sprintf("192.0.2.%d:7947", n), Fingerprint: [arbiter.FingerprintSize]byte{n}, Instance: [arbiter.InstanceSize]byte{n},
		Expires: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}.String()
}

// shorten leaves the tokens out of what is compared.
func shorten(s string) string {
	for n := range byte(10) {
		s = strings.ReplaceAll(s, arbiterToken(n), fmt.Sprintf("TOKEN%d", n))
	}
	return s
}

// settling lets a site take wanted points into use at once.
func settling(t *testing.T, s *site) {
	s.Submitted = func(c *statepb.Command) {
		if c.GetWantPoints() != nil {
			if err := s.SetPoints(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestQuorum(t *testing.T) {
	s := newSite(t)
	settling(t, s)
	var b strings.Builder
	do := func(args ...string) {
		t.Helper()
		fmt.Fprintf(&b, "$ holdfast %s\n%s\n", shorten(strings.Join(args, " ")), shorten(s.run(t, args...)))
	}
	do("quorum", "show")
	do("quorum", "add", "arb1", "--arbiter-token", arbiterToken(1))
	do("quorum", "add", "arb1", "--arbiter-token", arbiterToken(1))
	do("quorum", "show")
	s.Change(func(st *statepb.State, l *api.Local) {
		st.View.Members = st.View.Members[:2]
		st.NodeStatus["n3"].Phase = statepb.NodePhase_NODE_PHASE_DOWN
		st.Witness.Votes = true
	})
	do("quorum", "show")
	do("quorum", "add", "arb2", "--arbiter-token", arbiterToken(2))
	do("quorum", "add", "--point", "arb2=arbiter:"+arbiterToken(2), "--point", "lock=disk:/dev/mapper/lock", "--path", "lock:n2=/dev/mapper/lock2")
	s.Change(func(st *statepb.State, l *api.Local) {
		l.Points = slices.Clone(l.Points)
		l.Points[0] = api.PointStatus{Name: "arb1", Known: true, For: 75 * time.Second, Error: "192.0.2.1:7947: connection refused"}
		l.Points[1] = api.PointStatus{Name: "arb2", Known: true, Reachable: true, Abstains: true, For: time.Hour, Error: "it was restored"}
		l.Points[2].NotSeen = []string{"n2"}
	})
	do("quorum", "show")
	do("quorum", "show", "-o", "json")
	if got := s.run(t, "__complete", "--api", s.socket, "quorum", "remove", "arb1", ""); !strings.HasPrefix(got, "arb2\nlock\n") {
		t.Errorf("completion: %s", got)
	}
	do("status")
	do("quorum", "replace", "arb1", "arb1", "--arbiter-token", arbiterToken(7))
	do("quorum", "remove", "arb2")
	do("quorum", "remove", "arb2", "lock")
	do("quorum", "remove", "arb2", "lock")
	do("quorum", "remove", "arb1", "-o", "yaml")
	do("quorum", "show")
	s.Submitted = nil
	do("quorum", "add", "lock", "--lock-disk", "/dev/mapper/lock", "--no-wait")
	do("quorum", "add", "lock", "--lock-disk", "/dev/mapper/lock", "--timeout", "1s")
	do("quorum", "add", "arb9", "--arbiter-token", arbiterToken(9))
	do("quorum", "show")
	do("cluster", "set", "--preferred-fencing", "node-weight", "--preferred-fencing-delay", "300ms")
	do("cluster", "show")
	do("cluster", "set", "--preferred-fencing", "site", "--preferred-site", "north")
	do("cluster", "set", "--preferred-fencing", "none", "--preferred-fencing-delay", "default", "--preferred-site", "none")
	golden(t, "quorum", b.String())
}

func TestQuorumRefusals(t *testing.T) {
	s := newSite(t)
	settling(t, s)
	s.Unprepared = map[string]error{"used": errors.New("token is not accepted: it was used by another cluster")}
	s.Trials = map[string]apifake.Trial{
		"n2/lock": {Answer: &v1.TryPointResponse{Problem: "/dev/mapper/lock is another disk than on n1", Other: true}},
		"n3/lock": {Err: errors.New("10.0.1.3:7946: connection refused")},
		"n3/arb1": {Err: errors.New("10.0.1.3:7946: connection refused")},
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(arbiterToken(1)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, c := range []string{
		"quorum", "quorum sho", "quorum add", "quorum add arb1", "quorum add arb1 --arbiter-token TOKEN1 --lock-disk /dev/sdb", "quorum add arb1 --arbiter-token hfa-xyz",
		"quorum add lock --lock-disk dev/sdb --path n9=/dev/sdb", "quorum add lock --lock-disk /dev/sdb --path /dev/sdb", "quorum add arb1 --arbiter-token TOKEN1 --path n1=/dev/sdb",
		"quorum add arb1 --arbiter-token @/nowhere/token", "quorum add --point arb1=TOKEN1", "quorum add --point lock=disk:/dev/sdb --path n1=/dev/sdc",
		"quorum add arb1 --point arb1=arbiter:TOKEN1", "quorum add --point a=arbiter:TOKEN1 --point b=arbiter:TOKEN2", "quorum add used --arbiter-token TOKEN1",
		"quorum add lock --lock-disk /dev/mapper/lock", "quorum add lock --lock-disk /dev/mapper/lock --force", "quorum remove arb1", "quorum replace arb1",
		"quorum replace arb1 arb2 --arbiter-token TOKEN2", "quorum add arb1 --arbiter-token @FILE -o json", "quorum add arb1 --arbiter-token @FILE --force",
		"cluster set --preferred-fencing weight", "cluster set --preferred-fencing-delay 5",
	} {
		words := strings.Fields(strings.NewReplacer("TOKEN1", arbiterToken(1), "TOKEN2", arbiterToken(2), "FILE", file).Replace(c))
		fmt.Fprintf(&b, "$ holdfast %s\n%s\n", c, shorten(s.run(t, words...)))
	}
	golden(t, "quorumrefusals", b.String())
}
