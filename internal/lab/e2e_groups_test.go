package lab

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Groups beyond one web server, with real programs.

// isFront recognises the server itself: a resource agent runs the same program to look at it.
func isFront(argv []string) bool { return strings.HasPrefix(argv[0], "nginx: ") }

func isApp(argv []string) bool { return len(argv) > 2 && argv[1] == "lab" && argv[2] == webCommand }

// on returns where a group is online; empty: nowhere, or not completely.
func on(st *v1.StatusResponse, group string) string {
	for _, g := range st.GetGroups() {
		if g.GetName() == group && g.GetState() == v1.GroupState_GROUP_STATE_ONLINE {
			return g.GetNode()
		}
	}
	return ""
}

// await waits until a group is online on another node than not, and returns that.
func (s *site) await(group, not string) string {
	s.t.Helper()
	at := ""
	_, err := s.AwaitStatus(s.ctx, func(st *v1.StatusResponse) string {
		if at = on(st, group); at == "" || at == not {
			return group + " is not online on another node than " + not
		}
		return ""
	})
	s.must(err)
	return at
}

// kill what matches on a node, so often that it is not restarted in place any more.
func (s *site) killTwice(node, group string, is func([]string) bool) {
	s.t.Helper()
	for round := range 2 {
		var pids []int
		for end := monotonic() + 20*time.Second; len(pids) == 0 && monotonic() < end; {
			var err error
			pids, err = s.find(node, is)
			s.must(err)
			s.must(pause(s.ctx, 10*time.Millisecond))
		}
		n, _, err := s.KillProcesses(node, is)
		s.must(err)
		if n == 0 {
			s.t.Fatalf("nothing of %s runs on %s", group, node)
		}
		if round == 0 { // it is restarted in place
			s.must(s.untilNew(node, is, pids))
		}
	}
}

// untilNew waits until something that matches runs which did not before.
func (s *site) untilNew(node string, is func([]string) bool, before []int) error {
	for {
		now, err := s.find(node, is)
		if err != nil {
			return err
		}
		for _, pid := range now {
			if pid > before[len(before)-1] {
				return nil
			}
		}
		if err := pause(s.ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// The application moves alone, the web server moves alone, both survive the
// loss of their node, and requests go through the whole time but for that.
func tiers(t *testing.T, name string) {
	s := newSite(t, Options{Sample: name})
	app, web := s.await("app", ""), s.await("web", "")
	s.killTwice(app, "app", isApp)
	moved := s.await("app", app)
	if now := s.await("web", ""); now != web {
		t.Errorf("web was moved from %s to %s by a fault of app, which it requires softly", web, now)
	}
	if through := s.settle(); through != moved {
		t.Errorf("requests go to %s, not to %s", through, moved)
	}
	s.killTwice(web, "web", isFront)
	web = s.await("web", web)
	s.settle()
	s.cli(web, "group", "clear", "app")
	s.cli(web, "group", "clear", "web")
	fault, err := s.Kill(web)
	s.must(err)
	s.await("web", web)
	s.await("app", web)
	s.settle()
	t.Logf("settled %v after the loss of %s", monotonic()-fault, web)
	other := s.others(web)[0]
	if out := s.cli(other, "explain", "group", "web"); !strings.Contains(out, web) {
		t.Errorf("the explanation does not name %s:\n%s", web, out)
	}
	s.must(s.Start(web))
	s.settle()
}

func TestTiers(t *testing.T) { tiers(t, "tiers") }

func TestTiersOfOCFAgents(t *testing.T) { tiers(t, "tiers-ocf") }
