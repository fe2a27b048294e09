package protoyaml

import (
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Whole configurations are written and read back in internal/config; here only
// what stands below that.

func TestSuggest(t *testing.T) {
	known := []string{"systemList", "autoStartList", "name", "resources", "IP", "NIC"}
	for have, want := range map[string]string{
		"system_list": "systemList", "SystemList": "systemList", "sytemList": "systemList", "autostartlist": "autoStartList",
		"nmae": "name", "Ip": "IP", "nick": "NIC", "resource": "resources", "zebra": "", "": "",
	} {
		if got := Suggest(have, known); got != want {
			t.Errorf("%q: %q, want %q", have, got, want)
		}
	}
}

// distance is a metric for short words, as far as it is asked for.
func TestDistance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[abc]{0,6}`)
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		d := distance(a, b, 100)
		if d != distance(b, a, 100) || (d == 0) != (a == b) || d > max(len(a), len(b)) {
			t.Fatalf("%q, %q: %d and %d", a, b, d, distance(b, a, 100))
		}
		for limit := range 8 {
			if got := distance(a, b, limit); got != min(d, limit) {
				t.Fatalf("%q, %q, limit %d: %d, want %d", a, b, limit, got, min(d, limit))
			}
		}
	})
}

func TestWords(t *testing.T) {
	if got := EnumName(v1.Operations_OPERATIONS_ON_OFF); got != "onOff" {
		t.Error(got)
	}
	if got := EnumName(v1.ResourceActivity(77)); got != "77" {
		t.Error(got)
	}
	for d, want := range map[time.Duration]string{0: "0s", time.Minute: "1m", 90 * time.Minute: "1h30m", time.Hour: "1h", 24 * time.Hour: "24h", 10 * time.Second: "10s", 61 * time.Second: "1m1s"} {
		got := Duration(d)
		if back, err := time.ParseDuration(got); got != want || err != nil || back != d {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// JSON says the same as the message, whatever is in it.
func TestJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &v1.Resource{
			Name:       rapid.String().Draw(t, "name"),
			Attributes: rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "attributes"),
			Requires:   rapid.SliceOf(rapid.String()).Draw(t, "requires"),
			Critical:   proto.Bool(rapid.Bool().Draw(t, "critical")),
			Limits:     &v1.Limits{MonitorInterval: durationpb.New(time.Duration(rapid.Int64().Draw(t, "d")))},
		}
		var got struct {
			Schema, Name string
			Attributes   map[string]string
			Requires     []string
			Critical     bool
			Limits       struct{ MonitorInterval string }
		}
		raw := Options{First: []Pair{{"schema", "x/1"}}, Full: true}.JSON(r)
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatalf("%v\n%s", err, raw)
		}
		d, err := time.ParseDuration(got.Limits.MonitorInterval)
		if got.Schema != "x/1" || got.Name != r.Name || len(got.Attributes) != len(r.Attributes) || len(got.Requires) != len(r.Requires) ||
			got.Critical != r.GetCritical() || err != nil || d != r.GetLimits().GetMonitorInterval().AsDuration() {
			t.Fatalf("%v\n%s", r, raw)
		}
		for k, v := range r.Attributes {
			if got.Attributes[k] != v {
				t.Fatalf("attribute %q: %q, want %q", k, got.Attributes[k], v)
			}
		}
	})
}
