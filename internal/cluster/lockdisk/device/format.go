package device

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
)

// DefaultSlots of a disk that is large enough.
const DefaultSlots = 8

// FormatOptions of Format.
type FormatOptions struct {
	// Slots for clusters; 0: as many as fit, DefaultSlots at most.
	Slots int
	// Force overwrites what is there.
	Force bool
	// Create a regular file first, if there is nothing of that name.
	Create bool
}

// A RefusedError says that something has to be decided first. Nothing was changed.
type RefusedError struct{ Problem, Next string }

func (e *RefusedError) Error() string { return e.Problem + ": " + e.Next }

// Format makes a lock disk. It must not be one that a cluster uses: what was
// promised on it is forgotten.
func Format(path string, o FormatOptions) (lockdisk.Header, error) {
	if o.Slots < 0 || o.Slots > lockdisk.MaxSlots {
		return lockdisk.Header{}, fmt.Errorf("%d slots: 1 to %d are possible", o.Slots, lockdisk.MaxSlots)
	}
	if o.Create {
		if err := create(path, max(o.Slots, 1)); err != nil {
			return lockdisk.Header{}, err
		}
	}
	f, err := openFile(path, forWriting|exclusive(path))
	if errors.Is(err, os.ErrNotExist) && !strings.HasPrefix(path, "/dev/") {
		err = fmt.Errorf("%w (--create makes a file)", err)
	}
	if err != nil {
		return lockdisk.Header{}, err
	}
	defer f.close()
	h := lockdisk.Header{Slots: o.Slots}
	if h.Slots == 0 {
		for h.Slots = DefaultSlots; h.Slots > 1 && lockdisk.Size(h.Slots) > f.size; {
			h.Slots--
		}
	}
	if need := lockdisk.Size(h.Slots); f.size < need {
		return h, fmt.Errorf("%s is too small: it has %d bytes, and %d slots need %d", path, f.size, h.Slots, need)
	}
	if err := f.lock(0, lockdisk.Size(lockdisk.MaxSlots)); err != nil {
		return h, &RefusedError{path + " is used by a node that runs on this machine", "take the coordination point out of its cluster first (holdfast quorum remove)"}
	}
	if !o.Force {
		what, err := detect(f, lockdisk.Size(h.Slots))
		if err != nil {
			return h, err
		}
		if what != "" {
			return h, &RefusedError{fmt.Sprintf("on %s there is %s", path, what), "choose another disk, or destroy that with --force"}
		}
	}
	_, _ = rand.Read(h.Disk[:]) // never fails
	if err := f.format(h); err != nil {
		return h, err
	}
	h.Ready = true
	return h, nil
}

// exclusive keeps out, for a block device, whoever has mounted it.
func exclusive(path string) int {
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return unix.O_EXCL
	}
	return 0
}

func create(path string, slots int) error {
	if strings.HasPrefix(path, "/dev/") {
		return fmt.Errorf("%s: files are not made below /dev", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(lockdisk.Size(slots)), f.Close())
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// format in an order in which an interruption is found out: headers that say
// that it is under way, zeros, headers that say that it is done.
func (f *file) format(h lockdisk.Header) error {
	for c := range lockdisk.Copies {
		if err := f.pwrite(h.Encode(c), lockdisk.HeaderAddress(c)); err != nil {
			return err
		}
	}
	blank := make([]byte, lockdisk.HeaderAddress(1)-lockdisk.PageSize)
	for at, end := int64(lockdisk.PageSize), lockdisk.Size(h.Slots); at < end; {
		n := min(int64(len(blank)), end-at)
		if at < lockdisk.HeaderAddress(1) {
			n = min(n, lockdisk.HeaderAddress(1)-at)
		}
		if at == lockdisk.HeaderAddress(1) {
			at += lockdisk.PageSize
			continue
		}
		if err := f.pwrite(blank[:n], at); err != nil {
			return err
		}
		at += n
	}
	h.Ready = true
	for c := range lockdisk.Copies {
		want := h.Encode(c)
		if err := f.pwrite(want, lockdisk.HeaderAddress(c)); err != nil {
			return err
		}
		if have, err := f.page(lockdisk.HeaderAddress(c)); err != nil {
			return err
		} else if !bytes.Equal(have, want) {
			return fmt.Errorf("%s does not hold what was written: it reads back something else", f.path)
		}
	}
	return nil
}
