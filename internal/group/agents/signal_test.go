package agents

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

const (
	signalUp   = v1.SignalState_SIGNAL_STATE_UP
	signalDown = v1.SignalState_SIGNAL_STATE_DOWN
)

func TestCriteria(t *testing.T) {
	for s, want := range map[string]string{
		"": "", ">= 10": "", ">=10": "", " < 2 ": "", "== 1": "", "!= 2147483647": "", "> 2147483646": "", "<= 1": "",
		"10":             "does not begin with",
		"=> 10":          "does not begin with",
		">= ten":         "whole number",
		">= 0":           "whole number",
		"== 2147483648":  "whole number",
		">= 1":           "always holds",
		"<= 2147483647":  "always holds",
		"< 1":            "never holds",
		"> 2147483647":   "never holds",
		">= 10 and < 20": "whole number",
	} {
		_, err := parseCriteria(s)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, not %q", s, err, want)
		}
	}
}

// board is a signal board with everything that it tells.
type board struct {
	*signalBoard
	told chan key
}

func newBoard() board {
	b := board{told: make(chan key, 100)}
	b.signalBoard = newSignalBoard(func(k key, _ string) { b.told <- k })
	return b
}

// notices returns how many there were, once everything has come to rest.
func (b board) notices() int {
	synctest.Wait()
	n := len(b.told)
	for range n {
		<-b.told
	}
	return n
}

func TestSignalBoard(t *testing.T) {
	k := key{"web", "sig"}
	want := func(t *testing.T, b board, l listener, want opinion, notices int) {
		t.Helper()
		n := b.notices()
		if got, _ := b.listen(k, l, true); got != want || n != notices {
			t.Fatalf("opinion %d after %d notices, not %d after %d", got, n, want, notices)
		}
	}
	t.Run("simple", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBoard()
			defer b.close()
			l := listener{signal: "s"}
			want(t, b, l, opinionUnknown, 0)
			b.set(map[string]Signal{"s": {State: signalUp}, "other": {State: signalDown}})
			want(t, b, l, opinionUp, 1)
			b.set(map[string]Signal{"s": {State: signalUp}, "other": {State: signalUp}})
			want(t, b, l, opinionUp, 0)
			b.set(map[string]Signal{"s": {State: signalDown}})
			want(t, b, l, opinionDown, 1)
			b.set(nil)
			want(t, b, l, opinionUnknown, 1)
			// Without a watch nothing is told.
			b.listen(k, l, false)
			b.set(map[string]Signal{"s": {State: signalUp}})
			want(t, b, l, opinionUp, 0)
			// A simple signal means nothing to who wants a number, and the other way round.
			want(t, b, listener{signal: "s", criteria: criteria{">=", 10}}, opinionUnknown, 0)
			b.set(map[string]Signal{"s": {Value: 20}})
			want(t, b, l, opinionUnknown, 1)
		})
	})
	t.Run("hysteresis", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for _, test := range []struct {
				criteria criteria
				values   []int64
				want     string
			}{
				{criteria{">=", 10}, []int64{9, 10, 9, 8, 7, 8, 9, 10, 0, 9}, "-+++---+?-"},
				{criteria{"<", 10}, []int64{10, 9, 10, 11, 12, 11, 10, 9}, "-+++---+"},
			} {
				b := newBoard()
				l := listener{signal: "s", criteria: test.criteria, margin: 2}
				got := ""
				for _, v := range test.values {
					b.set(map[string]Signal{"s": {Value: v}})
					is, _ := b.listen(k, l, true)
					got += string("?-+"[is])
				}
				if got != test.want {
					t.Errorf("%v: %s, not %s", test.criteria, got, test.want)
				}
				b.close()
			}
		})
	})
	t.Run("minimum duration", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBoard()
			defer b.close()
			l := listener{signal: "s", patience: 10 * time.Second}
			b.set(map[string]Signal{"s": {State: signalUp}})
			want(t, b, l, opinionUp, 0) // the first look has nothing to wait for
			b.set(map[string]Signal{"s": {State: signalDown}})
			time.Sleep(9 * time.Second)
			b.set(map[string]Signal{"s": {State: signalUp}})
			time.Sleep(5 * time.Second)
			want(t, b, l, opinionUp, 0)
			b.set(map[string]Signal{"s": {State: signalDown}})
			time.Sleep(9 * time.Second)
			want(t, b, l, opinionUp, 0)
			time.Sleep(time.Second)
			want(t, b, l, opinionDown, 1)
		})
	})
	t.Run("time to live", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBoard()
			defer b.close()
			l := listener{signal: "s"}
			at := time.Now().UnixMilli()
			s := Signal{State: signalUp, SetMs: at, TimeToLive: 10 * time.Second}
			time.Sleep(4 * time.Second)
			b.set(map[string]Signal{"s": s})
			want(t, b, l, opinionUp, 0)
			time.Sleep(5 * time.Second)
			b.set(map[string]Signal{"s": s}) // the same word again proves nothing
			want(t, b, l, opinionUp, 0)
			time.Sleep(time.Second)
			want(t, b, l, opinionUnknown, 1)
			s.SetMs = time.Now().UnixMilli()
			b.set(map[string]Signal{"s": s})
			want(t, b, l, opinionUp, 1)
			// A clock that was set back makes it live no longer than it may.
			s.SetMs += 3600_000
			b.set(map[string]Signal{"s": s})
			time.Sleep(10 * time.Second)
			want(t, b, l, opinionUnknown, 1)
		})
	})
}

