//go:build linux

package guardd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/node/guardclient"
)

func TestStateOfEarlierGuards(t *testing.T) {
	dir := t.TempDir()
	if k, err := loadState(dir); err != nil || k.saved != nil || k.sameBoot {
		t.Errorf("nothing there: %+v, %v", k, err)
	}
	want := &guard.Saved{Incarnation: 7, Protected: []*guardpb.Protect{{Group: "web"}}}
	if err := saveState(dir, want); err != nil {
		t.Fatal(err)
	}
	if k, err := loadState(dir); err != nil || !proto.Equal(k.saved, want) || !k.sameBoot {
		t.Errorf("saved: %+v, %v", k, err)
	}
	path := filepath.Join(dir, "guard.state")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content  string
		sameBoot bool
		fails    bool
	}{
		"of another boot": {"0123" + string(good), false, false},
		"cut":             {string(good[:len(good)-1]), true, true},
		"damaged":         {strings.Replace(string(good), "Hf", "hF", 1), true, true},
		"empty":           {"", true, true},
	} {
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		// Whatever can't be read, a guard has run here: what it started may run still.
		if k, err := loadState(dir); (err != nil) != c.fails || k.sameBoot != c.sameBoot || k.saved != nil {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
}

func TestIncarnationOnlyRises(t *testing.T) {
	dir := t.TempDir()
	for want := uint64(1); want <= 3; want++ {
		if n, err := nextIncarnation(dir, 0); err != nil || n != want {
			t.Fatalf("%d, %v; want %d", n, err, want)
		}
	}
	if n, err := nextIncarnation(dir, 10); err != nil || n != 11 {
		t.Errorf("%d, %v although a guard of this boot was the tenth", n, err)
	}
	path := filepath.Join(dir, "guard.incarnation")
	if err := os.WriteFile(path, []byte("many\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := nextIncarnation(dir, 0); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged file: %v", err)
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "many\n" {
		t.Errorf("a damaged file was overwritten: %q, %v", raw, err)
	}
	if _, err := nextIncarnation(filepath.Join(dir, "missing"), 0); err == nil {
		t.Error("an incarnation that can't be kept was used")
	}
}

func TestLeasePageSurvivesGuard(t *testing.T) {
	dir := t.TempDir()
	if until, err := guardclient.LeaseUntil(dir); err != nil || until != 0 {
		t.Errorf("no guard yet: %v, %v", until, err)
	}
	open := func(sameBoot bool) *leasePage {
		t.Helper()
		p, err := openLeasePage(dir, sameBoot)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.close)
		return p
	}
	first := open(false)
	first.set(1234 * time.Second) // and it is killed: nothing is closed or flushed
	if until, err := guardclient.LeaseUntil(dir); err != nil || until != 1234*time.Second {
		t.Errorf("clusterd reads %v, %v", until, err)
	}
	if until := open(true).until(); until != 1234*time.Second {
		t.Errorf("the next guard reads %v", until)
	}
	if until := open(false).until(); until != 0 {
		t.Errorf("after a reboot %v is left", until)
	}
	if err := os.WriteFile(filepath.Join(dir, guardclient.LeaseName), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if until := open(true).until(); until != 0 {
		t.Errorf("a foreign file counts as a lease until %v", until)
	}
}
