package engine

import (
	"errors"
	"strings"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

func note(text string) *statepb.Command {
	return &statepb.Command{Change: &statepb.Command_Note{Note: &statepb.Note{Events: []*v1.Event{{Code: "c", Message: text}}}}}
}

// Without a quorum commands wait, but not any number of them; one whose caller has gone makes room.
func TestOpenCommandsAreBounded(t *testing.T) {
	for _, c := range []struct {
		name string
		size int
		fit  int
	}{{"by number", 1, maxAsked}, {"by size", 1 << 20, maxAskedBytes >> 20}} {
		t.Run(c.name, func(t *testing.T) {
			e := newTrio(t).by["n1"]
			text := strings.Repeat("x", c.size)
			var refused []uint64
			ask := func(token uint64) {
				e.Step(0, 0, Propose{Token: token, Command: note(text)})
				for _, r := range e.Take().Results {
					var no *state.Refused
					if !errors.As(r.Err, &no) || no.Code != state.CodeConflict || !strings.Contains(no.Message, "not even begun") {
						t.Fatalf("command %d: %v", r.Token, r.Err)
					}
					refused = append(refused, r.Token)
				}
			}
			for token := range uint64(c.fit + 10) {
				ask(token + 1)
			}
			if n := len(refused); n < 10 || n > 11 || len(e.waiting.open) > c.fit {
				t.Fatalf("of %d commands %d wait and %d were refused", c.fit+10, len(e.waiting.open), n)
			}
			before := len(refused)
			e.Step(0, 0, Forget{Token: 1})
			ask(9_999)
			if len(refused) != before {
				t.Error("there is room, and still it is refused")
			}
		})
	}
}