func TestGenericResource(t *testing.T) {
	r := newRig(t, "sessions")
	a := map[string]string{"Signal": "disks", "UpCriteria": ">= 10"}
	monitor := func(typ string, attributes map[string]string) agent.Result {
		t.Helper()
		return r.call(agent.Call{Type: typ, Entry: agent.Monitor, Attributes: attributes, Watch: true})
	}
	// Before the start: what the signal says counts at once, and changes are told.
	for unknownIs, want := range map[string]v1.ResourceState{"down": isOffline, "up": isOnline, "unknown": v1.ResourceState_RESOURCE_STATE_UNKNOWN} {
		res := monitor("PersistentGenericResource", map[string]string{"Signal": "disks", "UpCriteria": ">= 10", "UnknownIs": unknownIs})
		if res.State != want || !strings.Contains(res.Message, "never set") {
			t.Errorf("unknown is %s: %+v", unknownIs, res)
		}
	}
	if res := monitor("PersistentGenericResource", a); !res.Watched {
		t.Errorf("%+v", res)
	}
	r.h.SetSignals(map[string]Signal{"disks": {Value: 12}})
	r.notice()
	if res := monitor("PersistentGenericResource", a); res.State != isOnline {
		t.Errorf("%+v", res)
	}
	fast := map[string]string{"Signal": "disks", "UpCriteria": ">= 13", "NodeFailFast": "true"}
	if res := monitor("PersistentGenericResource", fast); res.State != isOffline || res.Verdict != v1.Verdict_VERDICT_RESET || res.Message != "signal disks is not >= 13" {
		t.Errorf("%+v", res)
	}
	r.do("PersistentGenericResource", agent.Close, a)

	// During the start: online waits for the signal.
	r.h.SetSignals(nil)
	if res := monitor("GenericResource", a); res.State != isOffline {
		t.Errorf("%+v", res)
	}
	call := agent.Call{Type: "GenericResource", Entry: agent.Online, Attributes: a, Timeout: 50 * time.Millisecond}
	if res := r.call(call); !res.TimedOut || !strings.Contains(res.Err, "signal disks is unknown") {
		t.Errorf("%+v", res)
	}
	call.Timeout = time.Minute
	done := r.begin(call)
	r.h.SetSignals(map[string]Signal{"disks": {Value: 9}})
	r.h.SetSignals(map[string]Signal{"disks": {Value: 10}})
	if res := <-done; res.Err != "" {
		t.Fatal(res.Err)
	}
	if res := monitor("GenericResource", a); res.State != isOnline || !res.Watched {
		t.Errorf("%+v", res)
	}
	r.h.SetSignals(map[string]Signal{"disks": {Value: 9}})
	r.notice()
	if res := monitor("GenericResource", a); res.State != isOffline || res.Verdict != v1.Verdict_VERDICT_NOT_HERE {
		t.Errorf("%+v", res)
	}
	r.h.SetSignals(map[string]Signal{"disks": {Value: 10}})
	r.do("GenericResource", agent.Offline, a)
	if res := monitor("GenericResource", a); res.State != isOffline || res.Verdict != 0 {
		t.Errorf("offline, but %+v", res)
	}
}
