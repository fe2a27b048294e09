package arbiterd

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
)

// controlChild asks the arbiter for its status, as another user.
func controlChild(dir string) int {
	a, err := Ask(context.Background(), dir, &arbiterpb.ToControl{Body: &arbiterpb.ToControl_Status{Status: &arbiterpb.Status{}}})
	fmt.Printf("%v %v\n", a.GetStatus() != nil, err)
	return 0
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}
