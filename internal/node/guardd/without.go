//go:build linux

package guardd

import (
	"log/slog"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// StopProtected ends what guard protects as guard would, for a clusterd whose
// guard is gone.
func StopProtected(log *slog.Logger, what []*guardpb.Protect, within time.Duration) error {
	s, err := newStopper(log)
	if err != nil {
		return err
	}
	defer s.close()
	return s.stop(&guard.Stop{Protected: what, Within: within})
}
