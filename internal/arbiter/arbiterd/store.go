package arbiterd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/boltfile"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Files of an arbiter's directory.
const (
	FileStore  = "arbiter.db"
	FileSocket = "arbiter.sock"
)

var (
	bucketArbiter  = []byte("arbiter")
	bucketClusters = []byte("clusters")
	bucketKept     = []byte("kept")
	bucketTokens   = []byte("tokens")
	buckets        = [][]byte{bucketArbiter, bucketClusters, bucketKept, bucketTokens}

	keySelf = []byte("self")
)

type uuid [16]byte

func (u uuid) String() string { return fmt.Sprintf("%x", u[:]) }

// store is the open file.
type store struct {
	path string
	file *os.File
	db   *bbolt.DB
	self *arbiterpb.Self
}

// tables within one transaction.
type tables struct{ tx *bbolt.Tx }

func boltOptions() *bbolt.Options {
	return &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: 2 * time.Second, NoStatistics: true}
}

// createStore makes a new file with self in it. It replaces none, and leaves
// none behind when it fails.
func createStore(path string, self *arbiterpb.Self) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists already; nothing was changed: %w", path, fs.ErrExist)
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bbolt.Open(tmp, 0o600, boltOptions())
	if err != nil {
		return err
	}
	if err = placed(tmp, self); err == nil {
		err = db.Update(func(tx *bbolt.Tx) error {
			for _, b := range buckets {
				if _, err := tx.CreateBucketIfNotExists(b); err != nil {
					return err
				}
			}
			return (&tables{tx}).putSelf(self)
		})
	}
	return publish(path, tmp, errors.Join(err, db.Close()))
}

// publish a new file under its name.
func publish(path, tmp string, err error) error {
	if err == nil {
		// Rename would replace a file that has come meanwhile.
		err = os.Link(tmp, path)
	}
	if err = errors.Join(err, os.Remove(tmp)); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// placed writes down which file it is: a copy has another inode, or was born at
// another time.
func placed(path string, self *arbiterpb.Self) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return err
	}
	self.Inode, self.Born = st.Ino, 0
	if st.Mask&unix.STATX_BTIME != 0 {
		self.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return nil
}

// openStore checks the whole file and opens it. moved: it may be a copy.
func openStore(path string, moved bool) (_ *store, err error) {
	s := &store{path: path}
	defer func() {
		if r := recover(); r != nil {
			err = damaged("%v", r)
		}
		if err != nil {
			err = s.explain(err)
			if s.file != nil {
				_ = syscall.Flock(int(s.file.Fd()), syscall.LOCK_UN)
				_ = s.file.Close()
			}
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: run holdfast arbiter init --dir %s first", ErrNoStore, filepath.Dir(path))
	}
	if err != nil {
		return nil, err
	}
	s.file = f
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if info.Mode().Perm()&0o077 != 0 || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("mode %v lets others read the arbiter's key: chmod 600 it, or make a new arbiter if they should not know it", info.Mode())
	}
	o := boltOptions()
	if err := waitLock(f, o.Timeout); err != nil {
		return nil, err
	}
	// bbolt trusts its pages, and makes do with the older of two meta pages.
	if err := boltfile.Check(f); err != nil {
		return nil, damaged("%v", err)
	}
	o.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return f, nil }
	if s.db, err = bbolt.Open(path, 0o600, o); err != nil {
		return nil, err
	}
	err = s.view(func(t *tables) error {
		if err := t.check(); err != nil {
			return err
		}
		s.self, err = t.self()
		return err
	})
	if err == nil && !moved {
		err = s.checkPlace()
	}
	return s, err
}

func (s *store) checkPlace() error {
	here := new(arbiterpb.Self)
	if err := placed(s.path, here); err != nil {
		return err
	}
	if here.Inode != s.self.GetInode() || here.Born != s.self.GetBorn() {
		return ErrCopy
	}
	return nil
}

