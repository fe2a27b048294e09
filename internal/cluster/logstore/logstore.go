// Package logstore keeps a node's raft log, hard state and snapshot in one
// bbolt file.
//
// It decides nothing: [Store.Save] writes what one step of raft produced, as a
// whole or not at all, and [Store.Load] gives back what was saved. The caller
// saves batches in the order in which raft made them, one at a time, and sends
// messages that promise a batch only after Save has returned nil.
//
//	L1  a Save is atomic: after a crash the file holds all of the batch or none
//	L2  a Save that has returned nil survives a crash of the machine, except
//	    for a lone rise of the commit index, which raft allows to be lost
//	L3  the log has no holes: entries begin right after the snapshot
//	L4  term and commit never go back and a vote never changes within a term;
//	    only Reset starts anew, under a higher raft id
//	L5  Load returns what was saved, or an error; damage never passes for data
//	L6  a file serves only the node and the cluster that it was made for
//
// The format is described in docs/formats/raftlog.md.
package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/raft/v3/raftpb"
)

// Classes of errors. Each error's text names the file and says what to do.
var (
	// ErrNoSpace marks a Save that found the disk or a quota full. The store
	// still holds what it held; the same batch may be saved again.
	ErrNoSpace = errors.New("no space left for the raft log")
	// ErrDamaged marks a file whose content is not what was written.
	ErrDamaged = errors.New("raft log is damaged")
	// ErrForeign marks a file of another node or cluster.
	ErrForeign = errors.New("raft log belongs to another node")
	// ErrNewer marks a file written in a newer format.
	ErrNewer = errors.New("raft log has a newer format")
	// ErrInUse marks a file that another process has open.
	ErrInUse = errors.New("raft log is in use")
	// ErrRefused marks a batch that breaks L3 or L4. Nothing was written.
	ErrRefused = errors.New("batch refused")
	// ErrFailed marks every call after a Save that failed for another reason than
	// space: what is on the disk is unknown until the store is opened again.
	ErrFailed = errors.New("raft log failed earlier")
)

// Owner is whose log a file is.
type Owner struct {
	ClusterUUID string
	Node        string
}

// Saved is the whole content of a store.
type Saved struct {
	// RaftID of this incarnation; 0: none yet, the node has to join.
	RaftID uint64
	// HardState is empty but not nil in a new store.
	HardState *raftpb.HardState
	// Snapshot is empty but not nil in a new store; its metadata holds the conf state.
	Snapshot *raftpb.Snapshot
	// Entries after the snapshot.
	Entries []*raftpb.Entry
}

// Batch is what one step of raft wants on disk.
type Batch struct {
	// HardState to store; nil or empty: unchanged.
	HardState *raftpb.HardState
	// Snapshot to store, applied before Entries. It drops the entries that it
	// covers, and the whole log if that does not contain the snapshot's last
	// entry. Nil or empty: unchanged.
	Snapshot *raftpb.Snapshot
	// Entries to append. Stored ones from the first of them on are replaced.
	Entries []*raftpb.Entry
	// MustSync: the batch must be on disk when Save returns. Implied by
	// entries, a snapshot, a new term or a new vote; a batch without any of
	// these may stay in memory until the next Save.
	MustSync bool
}

// A Store is an open file. Its methods may be called from any goroutine.
type Store struct {
	path  string
	owner Owner

	mu     sync.Mutex
	db     *bbolt.DB
	raftID uint64
	// A rise of the commit index that is not on disk yet.
	pending *raftpb.HardState
	// Why nothing is taken any more.
	failed error
	// bbolt has crashed, and may hold its locks for ever: it is not entered again.
	crashed bool
	file    *os.File
}

