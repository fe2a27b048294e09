package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The registry knows every lab of this user on this machine: a link NAME to
// the lab's directory, NAME.lock, held while the lab is being changed, and
// NAME.owner, held by the process that an attached lab belongs to. The kernel
// drops both when their holder dies, however it dies: this is how an orphan is
// recognised.
type registry string

// openRegistry makes the registry if needed.
func openRegistry() (registry, error) {
	dir := userPath("holdfast-labs", "/run")
	return registry(dir), privateDir(dir)
}

// privateDir makes a directory that only this user can write: what is found in
// it is believed, and removed.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Getuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s is not a directory that only you can write: somebody else has made it; remove it", dir)
	}
	return nil
}

// userPath is where a short-lived directory of this user goes; root's is below
// the given one.
func userPath(name, root string) string {
	if os.Getuid() == 0 {
		return filepath.Join(root, name)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, name)
	}
	return fmt.Sprintf("/tmp/%s-%d", name, os.Getuid())
}

// DefaultDir is the directory of a lab that was given none.
func DefaultDir(name string) string { return filepath.Join(userPath("holdfast-lab", "/tmp"), name) }

// dirOf finds a registered lab's directory.
func (r registry) dirOf(name string) (string, bool) {
	dir, err := os.Readlink(filepath.Join(string(r), name))
	return dir, err == nil
}

// names of all registered labs, sorted.
func (r registry) names() []string {
	entries, _ := os.ReadDir(string(r))
	var out []string
	for _, e := range entries {
		if e.Type() == fs.ModeSymlink {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out
}

// enter registers a lab. The caller holds its lock.
func (r registry) enter(name, dir string) error {
	path := filepath.Join(string(r), name)
	_ = os.Remove(path)
	return os.Symlink(dir, path)
}

// forget removes every trace of a lab. The caller holds its lock, which ends with this.
func (r registry) forget(name string) error {
	var errs []error
	for _, f := range []string{name, name + ".owner", name + ".lock"} {
		if err := os.Remove(filepath.Join(string(r), f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove(string(r)) // if it is empty
	return errors.Join(errs...)
}

// leave removes a lab from the registry, and what all labs share if it was the last.
func (r registry) leave(name string) error {
	all, err := r.lock("all", "labs", true)
	if err != nil {
		return err
	}
	defer all.Close()
	if others := r.names(); len(others) == 0 || len(others) == 1 && others[0] == name {
		removeStateMount(r)
		_ = os.Remove(all.Name())
	}
	return r.forget(name)
}

// stateMount is where the state of a node is inside of it. The directory is
// made when the machine has none, and removed with the last lab.
const stateMount = "/var/lib/holdfast"

const stateMountMade = "made-var-lib-holdfast"

func makeStateMount(reg registry) error {
	err := os.Mkdir(stateMount, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(string(reg), stateMountMade), nil, 0o600)
}

func removeStateMount(reg registry) {
	mark := filepath.Join(string(reg), stateMountMade)
	if _, err := os.Stat(mark); err != nil {
		return
	}
	_ = unix.Rmdir(stateMount) // not if somebody has put something there
	_ = os.Remove(mark)
}

var errHeld = errors.New("held by another process")

// lock takes NAME.WHAT. Without wait it returns errHeld at once if another
// process has it. The lock ends with Close, or with this process.
func (r registry) lock(name, what string, wait bool) (*os.File, error) {
	path := filepath.Join(string(r), name+"."+what)
	for {
		if err := os.MkdirAll(string(r), 0o700); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the registry was just removed
		}
		if err != nil {
			return nil, err
		}
		how := unix.LOCK_EX
		if !wait {
			how |= unix.LOCK_NB
		}
		for err = unix.Flock(int(f.Fd()), how); errors.Is(err, unix.EINTR); {
			err = unix.Flock(int(f.Fd()), how)
		}
		if err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errHeld
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// The file may have been removed while we waited: then it protects nothing.
		mine, err1 := f.Stat()
		now, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, now) {
			return f, nil
		}
		f.Close()
	}
}

// free says whether nobody holds NAME.WHAT.
func (r registry) free(name, what string) bool {
	if _, err := os.Stat(filepath.Join(string(r), name+"."+what)); err != nil {
		return true
	}
	f, err := r.lock(name, what, false)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