func waitLock(f *os.File, limit time.Duration) error {
	for end := time.Now().Add(limit); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(end) {
			return berrors.ErrTimeout
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *store) close() error { return s.db.Close() }

// size of the file in bytes.
func (s *store) size() int64 {
	info, err := s.file.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

func (s *store) view(fn func(*tables) error) error {
	return s.db.View(func(tx *bbolt.Tx) error { return fn(&tables{tx}) })
}

// update commits what fn writes. After an error that fn did not return nothing
// is known of the disk.
func (s *store) update(fn func(*tables) error) error {
	return s.db.Update(func(tx *bbolt.Tx) error { return fn(&tables{tx}) })
}

func (s *store) explain(err error) error {
	dir := filepath.Dir(s.path)
	switch {
	case errors.Is(err, ErrNoStore):
		return err
	case errors.Is(err, berrors.ErrTimeout), errors.Is(err, syscall.EWOULDBLOCK):
		return fmt.Errorf("%s: %w: is another holdfast arbiter serve running with --dir %s?", s.path, ErrInUse, dir)
	case errors.Is(err, ErrCopy):
		return fmt.Errorf("%s: %w: what it says may be old, and a promise that is forgotten is a split brain. "+
			"If it is a backup: move it away and run holdfast arbiter restore FILE --dir %s. "+
			"If the directory was moved while no arbiter ran, and nothing has run from the original since: holdfast arbiter moved --dir %s --yes", s.path, err, dir, dir)
	case errors.Is(err, ErrNewer):
		return fmt.Errorf("%s: %w; run the release of holdfast that wrote it, or a later one", s.path, err)
	case errors.Is(err, ErrDamaged), errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		if !errors.Is(err, ErrDamaged) {
			err = damaged("%v", err)
		}
		return fmt.Errorf("%s: %w; look for disk errors, move the file away, and restore a backup (holdfast arbiter restore) or make a new arbiter (holdfast arbiter init)", s.path, err)
	}
	return fmt.Errorf("arbiter's store %s: %w", s.path, err)
}

// check every record.
func (t *tables) check() error {
	for _, b := range buckets {
		if t.tx.Bucket(b) == nil {
			return damaged("table %q is missing", b)
		}
	}
	if _, err := t.self(); err != nil {
		return err
	}
	clusters := 0
	err := t.each(func(uuid, *arbiterpb.Registration, *witnesspb.Kept, int) error { clusters++; return nil })
	if err != nil {
		return err
	}
	kept := 0
	c := t.tx.Bucket(bucketKept).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		kept++
	}
	if kept != clusters {
		return damaged("%d clusters are registered, promises to %d are kept", clusters, kept)
	}
	return t.eachToken(func([]byte, *arbiterpb.Token) error { return nil })
}

func (t *tables) self() (*arbiterpb.Self, error) {
	m := new(arbiterpb.Self)
	return m, openRecord(keySelf, kindSelf, t.tx.Bucket(bucketArbiter).Get(keySelf), m)
}

func (t *tables) putSelf(m *arbiterpb.Self) error {
	b, err := sealRecord(keySelf, kindSelf, m)
	if err != nil {
		return err
	}
	return t.tx.Bucket(bucketArbiter).Put(keySelf, b)
}

// registration of a cluster, nil: none.
func (t *tables) registration(id uuid) (*arbiterpb.Registration, error) {
	b := t.tx.Bucket(bucketClusters).Get(id[:])
	if b == nil {
		return nil, nil
	}
	m := new(arbiterpb.Registration)
	return m, openRecord(id[:], kindRegistration, b, m)
}

func (t *tables) putRegistration(id uuid, m *arbiterpb.Registration) error {
	b, err := sealRecord(id[:], kindRegistration, m)
	if err != nil {
		return err
	}
	return t.tx.Bucket(bucketClusters).Put(slices.Clone(id[:]), b)
}

func (t *tables) kept(id uuid) (*witnesspb.Kept, error) {
	m := new(witnesspb.Kept)
	if err := openRecord(id[:], kindKept, t.tx.Bucket(bucketKept).Get(id[:]), m); err != nil {
		return nil, err
	}
	if m.GetFormat() > witness.Format {
		return nil, fmt.Errorf("%w: promises to cluster %s have format %d, this release knows %d", ErrNewer, id, m.GetFormat(), witness.Format)
	}
	if err := witness.CheckKept(m); err != nil {
		return nil, damaged("promises to cluster %s: %v", id, err)
	}
	return m, nil
}

func (t *tables) putKept(id uuid, m *witnesspb.Kept) error {
	b, err := sealRecord(id[:], kindKept, m)
	if err != nil {
		return err
	}
	return t.tx.Bucket(bucketKept).Put(slices.Clone(id[:]), b)
}

// each cluster in the order of uuids, with the bytes that it takes.
func (t *tables) each(fn func(uuid, *arbiterpb.Registration, *witnesspb.Kept, int) error) error {
	c := t.tx.Bucket(bucketClusters).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if len(k) != len(uuid{}) {
			return damaged("a cluster's key has %d bytes", len(k))
		}
		id, reg := uuid(k), new(arbiterpb.Registration)
		if err := openRecord(k, kindRegistration, v, reg); err != nil {
			return err
		}
		kept, err := t.kept(id)
		if err != nil {
			return err
		}
		if err := fn(id, reg, kept, 2*len(k)+len(v)+len(t.tx.Bucket(bucketKept).Get(k))); err != nil {
			return err
		}
	}
	return nil
}

// token with this hash of its secret, nil: none.
func (t *tables) token(hash []byte) (*arbiterpb.Token, error) {
	b := t.tx.Bucket(bucketTokens).Get(hash)
	if b == nil {
		return nil, nil
	}
	m := new(arbiterpb.Token)
	return m, openRecord(hash, kindToken, b, m)
}

func (t *tables) putToken(hash []byte, m *arbiterpb.Token) error {
	b, err := sealRecord(hash, kindToken, m)
	if err != nil {
		return err
	}
	return t.tx.Bucket(bucketTokens).Put(slices.Clone(hash), b)
}

func (t *tables) eachToken(fn func(hash []byte, m *arbiterpb.Token) error) error {
	c := t.tx.Bucket(bucketTokens).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		m := new(arbiterpb.Token)
		if err := openRecord(k, kindToken, v, m); err != nil {
			return err
		}
		if err := fn(k, m); err != nil {
			return err
		}
	}
	return nil
}

func (t *tables) deleteToken(hash []byte) error { return t.tx.Bucket(bucketTokens).Delete(hash) }

// copyTo writes a consistent copy of the store while it is in use.
func (s *store) copyTo(w io.Writer) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
}
