//go:build linux

package guardd

import (
	"bytes"
	"errors"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
)

// keys of the heartbeats: the current one is sent with, all are accepted.
func (i *Identity) keys(ks identity.Keys) {
	i.Secret, i.Accept = ks.Current.Secret, nil
	for _, k := range []identity.Key{ks.Next, ks.Old} {
		if len(k.Secret) > 0 {
			i.Accept = append(i.Accept, k.Secret)
		}
	}
}

// reloadKeys reads them again, away from the loop, and answers the call.
func (l *loop) reloadKeys(call uint64) {
	go func() {
		keys, err := identity.LoadKeys(l.o.StateDir)
		l.post(func(time.Duration) {
			if err == nil {
				err = l.useKeys(keys)
			}
			done := &guardpb.Done{Call: call}
			if err != nil {
				done.Error = err.Error()
			}
			l.tell(&guardpb.FromGuard{Body: &guardpb.FromGuard_Done{Done: done}})
		})
	}()
}

// useKeys goes on with the same sequence numbers under a new salt, so that no
// nonce repeats under one key.
func (l *loop) useKeys(keys identity.Keys) error {
	id := *l.o.Identity
	id.keys(keys)
	sealer := l.sealer
	if !bytes.Equal(id.Secret, l.o.Identity.Secret) {
		salt, err := newSalt()
		if err == nil {
			sealer, err = guard.NewSealer(id.Secret, id.ClusterUUID, id.Node, salt)
		}
		if err != nil {
			return err
		}
	}
	if err := l.opener.Accept(append([][]byte{id.Secret}, id.Accept...)...); err != nil {
		return errors.Join(errors.New("the heartbeat keys stay as they were"), err)
	}
	l.sealer, l.o.Identity = sealer, &id
	l.log.Info("heartbeat keys were read", "generation", keys.Current.Generation, "next", keys.Next.Generation, "old", keys.Old.Generation)
	return nil
}