// Open opens the store at path, for the given owner only, and makes an empty
// one if there is no file. It checks the structure of the whole file first.
func Open(path string, owner Owner) (*Store, error) {
	if owner.ClusterUUID == "" || owner.Node == "" {
		return nil, fmt.Errorf("raft log %s: opened without naming a cluster and a node", path)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := Create(path, owner, Saved{}); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, fmt.Errorf("raft log: %w", err)
	}
	return open(path, owner)
}

// Create makes a new store with the given content. It refuses to replace a
// file, and leaves none behind when it fails.
func Create(path string, owner Owner, content Saved) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("raft log %s exists already; nothing was changed: %w", path, fs.ErrExist)
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("raft log: %w", err)
	}
	if err := create(tmp, owner, content); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("make raft log %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("make raft log: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

func create(path string, owner Owner, content Saved) error {
	db, err := bbolt.Open(path, 0o600, options())
	if err != nil {
		return classify(err)
	}
	s := &Store{path: path, owner: owner, db: db, raftID: content.RaftID}
	err = s.update(func(t *tables) error {
		if err := t.putOwner(owner, content.RaftID); err != nil {
			return err
		}
		if err := t.putTail(tail{}); err != nil {
			return err
		}
		return t.save(Batch{HardState: content.HardState, Snapshot: content.Snapshot, Entries: content.Entries})
	})
	return errors.Join(err, db.Close())
}

func open(path string, owner Owner) (*Store, error) {
	s := &Store{path: path, owner: owner}
	err := s.shielded(func() error {
		o, err := s.checked()
		if err != nil {
			return err
		}
		if s.db, err = bbolt.Open(path, 0o600, o); err != nil {
			return err
		}
		return s.db.View(func(tx *bbolt.Tx) error {
			t, err := tablesOf(tx)
			if err != nil {
				return err
			}
			s.raftID, err = t.owner(owner)
			return err
		})
	})
	if err != nil {
		_ = s.closeFile()
		return nil, s.explain(err)
	}
	return s, nil
}

// options for bbolt. Its list of free pages is rebuilt at open instead of
// being stored: fewer bytes for each commit, and nothing that could be damaged
// and then lead to overwriting live pages.
func options() *bbolt.Options {
	return &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: 2 * time.Second, NoStatistics: true}
}

// checked locks the file and checks its structure before bbolt trusts it:
// bbolt would end the process on a page that points to itself. The options let
// bbolt continue with the same descriptor, so that nothing comes in between.
func (s *Store) checked() (*bbolt.Options, error) {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	s.file = f
	o := options()
	if err := waitLock(f, o.Timeout); err != nil {
		return nil, err
	}
	if err := checkFile(f); err != nil {
		return nil, err
	}
	o.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return f, nil }
	return o, nil
}

// closeFile closes bbolt, or what can be closed of it after a crash.
func (s *Store) closeFile() error {
	db, f := s.db, s.file
	s.db, s.file = nil, nil
	if db != nil && !s.crashed {
		return db.Close()
	}
	if f != nil {
		// The mapping would keep the lock of a closed file.
		return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
	}
	return nil
}

// waitLock waits for a predecessor that is just ending.
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

// Path of the file.
func (s *Store) Path() string { return s.path }

// Load returns everything that has been saved.
func (s *Store) Load() (Saved, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out Saved
	if err := s.usable(); err != nil {
		return out, err
	}
	err := s.shielded(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			t, err := tablesOf(tx)
			if err != nil {
				return err
			}
			out, err = t.load()
			return err
		})
	})
	if err != nil {
		if s.crashed {
			s.failed = err
		}
		return Saved{}, s.explain(err)
	}
	out.RaftID = s.raftID
	if s.pending != nil {
		out.HardState = s.pending
	}
	return out, nil
}

