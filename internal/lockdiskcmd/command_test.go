package lockdiskcmd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cli"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/device"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

func run(t *testing.T, args ...string) (out, err string, status int) {
	t.Helper()
	var o, e strings.Builder
	status = cli.Main(t.Context(), cli.Streams{In: strings.NewReader(""), Out: &o, Err: &e}, append([]string{"lockdisk"}, args...), Command())
	return o.String(), e.String(), status
}

// used is a lock disk on which node n1 has done everything that show tells of.
func used(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lock.img")
	if _, said, status := run(t, "format", path, "--create", "--slots", "2"); status != 0 || !strings.Contains(said, "for 2 clusters") || !strings.Contains(said, "holdfast quorum add NAME --lock-disk "+path) {
		t.Fatal(said, status)
	}
	cluster := lockdisk.ID{0: 2, 15: 9}
	h, slot, err := device.Claim(t.Context(), path, cluster)
	if err != nil || slot != 0 {
		t.Fatal(slot, err)
	}
	d, err := device.Open(path, lockdisk.Config{Disk: h.Disk, Cluster: cluster, Slot: slot, Number: 1, Node: "n1", RaftID: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := &witnesspb.Ballot{Counter: 3, Proposer: 0xabcdef}
	for _, q := range []*witnesspb.Request{
		{Body: &witnesspb.Request_Accept{Accept: &witnesspb.Accept{Ballot: b, Value: &witnesspb.Register{Term: 5, Vote: 4}, Next: b}}},
		{Body: &witnesspb.Request_Renew{Renew: &witnesspb.Renew{Stays: 1}}},
		{Body: &witnesspb.Request_Suspect{Suspect: &witnesspb.Suspect{About: "n2", AboutRaftId: 6}}},
	} {
		q.Cluster, q.Register, q.Node, q.RaftId = cluster.String(), 7, "n1", 4
		if reply, err := d.Do(t.Context(), q); err != nil || reply.GetRefused() != nil {
			t.Fatal(reply, err)
		}
	}
	if _, err := d.Mark(t.Context(), []byte{0xca, 0xfe}); err != nil {
		t.Fatal(err)
	}
	return path
}

var identity = regexp.MustCompile(`[0-9a-f]{32}`)

func TestShow(t *testing.T) {
	path := used(t)
	want := `lock disk *, 2 slots, 1 of them in use

slot 0, cluster *
BLOCK  NODE  WRITES  REGISTER  TERM  VOTE  PROMISED  ACCEPTED  COUNTER  SUSPECTS
1      n1    5       7         5     4     3.abcd    3.abcd    1        n2
node n1 has left the mark cafe
`
	out, said, status := run(t, "show", path, "--between", "0")
	if got := identity.ReplaceAllString(out, "*"); got != want || said != "" || status != 0 {
		t.Errorf("%d %s\n%s", status, said, got)
	}
	out, _, status = run(t, "show", path, "--between", "1ms", "-o", "json")
	var v map[string]any
	if err := json.Unmarshal([]byte(out), &v); err != nil || status != 0 || v["schema"] != ShowSchema || !strings.HasPrefix(out, "{\n  \"schema\"") {
		t.Errorf("%v\n%s", err, out)
	}
	node := v["used"].([]any)[0].(map[string]any)["nodes"].([]any)[0].(map[string]any)
	if node["node"] != "n1" || node["moved"] != false || node["accepted"] != "3.abcdef" {
		t.Error(node)
	}
	if out, _, _ := run(t, "show", path, "--between", "0", "-o", "yaml"); !strings.HasPrefix(out, "schema: "+ShowSchema+"\n") {
		t.Error(out)
	}
}

func TestCheck(t *testing.T) {
	path := used(t)
	out, said, status := run(t, "check", path)
	want := regexp.MustCompile(`^Path: +\S+\nDisk: +\S+\nSlots: +2, 1 in use\nSize: +\d+ bytes\nOne read: +\S+\nOne durable write: +\S+\n$`)
	if !want.MatchString(out) || said != "" || status != 0 {
		t.Errorf("%d %s\n%s", status, said, out)
	}
	out, said, status = run(t, "check", path, "--read-only", "--expect", "n1,n2", "--timeout", "10ms")
	if status != api.ExitError || !regexp.MustCompile(`Silent: +n1, n2\n`).MatchString(out) || !strings.Contains(said, "n1, n2 did not write within 10ms") {
		t.Errorf("%d %s\n%s", status, said, out)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("x"), lockdisk.RecordAddress(0, 1, 0, 1)+100)
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	out, said, status = run(t, "check", path)
	if status != api.ExitError || !strings.Contains(out, "slot 0, block 1 (n1): area 0, copy 1 has a wrong checksum") || !strings.Contains(said, "1 problem on the disk") {
		t.Errorf("%d %s\n%s", status, said, out)
	}
}

// TestErrors: each has its status and a next step.
func TestErrors(t *testing.T) {
	path := used(t)
	blank := filepath.Join(t.TempDir(), "blank.img")
	if err := os.WriteFile(blank, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"format", path}, api.ExitRefused, "that a cluster uses: choose another disk, or destroy that with --force"},
		{[]string{"format", blank}, api.ExitError, "is too small"},
		{[]string{"format", blank + ".none"}, api.ExitUsage, "--create makes a file"},
		{[]string{"format", blank, "--slots", "0"}, api.ExitUsage, "--slots 0: 1 to 1024"},
		{[]string{"format"}, api.ExitUsage, "an argument is missing"},
		{[]string{"show", path, path}, api.ExitUsage, "too many arguments"},
		{[]string{"show", blank}, api.ExitError, "holdfast lockdisk format makes it one"},
		{[]string{"show", path, "-o", "xml"}, api.ExitUsage, "table, json and yaml"},
		{[]string{"show", path, "--between", "-1s"}, api.ExitUsage, "a time from 0 on"},
		{[]string{"check", path, "--timeout", "0"}, api.ExitUsage, "a time above 0"},
		{[]string{"fix"}, api.ExitUsage, "there is no command"},
	} {
		if out, said, status := run(t, tt.args...); status != tt.status || !strings.Contains(said, tt.says) || out != "" {
			t.Errorf("%v: %d %s%s", tt.args, status, out, said)
		}
	}
	if out, _, status := run(t); status != 0 || !strings.Contains(out, "format") {
		t.Error(status, out)
	}
}
