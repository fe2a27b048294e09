package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The lab's power switch stands beside the nodes, as a real one does: a process
// outside of them that kills and boots them when its agent asks for it. The agent is
// DIR/fence_lab, of the fence-agents standard, and runs on the nodes; between them is
// a socket in the lab's directory.

// Hidden subcommands of the switch and of its agent.
const (
	powerCommand = "power-switch"
	agentCommand = "fence-agent"
)

const (
	powerMarker = "/power-switch" // in place of a node's name
	powerLimit  = 20 * time.Second
)

func powerSocket(dir string) string { return filepath.Join(dir, "power.sock") }

// FenceAgent of a lab in dir that was made with Tuning.Fencing.
func FenceAgent(dir string) string { return filepath.Join(dir, "fence_lab") }

// startPower writes the agent and starts the switch.
func (l *Lab) startPower() error {
	script := fmt.Sprintf("#!/bin/sh\nexec %s lab %s --name %s --dir %s\n", shellQuote(l.rec.Binary), agentCommand, shellQuote(l.Name()), shellQuote(l.Dir()))
	if err := os.WriteFile(FenceAgent(l.Dir()), []byte(script), 0o700); err != nil {
		return err
	}
	ready, said, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer said.Close()
	cmd := &exec.Cmd{Path: l.rec.Binary, Args: []string{"holdfast", "lab", powerCommand, "--name", l.Name(), "--dir", l.Dir()}, Dir: "/",
		Env: append(os.Environ(), marker(l.Name(), powerMarker)), ExtraFiles: []*os.File{said}, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	if err := cmd.Start(); err != nil {
		return err
	}
	said.Close()
	go func() { _ = cmd.Wait() }()
	if err := awaitReady(ready, bootLimit); err != nil {
		return fmt.Errorf("the power switch: %w", err)
	}
	return nil
}

// stopPower ends the switch, if there is one.
func (l *Lab) stopPower() {
	if _, err := os.Stat(FenceAgent(l.Dir())); err != nil {
		return
	}
	for _, pid := range marked(marker(l.Name(), powerMarker)) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// runPower is the switch.
func runPower(ctx context.Context, name, dir string) error {
	ready := os.NewFile(readyFD, "ready")
	unix.CloseOnExec(readyFD)
	l, err := Open(name, dir)
	var listener *net.UnixListener
	if err == nil {
		listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: powerSocket(l.Dir()), Net: "unix"})
	}
	if err != nil {
		fmt.Fprintln(ready, err)
		return err
	}
	fmt.Fprint(ready, readyWord)
	ready.Close()
	context.AfterFunc(ctx, func() { listener.Close() })
	for { // one after the other: a Lab is for one user at a time
		c, err := listener.AcceptUnix()
		if err != nil {
			return nil
		}
		_ = c.SetDeadline(time.Now().Add(powerLimit))
		if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			fmt.Fprintln(c, l.power(strings.Fields(line)))
		}
		c.Close()
	}
}

// power does what an agent asks for: "off n1". It answers "on", "off", or what went wrong.
func (l *Lab) power(words []string) string {
	if len(words) != 2 {
		return "error: ACTION NODE"
	}
	action, node := words[0], words[1]
	if err := l.Reload(); err != nil {
		return "error: " + err.Error()
	}
	state, err := l.State(node)
	switch {
	case err != nil:
	case action == "off":
		_, err = l.Kill(node)
	case action == "on" && state == Off:
		err = l.Start(node)
	}
	if err == nil {
		state, err = l.State(node)
	}
	if err != nil {
		return "error: " + err.Error()
	}
	if state == Off {
		return "off"
	}
	return "on"
}

// agentMetadata is how the agent describes itself.
const agentMetadata = `<?xml version="1.0" ?>
<resource-agent name="fence_lab" shortdesc="Power switch of a holdfast lab">
<parameters>
  <parameter name="action" required="1"><content type="string" default="off"/><shortdesc lang="en">What to do</shortdesc></parameter>
  <parameter name="plug" required="1"><content type="string"/><shortdesc lang="en">Name of the node</shortdesc></parameter>
  <parameter name="lie" required="0"><content type="boolean" default="0"/><shortdesc lang="en">Say that it is off and do nothing, to try what comes of that</shortdesc></parameter>
</parameters>
<actions><action name="on"/><action name="off"/><action name="reboot"/><action name="status"/><action name="monitor"/><action name="metadata"/></actions>
</resource-agent>
`

// runAgent is the agent: it returns its exit status.
func runAgent(dir string, in io.Reader, out, errs io.Writer) int {
	p := map[string]string{"action": "off"}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if key, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "="); ok {
			p[key] = value
		}
	}
	fail := func(err error) int {
		fmt.Fprintln(errs, err)
		return 1
	}
	switch action := p["action"]; action {
	case "metadata":
		fmt.Fprint(out, agentMetadata)
		return 0
	case "monitor":
		c, err := net.Dial("unix", powerSocket(dir))
		if err != nil {
			return fail(err)
		}
		c.Close()
		return 0
	case "off", "on", "status", "reboot":
		if p["lie"] == "1" && action != "on" {
			return map[string]int{"status": 2}[action]
		}
		if action == "reboot" {
			if state, err := ask(dir, "off", p["plug"]); err != nil || state != "off" {
				return fail(errors.Join(err, fmt.Errorf("%s is %s", p["plug"], state)))
			}
			action = "on"
		}
		state, err := ask(dir, action, p["plug"])
		if err != nil {
			return fail(err)
		}
		fmt.Fprintln(out, "Status:", strings.ToUpper(state))
		switch {
		case action == "status" && state == "off":
			return 2
		case action != "status" && state != action:
			return fail(fmt.Errorf("%s is %s", p["plug"], state))
		}
		return 0
	default:
		return fail(fmt.Errorf("no action %q", action))
	}
}

// ask the switch.
func ask(dir, action, node string) (string, error) {
	if node == "" {
		return "", errors.New("no plug is given")
	}
	c, err := net.Dial("unix", powerSocket(dir))
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(powerLimit))
	if _, err := fmt.Fprintln(c, action, node); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the power switch: %w", err)
	}
	line = strings.TrimSpace(line)
	if text, failed := strings.CutPrefix(line, "error: "); failed {
		return "", errors.New(text)
	}
	return line, nil
}
