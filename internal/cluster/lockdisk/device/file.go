package device

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
)

// file is an open disk: a block device or a regular file, past the page cache
// (O_DIRECT) and durable when a write returns (O_DSYNC). Its description is
// shared with nobody, so that its locks last as long as an I/O on it does (V2).
type file struct {
	fd   int
	path string
	dev  fileID
	size int64
	// Of a block device; else 0.
	logical, physical int

	buffer []byte // aligned
}

// fileID tells whether a path still leads to what was opened.
type fileID struct{ dev, ino, rdev uint64 }

func identify(st *unix.Stat_t) fileID {
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return fileID{rdev: uint64(st.Rdev)} // whatever its name is in whichever /dev
	}
	return fileID{dev: uint64(st.Dev), ino: st.Ino}
}

const (
	forReading = unix.O_RDONLY
	forWriting = unix.O_RDWR | unix.O_DSYNC
)

func openFile(path string, flags int) (*file, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFBLK && kind != unix.S_IFREG {
		return nil, fmt.Errorf("%s is neither a block device nor a regular file", path)
	}
	fd, err := unix.Open(path, flags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EINVAL):
		return nil, fmt.Errorf("%s can't be read and written past the cache (O_DIRECT): use a block device, or a file on ext4 or XFS", path)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("%s can't be written (%w): a lock disk is writable on every node, for root", path, err)
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%s is in use: it is mounted, or part of a RAID, a volume group or a multipath device (lsblk shows by what)", path)
	case err != nil:
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := &file{fd: fd, path: path}
	if err := f.inspect(kind); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *file) inspect(kind uint32) (err error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.path, Err: err}
	}
	f.dev = identify(&st)
	if f.size, err = unix.Seek(f.fd, 0, unix.SEEK_END); err != nil {
		return &os.PathError{Op: "seek", Path: f.path, Err: err}
	}
	if kind != unix.S_IFBLK {
		return nil
	}
	if f.logical, err = unix.IoctlGetInt(f.fd, unix.BLKSSZGET); err != nil {
		return &os.PathError{Op: "sector size of", Path: f.path, Err: err}
	}
	if f.physical, err = unix.IoctlGetInt(f.fd, unix.BLKPBSZGET); err != nil {
		return &os.PathError{Op: "physical sector size of", Path: f.path, Err: err}
	}
	if f.logical > lockdisk.PageSize {
		return fmt.Errorf("%s has sectors of %d bytes; a lock disk has sectors of %d at most", f.path, f.logical, lockdisk.PageSize)
	}
	return nil
}

func (f *file) close() {
	if f != nil {
		_ = unix.Close(f.fd)
	}
}

// current says whether the path still leads here.
func (f *file) current() bool {
	var st unix.Stat_t
	return unix.Stat(f.path, &st) == nil && identify(&st) == f.dev
}

// aligned memory, as O_DIRECT wants it. It is used again by the next call.
func (f *file) aligned(n int) []byte {
	if len(f.buffer) < n {
		b := make([]byte, n+lockdisk.PageSize)
		skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (lockdisk.PageSize - 1)
		f.buffer = b[skip : skip+n]
	}
	return f.buffer[:n]
}

// pread fills b.
func (f *file) pread(b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(f.fd, b, at)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return &os.PathError{Op: "read", Path: f.path, Err: err}
		case n == 0:
			return fmt.Errorf("%s ends at %d bytes, before %d: it is too small for what its header says", f.path, f.size, at+int64(len(b)))
		default:
			b, at = b[n:], at+int64(n)
		}
	}
	return nil
}

// pwrite is durable when it returns.
func (f *file) pwrite(b []byte, at int64) error {
	buffer := f.aligned(len(b))
	copy(buffer, b)
	for len(buffer) > 0 {
		n, err := unix.Pwrite(f.fd, buffer, at)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return &os.PathError{Op: "write", Path: f.path, Err: err}
		case n == 0 || n%512 != 0:
			return &os.PathError{Op: "write", Path: f.path, Err: unix.EIO}
		default:
			buffer, at = buffer[n:], at+int64(n)
		}
	}
	return nil
}

// page that is kept by the caller.
func (f *file) page(at int64) ([]byte, error) {
	b := f.aligned(lockdisk.PageSize)
	if err := f.pread(b, at); err != nil {
		return nil, err
	}
	return append([]byte(nil), b...), nil
}

// perform an I/O of a machine.
func (f *file) perform(io *lockdisk.IO) (r lockdisk.Result) {
	if io.Wait > 0 {
		time.Sleep(io.Wait)
	}
	if io.Write != nil {
		r.Err = f.pwrite(io.Write.Data, io.Write.Address)
		return r
	}
	total := 0
	for _, g := range io.Read {
		total += g.Bytes
	}
	free := f.aligned(total)
	for _, g := range io.Read {
		b := free[:g.Bytes]
		free = free[g.Bytes:]
		r.Data = append(r.Data, b)
		if err := f.pread(b, g.Address); err != nil {
			if r.Err = f.pages(b, g.Address, &r, err); r.Err != nil {
				return r
			}
		}
	}
	return r
}

// pages reads one by one what could not be read at once: a bad sector costs one
// copy. Not even one page: it failed as a whole.
func (f *file) pages(b []byte, at int64, r *lockdisk.Result, whole error) error {
	good := false
	for i := 0; i < len(b); i += lockdisk.PageSize {
		if err := f.pread(b[i:i+lockdisk.PageSize], at+int64(i)); err != nil {
			if r.Unreadable == nil {
				r.Unreadable = map[int64]error{}
			}
			r.Unreadable[at+int64(i)] = err
			continue
		}
		good = true
	}
	if !good && len(b) > lockdisk.PageSize {
		return whole
	}
	return nil
}

// lock bytes for as long as the description lives.
func (f *file) lock(start, length int64) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: start, Len: length}
	return unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &l)
}
