//go:build linux

package guardd

import (
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	schedOther = 0
	schedRR    = 2
	// priority among real-time threads: above what is merely urgent, below the
	// kernel's own and below a watchdog.
	priority = 20
)

// takePrivileges makes heartbeats independent of what else the machine does. What
// is not permitted is returned as conditions for people.
func takePrivileges() (conditions []string) {
	if err := realtime(); err != nil {
		conditions = append(conditions, fmt.Sprintf("heartbeats run without real-time priority: %v; a busy node may look dead", err))
	}
	if err := lockMemory(); err != nil {
		conditions = append(conditions, fmt.Sprintf("guard's memory is not locked: %v; a node that swaps may look dead", err))
	}
	// Not worth a condition: guard is small, the kernel rarely picks it.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0o644)
	return conditions
}

// realtime gives every thread of this process SCHED_RR; threads made later inherit
// it from the ones that make them. All of them, since Go may move what the heartbeat
// thread needs onto any.
func realtime() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := setScheduler(tid, schedRR, priority); err != nil && err != unix.ESRCH {
			return err
		}
	}
	return nil
}

// setScheduler of a thread; 0: the calling one.
func setScheduler(tid, policy, priority int) error {
	param := struct{ priority int32 }{int32(priority)}
	_, _, e := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, uintptr(tid), uintptr(policy), uintptr(unsafe.Pointer(&param)))
	if e != 0 {
		return e
	}
	return nil
}

// lockMemory locks pages as they are touched. Go reserves much more than it uses,
// so locking without ONFAULT would cost hundreds of MiB, and with a limit on locked
// memory the next reservation would fail and end the process.
func lockMemory() error {
	const mclOnFault = 4
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited); err != nil {
		var have unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &have) != nil || have.Cur != unix.RLIM_INFINITY {
			return fmt.Errorf("locked memory is limited to %d KiB", have.Cur>>10)
		}
	}
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | mclOnFault)
}
