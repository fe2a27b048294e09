package agents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// soon is how long a program may run before somebody reads what it prints; until then that waits in the pipe.
	soon = 20 * time.Millisecond
	// outputDelay is how long what a program has printed is waited for when it has ended, but somebody else might still print.
	outputDelay = 200 * time.Millisecond
)

// child is a program that this process has started. Waiting for it holds no thread.
type child struct {
	pid    int
	direct bool // born in its control group
	// end is a pidfd: readable once it has ended.
	end *os.File
	// output is the reading end of the pipe that it prints to; -1: there is none, or reader reads it.
	output int
	reader *os.File
	read   chan struct{}
}

// invocation is what is started, once all is known about it.
type invocation struct {
	argv  []string
	dir   string
	env   []string
	input int // a file; -1: nothing
	log   int // a file that it prints to; -1: a pipe
	sys   syscall.SysProcAttr
}

// spawn starts a program. It has to be waited for and released, or handed over.
func spawn(c invocation) (*child, error) {
	var err error
	if c.input < 0 {
		if c.input, err = unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return nil, err
		}
		defer unix.Close(c.input)
	}
	out := &child{output: -1}
	if c.log < 0 {
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			return nil, err
		}
		out.output, c.log = ends[0], ends[1]
		defer unix.Close(c.log)
		if err := unix.SetNonblock(out.output, true); err != nil {
			unix.Close(out.output)
			return nil, err
		}
	}
	pidfd := -1
	c.sys.PidFD = &pidfd
	out.pid, err = syscall.ForkExec(c.argv[0], c.argv, &syscall.ProcAttr{
		Dir: c.dir, Env: c.env, Files: []uintptr{uintptr(c.input), uintptr(c.log), uintptr(c.log)}, Sys: &c.sys,
	})
	if err == nil && pidfd < 0 {
		pidfd, err = unix.PidfdOpen(out.pid, 0)
	}
	if err == nil {
		err = unix.SetNonblock(pidfd, true)
	}
	if err != nil {
		if out.output >= 0 {
			unix.Close(out.output)
		}
		if out.pid > 0 {
			_ = unix.Kill(out.pid, unix.SIGKILL)
			_, _ = unix.Wait4(out.pid, nil, 0, nil)
		}
		return nil, err
	}
	out.end = os.NewFile(uintptr(pidfd), "pidfd")
	return out, nil
}

// wait waits until the program has ended, and reaps it. tail gets what it prints in the meantime; the rest is for
// rest. err: ctx has ended, and the program has not.
func (c *child) wait(ctx context.Context, tail *tailBuffer) (syscall.WaitStatus, error) {
	stop := context.AfterFunc(ctx, func() { c.deadline(time.Unix(1, 0)) })
	defer stop()
	if c.output >= 0 {
		c.deadline(time.Now().Add(soon))
		if ws, err := c.ended(); err == nil {
			return ws, nil
		}
		c.follow(tail)
		c.deadline(time.Time{})
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	ws, err := c.ended()
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return ws, err
}

func (c *child) deadline(t time.Time) { _ = c.end.SetReadDeadline(t) } // fails only for what is closed

// ended waits for the end until the deadline, and reaps it.
func (c *child) ended() (syscall.WaitStatus, error) {
	raw, err := c.end.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
	if err != nil {
		return 0, err
	}
	var ws unix.WaitStatus
	for {
		_, err = unix.Wait4(c.pid, &ws, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return syscall.WaitStatus(ws), err
		}
	}
}

// follow reads what the program prints from now on.
func (c *child) follow(tail *tailBuffer) {
	c.reader, c.output, c.read = os.NewFile(uintptr(c.output), "output"), -1, make(chan struct{})
	go func() {
		defer close(c.read)
		b := make([]byte, 16<<10)
		for {
			n, err := c.reader.Read(b)
			tail.add(b[:n])
			if err != nil {
				return
			}
		}
	}()
}

// rest reads what the program and all that it started have printed before they ended. Afterwards nobody adds to tail.
func (c *child) rest(tail *tailBuffer) {
	if c.reader != nil {
		select {
		case <-c.read:
		case <-time.After(outputDelay):
			_ = c.reader.SetReadDeadline(time.Unix(1, 0))
			<-c.read
		}
		return
	}
	var b [4 << 10]byte
	for range 1024 { // more than a pipe holds
		if c.output < 0 {
			return
		}
		n, err := unix.Read(c.output, b[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case n <= 0 || err != nil:
			return
		default:
			tail.add(b[:n])
		}
	}
}

// release closes what belongs to a program that has been waited for, or that somebody else waits for.
func (c *child) release() {
	_ = c.end.Close()
	if c.reader != nil {
		_ = c.reader.Close()
	}
	if c.output >= 0 {
		unix.Close(c.output)
		c.output = -1
	}
}

// abandon reaps a program that would not end when it was killed, whenever it does.
func (c *child) abandon() {
	c.deadline(time.Time{})
	go func() {
		_, _ = c.ended()
		c.release()
	}()
}

// inWords says why a program could not be started, and what to do.
func inWords(program string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		if _, serr := os.Stat(program); serr == nil {
			return fmt.Errorf("%s can't be run: the interpreter that its first line names does not exist on this node", program)
		}
		return fmt.Errorf("%s does not exist on this node", program)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%s can't be run: it is neither a program for this machine nor a script with an interpreter in its first line (#!)", program)
	case errors.Is(err, unix.ETXTBSY):
		return fmt.Errorf("%s can't be run: it is being written to (text file busy)", program)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s can't be run: permission denied; is it an executable file?", program)
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("%s can't be run: its arguments and attributes are too long for the kernel", program)
	}
	return fmt.Errorf("%s can't be run: %w", program, err)
}

// executable finds out whether a program can be run, as far as its file tells.
func executable(name string) error {
	st, err := os.Stat(name)
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not an executable file", name)
	}
	return nil
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	size int
	b    []byte
}

func (t *tailBuffer) add(b []byte) {
	t.b = append(t.b, b[max(0, len(b)-t.size):]...)
	if len(t.b) > 2*t.size {
		t.b = append(t.b[:0], t.b[len(t.b)-t.size:]...)
	}
}

func (t *tailBuffer) Write(b []byte) (int, error) {
	t.add(b)
	return len(b), nil
}

func (t *tailBuffer) String() string { return printable(t.b[max(0, len(t.b)-t.size):]) }
