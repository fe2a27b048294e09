package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// metadataTime is how long an agent may take to describe itself.
const metadataTime = 10 * time.Second

// ImportOCF asks the OCF agent "PROVIDER:AGENT" of this machine for its description and makes a type of it. Notes are what
// a person should know. An agent that can be promoted is refused unless plain says that it is to be used without that.
func ImportOCF(ctx context.Context, name string, plain bool) (t *v1.ResourceType, notes []string, err error) {
	return importOCF(ctx, ocfRoot, name, plain)
}

func importOCF(ctx context.Context, root, name string, plain bool) (*v1.ResourceType, []string, error) {
	provider, program, ok := strings.Cut(strings.TrimPrefix(name, "ocf:"), ":")
	if !ok {
		provider, program = "heartbeat", strings.TrimPrefix(name, "ocf:")
	}
	if !plainFile(provider) || !plainFile(program) {
		return nil, nil, fmt.Errorf("%q does not name an agent: write PROVIDER:AGENT, as heartbeat:IPaddr2", name)
	}
	file := filepath.Join(root, "resource.d", provider, program)
	if err := executable(file); err != nil {
		return nil, nil, fmt.Errorf("there is no agent %s:%s on this machine (%w)%s", provider, program, err, similar(filepath.Dir(file), program))
	}
	out, err := describeOCF(ctx, root, file, provider, program)
	if err != nil {
		return nil, nil, err
	}
	m, err := parseOCF(out)
	if err != nil {
		return nil, nil, fmt.Errorf("%s meta-data: %w", file, err)
	}
	switch promotable, alone := m.promotable(); {
	case promotable && !alone:
		return nil, nil, fmt.Errorf("%s:%s runs promoted and demoted only (master and slave), which Holdfast does not do", provider, program)
	case promotable && !plain:
		return nil, nil, fmt.Errorf("%s:%s can be promoted (master and slave), and Holdfast uses agents in their plain mode only; if it is of use without being promoted, as pgsql is, say so with --plain", provider, program)
	}
	t, notes := m.resourceType(provider, program)
	return t, notes, nil
}

// similar lists agents of a provider that may have been meant.
func similar(dir, program string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "; install the package that has it (resource-agents), or look at another node"
	}
	var names []string
	for _, e := range entries {
		if strings.EqualFold(e.Name(), program) || strings.HasPrefix(strings.ToLower(e.Name()), strings.ToLower(program[:min(3, len(program))])) {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return "; there is " + strings.Join(names[:min(len(names), 8)], ", ")
}

// describeOCF runs the agent with meta-data. It must end soon and print little.
func describeOCF(ctx context.Context, root, file, provider, program string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, "meta-data")
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "SHELL=/bin/sh",
		"OCF_ROOT=" + root, "OCF_RA_VERSION_MAJOR=1", "OCF_RA_VERSION_MINOR=1", "OCF_EXIT_REASON_PREFIX=" + ocfReason,
		"OCF_RESOURCE_INSTANCE=RESOURCE", "OCF_RESOURCE_TYPE=" + program, "OCF_RESOURCE_PROVIDER=" + provider, "HA_RSCTMP=" + ocfState,
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out := &bounded{most: maxMetadata + 1, full: cancel}
	said := &tailBuffer{size: tailSize}
	cmd.Stdout, cmd.Stderr = out, said
	err := cmd.Run()
	if len(out.b) > maxMetadata {
		return nil, fmt.Errorf("%s meta-data prints more than %d KiB", file, maxMetadata>>10)
	}
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%s meta-data does not end within %s", file, metadataTime)
	case errors.As(err, &exit):
		return nil, fmt.Errorf("%s meta-data %s: %s", file, describeExit(exit.Sys().(syscall.WaitStatus)), lastLines(said.String()))
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, inWords(file, err)
	}
	return out.b, nil
}

// bounded keeps the beginning of what is written to it, and says when there is too much.
type bounded struct {
	b    []byte
	most int
	full func()
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.most-len(b.b))
	b.b = append(b.b, p[:n]...)
	if n < len(p) {
		b.full()
		return n, io.ErrShortWrite
	}
	return n, nil
}

// OCFAgents are the agents of this machine, as ImportOCF takes them.
func OCFAgents() (out []string) {
	files, err := filepath.Glob(filepath.Join(ocfRoot, "resource.d", "*", "*"))
	if err != nil {
		return nil
	}
	for _, f := range files {
		provider, program := filepath.Base(filepath.Dir(f)), filepath.Base(f)
		if plainFile(provider) && plainFile(program) && executable(f) == nil {
			out = append(out, provider+":"+program)
		}
	}
	return out
}
