package device

import (
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// BenchmarkDo: a renewal (two durable writes, then reading) and a look, with two nodes on a file.
func BenchmarkDo(b *testing.B) {
	path := b.TempDir() + "/lock.img"
	if _, err := Format(path, FormatOptions{Create: true}); err != nil {
		b.Fatal(err)
	}
	h, slot, err := claim(b.Context(), path, cluster, time.Millisecond)
	if err != nil {
		b.Fatal(err)
	}
	var disks []*Disk
	for n := range uint32(2) {
		d, err := Open(path, lockdisk.Config{Disk: h.Disk, Cluster: cluster, Slot: slot, Number: n + 1, Node: string(rune('a' + n)), RaftID: 1})
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		if _, err := d.Do(b.Context(), look(d)); err != nil {
			b.Fatal(err)
		}
		disks = append(disks, d)
	}
	d := disks[0]
	for name, body := range map[string]*witnesspb.Request{
		"renew": {Body: &witnesspb.Request_Renew{Renew: &witnesspb.Renew{}}},
		"look":  {Body: &witnesspb.Request_Look{Look: &witnesspb.Look{}}},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if reply, err := d.Do(b.Context(), request(d, body)); err != nil || reply.GetRefused() != nil {
					b.Fatal(reply, err)
				}
			}
		})
	}
}