// Save stores a batch. After an error marked [ErrNoSpace] the same batch may
// be saved again; after another one the store takes nothing any more, except
// that a batch marked [ErrRefused] was never tried.
func (s *Store) Save(b Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.change(func(t *tables) error {
		if s.pending != nil {
			if err := t.save(Batch{HardState: s.pending}); err != nil {
				return err
			}
		}
		if err := t.save(b); err != nil {
			return err
		}
		if !b.MustSync && t.onlyCommitRose() {
			hs, err := t.hardState()
			if err != nil {
				return err
			}
			return &deferral{hs}
		}
		return nil
	}, func() { s.pending = nil })
}

// A deferral ends a transaction that needs no disk.
type deferral struct{ hs *raftpb.HardState }

func (*deferral) Error() string { return "kept in memory" }

// Reset forgets everything and begins as a new incarnation with an empty log.
// The raft id must be higher than the one before: what the old incarnation
// acknowledged must never count for the new one.
func (s *Store) Reset(raftID uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.change(func(t *tables) error {
		if raftID <= s.raftID {
			return fmt.Errorf("%w: raft id %d is not above %d", ErrRefused, raftID, s.raftID)
		}
		if err := t.clear(); err != nil {
			return err
		}
		if err := t.putOwner(s.owner, raftID); err != nil {
			return err
		}
		return t.putTail(tail{})
	}, func() { s.raftID, s.pending = raftID, nil })
}

// Close writes what is still in memory and closes the file.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	var err error
	if s.pending != nil && s.failed == nil {
		err = s.update(func(t *tables) error { return t.save(Batch{HardState: s.pending}) })
		if err != nil {
			err = s.explain(err)
		}
	}
	return errors.Join(err, s.closeFile())
}

// change runs one transaction and remembers a failure that leaves the content
// of the disk unknown.
func (s *Store) change(fn func(*tables) error, done func()) error {
	if err := s.usable(); err != nil {
		return err
	}
	err := s.update(fn)
	var d *deferral
	switch {
	case err == nil:
		done()
		return nil
	case errors.As(err, &d):
		s.pending = d.hs
		return nil
	case errors.Is(err, ErrRefused), errors.Is(err, ErrNoSpace):
	default:
		s.failed = err
	}
	return s.explain(err)
}

func (s *Store) usable() error {
	switch {
	case s.db == nil:
		return fmt.Errorf("raft log %s: %w", s.path, os.ErrClosed)
	case s.failed != nil:
		return fmt.Errorf("raft log %s: %w: %w", s.path, ErrFailed, s.failed)
	}
	return nil
}

func (s *Store) update(fn func(*tables) error) error {
	return s.shielded(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			t, err := tablesFor(tx)
			if err != nil {
				return err
			}
			return fn(t)
		})
	})
}

// shielded turns a crash inside bbolt into an error. A file that shrinks or is
// overwritten while it is mapped shows itself as a memory fault.
func (s *Store) shielded(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			s.crashed = true
			err = damaged("%v", r)
		}
	}()
	return classify(fn())
}

func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG), errors.Is(err, berrors.ErrMaxSizeReached):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: %w", ErrInUse, err)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrInvalidMapping):
		return damaged("%v", err)
	}
	return err
}

// explain adds the file and what to do.
func (s *Store) explain(err error) error {
	switch {
	case errors.Is(err, ErrDamaged):
		return fmt.Errorf("%s: %w; look for disk errors, then move the file away and start the node: it joins again as new and gets everything from the other nodes", s.path, err)
	case errors.Is(err, ErrNoSpace):
		return fmt.Errorf("%s: %w; free space on its file system", s.path, err)
	case errors.Is(err, ErrInUse):
		return fmt.Errorf("%s: %w: is another holdfast clusterd running with this state directory?", s.path, err)
	case errors.Is(err, ErrForeign):
		return fmt.Errorf("%s: %w; put this node's own file back, or move this one away: the node then joins again as new", s.path, err)
	case errors.Is(err, ErrNewer):
		return fmt.Errorf("%s: %w; run the version of holdfast that wrote it, or a later one", s.path, err)
	}
	return fmt.Errorf("raft log %s: %w", s.path, err)
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
